"""A pile of planes in order: every fault that would move a voxel is found here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import Affine
from medseg.io.dicom_phases import choose_phase, find_phases, refuse_phase
from medseg.io.dicom_pixels import decode_planes
from medseg.io.dicom_planes import Plane

EVEN = 5e-4  # of cosines, and of steps and spacings by their own size
_SAME_PLACE_MM = 0.01
_UNEVEN_SHARE = 0.1
DRIFT_MM = 0.1
_MANY_GAPS_SHARE = 0.2
_EXPORT = "Export the series again, complete and by itself."
_REPAIR = "Export the series again, or repair it with --fix-geometry (resamples onto a straight, even grid)."


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
    """Refuse slices that cannot be one stack.

    Raises:
        InputError: E-SERIES-SIZE.
        GeometryError: E-SERIES-IOP or E-SERIES-SPACING.
    """
    sizes = {(plane.file.rows, plane.file.columns) for plane in planes}
    if len(sizes) > 1:
        message = f"its slices differ in size: {sorted(sizes)}"
        raise InputError(message, code="E-SERIES-SIZE", file=path, remedy=_EXPORT)
    orientations = np.array([plane.orientation for plane in planes])
    if np.abs(orientations - np.median(orientations, axis=0)).max() > EVEN:
        message = f"its slices are tilted against one another: {_distinct(orientations.reshape(-1, 6))}"
        raise GeometryError(message, code="E-SERIES-IOP", file=path, remedy=_EXPORT)
    spacings = np.array([plane.spacing_mm for plane in planes])
    if np.abs(spacings - spacings[0]).max() > EVEN * spacings[0].max():
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
    if gaps.size or (np.abs(steps - usual) > _UNEVEN_SHARE * usual).any() or drift_mm > max(DRIFT_MM, 0.05 * usual):
        message = f"its slices lie {steps.min():.3g} to {steps.max():.3g} mm apart"
        raise GeometryError(message, code="E-SERIES-SPACING", file=path, remedy=_REPAIR)
    positions = np.array([plane.position for plane in planes])
    line = np.linspace(positions[0], positions[-1], len(positions))
    off_mm = float(np.linalg.norm(positions - line, axis=1).max())
    if off_mm > max(DRIFT_MM, 0.05 * usual) + drift_mm:
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
