"""Cutting a volume into the three planes a radiologist reads, and choosing the slices that tell most.

Everything here works on arrays in canonical order (axes run to the patient's Right, Anterior, Superior), reached by
transposition and flips only: no voxel is interpolated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    from medseg.core.geometry import Geometry

Box = tuple[slice, slice, slice]
WHOLE: Box = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class Plane:
    """One of the three orthogonal views.

    Attributes:
        name: As in a sentence.
        axis: Canonical axis that is cut.
        across: Canonical axis shown from left to right, and the one shown from top to bottom; both run against RAS+.
        edges: Anatomical letters at the left, right, top and bottom edge.
    """

    name: str
    axis: int
    across: tuple[int, int]
    edges: str


# Radiological display: the patient's right on the picture's left; sagittal seen from the patient's left.
PLANES = (
    Plane("axial", 2, (0, 1), "RLAP"),
    Plane("coronal", 1, (0, 2), "RLSI"),
    Plane("sagittal", 0, (1, 2), "APSI"),
)


def canonical_view(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """(I, J, K) in the file's order to a view in RAS+ order."""
    order, flips = geometry.canonical_axes()
    return np.flip(array.transpose(order), flips)


def cut(array: NDArray[Any], plane: Plane, index: int, box: Box = WHOLE) -> NDArray[Any]:
    """One slice of a canonical array, inside the box, to (rows, columns) as displayed."""
    where: list[slice | int] = list(box)
    where[plane.axis] = index
    return np.asarray(array[tuple(where)].T[::-1, ::-1])


def source_slice(geometry: Geometry, plane: Plane, index: int) -> str:
    """The name of a canonical slice in the file's own axes, counted from 1 as viewers do: `k 12 of 36`."""
    order, flips = geometry.canonical_axes()
    axis = order[plane.axis]
    size = geometry.shape[axis]
    return f"{'ijk'[axis]} {size - index if plane.axis in flips else index + 1} of {size}"


def tilt_degrees(geometry: Geometry, plane: Plane) -> float:
    """Angle between the plane's normal and the anatomical axis it is named after."""
    cosine = abs(geometry.canonical().direction[plane.axis, plane.axis])
    return float(np.degrees(np.arccos(min(1.0, cosine))))


def telling_slices(masks: list[NDArray[Any]]) -> tuple[int, int, int]:
    """Per canonical axis the slice that shows most of every label; the middle when all masks are empty.

    Each label counts by its area relative to its own largest area, so a small lesion weighs as much as a large organ.
    """
    scores = [np.zeros(size) for size in masks[0].shape]
    for mask in masks:
        for value, box in _label_boxes(mask):
            for axis, profile in enumerate(_profiles(mask[box] == value)):
                scores[axis][box[axis]] += profile / profile.max()
    return _peaks(scores)


def differing_slices(first: NDArray[Any], second: NDArray[Any]) -> tuple[int, int, int] | None:
    """Per canonical axis the slice that differs most; None when none does.

    Each label counts by the share of its voxels that differ, so a lesion in the wrong place outweighs a rim of a large
    organ.
    """
    scores = [np.zeros(size) for size in first.shape]
    boxes = dict(_label_boxes(first))
    for value, box in _label_boxes(second):
        boxes[value] = _union([boxes[value], box]) if value in boxes else box
    for value, box in boxes.items():
        mine, other = first[box] == value, second[box] == value
        size = np.count_nonzero(mine | other)
        for axis, profile in enumerate(_profiles(mine != other)):
            scores[axis][box[axis]] += profile / size
    return _peaks(scores) if scores[0].any() else None


def foreground_box(masks: list[NDArray[Any]], values: Collection[int]) -> Box | None:
    """The smallest box around all voxels of all masks that hold one of the values."""
    boxes = [box for mask in masks for value, box in _label_boxes(mask) if value in values]
    return _union(boxes) if boxes else None


def closer_box(box: Box, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Box:
    """The box with a quarter of its longest side, and at least 10 mm, of surroundings, kept inside the volume."""
    lengths_mm = [(side.stop - side.start) * spacing for side, spacing in zip(box, spacing_mm, strict=True)]
    margin_mm = max(10.0, max(lengths_mm) / 4)
    pads = [round(margin_mm / spacing) for spacing in spacing_mm]
    i, j, k = (
        slice(max(0, side.start - pad), min(size, side.stop + pad))
        for side, pad, size in zip(box, pads, shape, strict=True)
    )
    return i, j, k


def _label_boxes(mask: NDArray[Any]) -> Iterator[tuple[int, Box]]:
    """Every value of the mask but 0 with the smallest box around it."""
    # Axes in the order of memory: a NIfTI array read across it takes ten times as long.
    order = sorted(range(3), key=lambda axis: -abs(mask.strides[axis]))
    found = cast("list[Box | None]", ndimage.find_objects(mask.transpose(order)))
    i, j, k = (order.index(axis) for axis in range(3))
    return ((value, (box[i], box[j], box[k])) for value, box in enumerate(found, start=1) if box is not None)


def _union(boxes: list[Box]) -> Box:
    i, j, k = (slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3))
    return i, j, k


def _profiles(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Voxel counts of every slice along each axis."""
    columns = mask.sum(axis=2, dtype=np.float64)
    return [columns.sum(axis=1), columns.sum(axis=0), mask.sum(axis=(0, 1), dtype=np.float64)]


def _peaks(profiles: list[NDArray[np.float64]]) -> tuple[int, int, int]:
    """The middle of the (first) plateau of each profile's maximum."""
    i, j, k = (int(np.median(np.flatnonzero(profile == profile.max()))) for profile in profiles)
    return i, j, k
