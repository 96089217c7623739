"""A pile of planes in order: every fault that would move a voxel is found here, and some are repaired on request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import Affine
from medseg.io.dicom_phases import choose_phase, find_phases, refuse_phase
from medseg.io.dicom_pixels import decode_planes
from medseg.io.dicom_planes import Plane

_COSINE_TOLERANCE = 5e-4
_SAME_PLACE_MM = 0.01
_UNEVEN_SHARE = 0.1
_DRIFT_MM = 0.1
_MANY_GAPS_SHARE = 0.2
_EXPORT = "Export the series again, complete and by itself."
_REPAIR = "Export the series again, or ask for geometry repair (resamples onto an even grid)."


def one_pile(planes: Sequence[Plane], path: Path, phase: str | None = None) -> tuple[list[Plane], tuple[str, ...]]:
    """Planes of one size, orientation and phase, sorted along their normal, each place once.

    Raises:
        InputError: `E-SERIES-SIZE`, `E-SERIES-4D`, `E-PHASE` or `E-SERIES-DUP`.
        GeometryError: `E-SERIES-IOP`, `E-SERIES-SPACING`.
    """
    require_alike(planes, path)
    places = sort_places(planes)
    if is_repeated(places) and (phases := find_phases(places)):
        places = sort_places(choose_phase(phases, phase, path))
    else:
        refuse_phase(phase, path)
    repeated = [place for place in places if len(place) > 1]
    for place in repeated:
        pixels, _ = decode_planes(place)
        if not all(np.array_equal(pixels[0], other) for other in pixels[1:]):
            names = ", ".join(plane.path.name for plane in place)
            message = f"{names} lie in one place and show different pixels"
            raise InputError(message, code="E-SERIES-DUP", file=path, remedy=_EXPORT)
    return [place[0] for place in places], ("W-DUPLICATE",) if repeated else ()


def sort_places(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Planes by place, in the order of the places along the normal."""
    normal = planes[0].normal
    places: list[list[Plane]] = []
    for plane in sorted(planes, key=lambda plane: float(plane.position @ normal)):
        if places and np.linalg.norm(plane.position - places[-1][0].position) < _SAME_PLACE_MM:
            places[-1].append(plane)
        else:
            places.append([plane])
    return places


def is_repeated(places: Sequence[Sequence[Plane]]) -> bool:
    """Whether whole volumes share their places, rather than a slice or two."""
    return len(places) > 1 and sum(len(place) > 1 for place in places) > len(places) / 2


def require_alike(planes: Sequence[Plane], path: Path) -> None:
    sizes = {(plane.file.rows, plane.file.columns) for plane in planes}
    if len(sizes) > 1:
        message = f"its slices differ in size: {sorted(sizes)}"
        raise InputError(message, code="E-SERIES-SIZE", file=path, remedy=_EXPORT)
    orientations = np.array([plane.orientation for plane in planes])
    if np.abs(orientations - np.median(orientations, axis=0)).max() > _COSINE_TOLERANCE:
        message = f"its slices are tilted against one another: {_distinct(orientations.reshape(-1, 6))}"
        raise GeometryError(message, code="E-SERIES-IOP", file=path, remedy=_EXPORT)
    spacings = np.array([plane.spacing_mm for plane in planes])
    if np.abs(spacings - spacings[0]).max() > _COSINE_TOLERANCE * spacings[0].max():
        message = f"its slices differ in PixelSpacing: {_distinct(spacings)}"
        raise GeometryError(message, code="E-SERIES-SPACING", file=path, remedy=_EXPORT)


def _distinct(rows: NDArray[np.float64]) -> str:
    found, counts = np.unique(rows.round(4) + 0.0, axis=0, return_counts=True)
    order = np.argsort(-counts)[:6]
    return ", ".join(f"{counts[index]} at {found[index].tolist()}" for index in order)


def require_even(planes: Sequence[Plane], path: Path) -> None:
    """Steps between slices must be one length, and along one line.

    Raises:
        GeometryError: `E-SERIES-GAP`, `E-SERIES-SPACING`.
    """
    heights = heights_of(planes)
    steps = np.diff(heights)
    usual = float(np.median(steps))
    gaps = np.flatnonzero(steps > (1 + _UNEVEN_SHARE) * usual)
    is_multiple = np.abs(steps[gaps] / usual - np.rint(steps[gaps] / usual)) < _UNEVEN_SHARE
    if gaps.size and is_multiple.all() and gaps.size <= max(1, _MANY_GAPS_SHARE * steps.size):
        missing = [h for gap in gaps for h in np.arange(heights[gap] + usual, heights[gap + 1] - usual / 2, usual)]
        named = ", ".join(f"{height:.2f}" for height in missing[:8])
        message = (
            f"{len(missing)} slice(s) are missing, at {named} mm along the normal (slices lie {usual:.3g} mm apart)"
        )
        raise GeometryError(message, code="E-SERIES-GAP", file=path, remedy=_REPAIR)
    even = np.linspace(heights[0], heights[-1], len(heights))
    drift_mm = float(np.abs(heights - even).max())
    if gaps.size or (np.abs(steps - usual) > _UNEVEN_SHARE * usual).any() or drift_mm > max(_DRIFT_MM, 0.05 * usual):
        message = f"its slices lie {steps.min():.3g} to {steps.max():.3g} mm apart"
        raise GeometryError(message, code="E-SERIES-SPACING", file=path, remedy=_REPAIR)
    positions = np.array([plane.position for plane in planes])
    line = np.linspace(positions[0], positions[-1], len(positions))
    off_mm = float(np.linalg.norm(positions - line, axis=1).max())
    if off_mm > max(_DRIFT_MM, 0.05 * usual) + drift_mm:
        message = f"its slices do not lie on one line: one is {off_mm:.2f} mm off"
        raise GeometryError(message, code="E-SERIES-SPACING", file=path, remedy=_REPAIR)


