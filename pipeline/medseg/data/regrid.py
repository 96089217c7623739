"""Masks onto the grid of their image: only where the headers leave one answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.doctor import Change
from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap

CLOSE_VOXELS = 0.1
_CODE = "E-GRID-MISMATCH"


def onto_grid(labels: LabelMap, image: Geometry) -> tuple[LabelMap, Change]:
    """A mask on its image's grid, voxel for voxel where both grids hold the same points.

    In this order: a grid within 0.1 voxel of the image's is taken for it; axes in another order or direction are
    exchanged; a mask of another shape is resampled by nearest neighbour.

    Args:
        labels: The mask, anywhere.
        image: Where it should lie.

    Raises:
        GeometryError: `E-GRID-MISMATCH` with the reason why its place cannot be told without guessing.
    """
    was = labels.geometry.describe()
    if _apart_voxels(labels.geometry, image) <= CLOSE_VOXELS:
        moved_mm = labels.geometry.deviation_mm(image)
        now = f"the image's grid, less than {CLOSE_VOXELS} voxel away"
        return _on(labels, labels.array, image), Change(code=_CODE, was=was, now=now, max_displacement_mm=moved_mm)
    turned = _turned(labels, image)
    if turned is not None:
        moved_mm = turned.geometry.deviation_mm(image)
        now = f"axes {image.axis_codes} as in the image; every voxel stays in its place in the patient"
        return _on(labels, turned.array, image), Change(code=_CODE, was=was, now=now, max_displacement_mm=moved_mm)
    if labels.geometry.shape == image.shape:
        raise _refusal(
            labels,
            f"it has the image's shape but lies elsewhere ({was}; the image: {image.describe()}): either its header is "
            "wrong or it belongs to another image",
        )
    return _resampled(labels, image)


def _apart_voxels(grid: Geometry, image: Geometry) -> float:
    """How far a corner lies from its twin, in voxels of the image; infinite when the shapes differ."""
    if grid.shape != image.shape:
        return float("inf")
    return float(np.linalg.norm(image.to_index(grid.corners_mm()) - image.to_index(image.corners_mm()), axis=1).max())


def _turned(labels: LabelMap, image: Geometry) -> LabelMap | None:
    """The mask with its axes exchanged and flipped to run as the image's; None when the points then differ."""
    matrix = np.linalg.inv(image.affine[:3, :3]) @ labels.geometry.affine[:3, :3]
    whole = np.rint(matrix).astype(int)
    if not (np.abs(whole).sum(axis=0) == 1).all() or not (np.abs(whole).sum(axis=1) == 1).all():
        return None
    order = [int(np.flatnonzero(row)[0]) for row in whole]
    flips = [axis for axis, source in enumerate(order) if whole[axis, source] < 0]
    array = np.flip(labels.array.transpose(order), tuple(flips))
    affine = labels.geometry.affine[:, [*order, 3]].copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
        affine[:3, axis] *= -1
    grid = Geometry((array.shape[0], array.shape[1], array.shape[2]), affine)
    return LabelMap(array, grid) if _apart_voxels(grid, image) <= CLOSE_VOXELS else None


def _resampled(labels: LabelMap, image: Geometry) -> tuple[LabelMap, Change]:
    """Every voxel of the image takes the mask's nearest one."""
    outside = _labelled_outside(labels, image)
    if outside:
        total = int(np.count_nonzero(labels.array))
        raise _refusal(labels, f"{outside} of its {total} labelled voxels lie outside the image")
    matrix = np.linalg.inv(labels.geometry.affine) @ image.affine
    array = ndimage.affine_transform(
        labels.array,
        matrix[:3, :3],
        matrix[:3, 3],
        image.shape,
        output=labels.array.dtype,
        order=0,
        mode="grid-constant",
        prefilter=False,
    )
    fitted = _on(labels, array, image)
    before, after = volumes_ml(labels), volumes_ml(fitted)
    if lost := sorted(before.keys() - after.keys()):
        raise _refusal(labels, f"on the image's coarser grid the labels {lost} would have no voxel left")
    sizes = ", ".join(f"{value}: {before[value]:.4g} to {after[value]:.4g} ml" for value in sorted(before)[:12])
    change = Change(
        code=_CODE,
        was=labels.geometry.describe(),
        now=f"the image's grid, nearest neighbour; {sizes or 'no label in it'}",
        max_displacement_mm=_displacement_mm(matrix, labels.geometry, image),
    )
    return fitted, change


def _displacement_mm(matrix: NDArray[np.float64], grid: Geometry, image: Geometry) -> float:
    """Farthest from a voxel of the image to the mask's nearest: half a diagonal, unless one grid continues the other.

    Args:
        matrix: (4, 4) index of the image to index of the mask.
        grid: The mask's.
        image: The image's.
    """
    whole = np.rint(matrix[:3, :3])
    corners = grid.to_index(image.corners_mm())
    rest = corners - np.rint(corners)
    if (np.abs(whole).sum(axis=0) == 1).all() and np.abs(rest).max() <= CLOSE_VOXELS:
        return float(np.linalg.norm(rest @ grid.affine[:3, :3].T, axis=1).max())
    return float(np.linalg.norm(grid.spacing_mm)) / 2


def volumes_ml(labels: LabelMap) -> dict[int, float]:
    """Millilitres by value, background left out."""
    counts = np.bincount(np.ravel(labels.array, order="K"))
    counts[0] = 0
    voxel_ml = labels.geometry.voxel_volume_mm3 / 1000
    return {int(value): float(counts[value]) * voxel_ml for value in np.flatnonzero(counts)}


def _labelled_outside(labels: LabelMap, image: Geometry) -> int:
    """How many labelled voxels have their centre beyond the image's outer faces."""
    index: NDArray[np.float64] = image.to_index(labels.geometry.to_world(np.argwhere(labels.array)))
    inside = (index >= -0.5 - CLOSE_VOXELS) & (index <= np.asarray(image.shape) - 0.5 + CLOSE_VOXELS)
    return int(np.count_nonzero(~inside.all(axis=1)))


def _on(labels: LabelMap, array: NDArray[np.integer], grid: Geometry) -> LabelMap:
    return LabelMap(np.asfortranarray(array), grid, labels.source, labels.warnings)


def _refusal(labels: LabelMap, message: str) -> GeometryError:
    return GeometryError(
        message,
        code=_CODE,
        file=labels.source,
        remedy="Pair the mask with the right image, or export it again on the image's grid.",
    )