def heights_of(planes: Sequence[Plane]) -> NDArray[np.float64]:
    return np.array([float(plane.position @ planes[0].normal) for plane in planes])


def affine_lps(planes: Sequence[Plane], path: Path) -> tuple[Affine, tuple[str, ...]]:
    """Index (column, row, slice) to LPS mm: the equation of PS3.3 C.7.6.2.1.1, the last axis from the positions.

    Raises:
        GeometryError: `E-SPACING` when a lone slice has no thickness.
    """
    first, last = planes[0], planes[-1]
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[0] * first.spacing_mm[1]
    affine[:3, 1] = first.orientation[1] * first.spacing_mm[0]
    affine[:3, 3] = first.position
    if len(planes) == 1:
        if not first.thickness_mm:
            message = "its only slice has no SliceThickness"
            raise GeometryError(message, code="E-SPACING", file=path, remedy=_EXPORT)
        affine[:3, 2] = first.normal * first.thickness_mm
        return affine, ()
    step = (last.position - first.position) / (len(planes) - 1)
    affine[:3, 2] = step
    overlaps = first.thickness_mm is not None and first.thickness_mm > 1.05 * float(step @ first.normal)
    return affine, ("W-OVERLAP",) if overlaps else ()


def straighten(
    values: NDArray[Any], planes: Sequence[Plane], path: Path
) -> tuple[NDArray[Any], Affine, tuple[str, ...]]:
    """Resample (K, rows, columns) linearly onto the straight, even grid of the usual step; what is even stays as it is.

    Slices that drift sideways (gantry tilt) are shifted within their plane, onto a canvas that holds all of them; the
    new border takes the smallest value of the image. Places between slices are interpolated along the normal.
    """
    affine, remarks = affine_lps(planes, path)
    if len(planes) == 1:
        return values, affine, remarks
    normal = planes[0].normal
    heights = heights_of(planes) - float(planes[0].position @ normal)
    offsets = np.array([plane.position - planes[0].position for plane in planes]) - heights[:, np.newaxis] * normal
    # sideways drift of each slice in columns and rows of pixels
    shifts = offsets @ planes[0].orientation.T / np.array(planes[0].spacing_mm[::-1])
    if np.abs(shifts).max() > _DRIFT_MM / max(planes[0].spacing_mm):
        values, start = _shifted(values, shifts)
        affine[:3, 3] = planes[0].position + affine[:3, 0] * start[0] + affine[:3, 1] * start[1]
        remarks = (*remarks, "W-TILT-STRAIGHTENED")
    steps = np.diff(heights)
    usual = float(np.median(steps))
    if (np.abs(steps - usual) > _COSINE_TOLERANCE * usual).any():
        count = int(np.rint(heights[-1] / usual)) + 1
        values = _interpolated(values, heights, np.linspace(0, heights[-1], count))
        usual = float(heights[-1]) / (count - 1)
        remarks = (*remarks, "W-GAPS-FILLED")
    affine[:3, 2] = normal * usual
    return values, affine, remarks


def _shifted(values: NDArray[Any], shifts: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.int_]]:
    """Every slice moved by its own (columns, rows), and the index of the canvas's corner."""
    low, high = np.floor(shifts.min(axis=0)).astype(int), np.ceil(shifts.max(axis=0)).astype(int)
    num_planes, rows, columns = values.shape
    border = float(values.min())
    canvas = np.full((num_planes, rows + high[1] - low[1], columns + high[0] - low[0]), border, np.float32)
    canvas[:, -low[1] : rows - low[1], -low[0] : columns - low[0]] = values
    for plane, (across, down) in zip(canvas, shifts, strict=True):
        plane[...] = ndimage.shift(plane, (down, across), order=1, cval=border)
    return canvas, low


def _interpolated(
    values: NDArray[Any], heights: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float32]:
    after = np.clip(np.searchsorted(heights, wanted), 1, len(heights) - 1)
    share = (wanted - heights[after - 1]) / (heights[after] - heights[after - 1])
    weights = share.astype(np.float32)[:, np.newaxis, np.newaxis]
    return np.asarray(values[after - 1] * (1 - weights) + values[after] * weights, dtype=np.float32)
