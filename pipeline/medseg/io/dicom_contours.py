"""Masks to closed contours and back: along the edges of the pixels, holes joined to the outside by a keyhole.

A contour goes round the pixels' edges, so that its area is the area of the pixels and it encloses exactly their
centres. Readers that fill by the even-odd rule, and those that fill polygon by polygon, find the same mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import Geometry, lps_to_ras
from medseg.io.dicom_headers import read_object, untrusted

_FLAT = 0.3  # voxels that the points of one contour may lie off their slice
_KINDS = {"CLOSED_PLANAR", "CLOSED_PLANAR_XOR", "CLOSEDPLANAR_XOR"}
_AGAIN = "Export the structure set again."
Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Structure:
    """One region of interest.

    Attributes:
        contours: Each (n, 3), LPS mm.
    """

    number: int
    name: str
    contours: tuple[Points, ...]


def read_structures(path: Path) -> tuple[Structure, ...]:
    """The regions of a structure set that have closed contours.

    Raises:
        InputError: `E-DICOM`, `E-CONTOUR`.
    """
    data = read_object(path)
    with untrusted(path, "its contours"):
        names = {int(item.ROINumber): str(item.get("ROIName", "")) for item in data.StructureSetROISequence}
        return tuple(
            Structure(number, names.get(number, f"ROI {number}"), tuple(_points(item, path) for item in contours))
            for region in data.ROIContourSequence
            for number, contours in [(int(region.ReferencedROINumber), region.get("ContourSequence") or ())]
            if any(str(item.ContourGeometricType) in _KINDS for item in contours)
        )


def _points(item: Any, path: Path) -> Points:
    kind = str(item.ContourGeometricType)
    points = np.array(item.ContourData, dtype=np.float64)
    if kind not in _KINDS or points.size < 9 or points.size % 3:
        message = f"a contour of {points.size} coordinates is no closed planar one, which alone encloses anything"
        raise InputError(message, code="E-CONTOUR", file=path, remedy=_AGAIN)
    return points.reshape(-1, 3)


def fill_contours(structure: Structure, onto: Geometry, path: Path) -> NDArray[np.bool_]:
    """(I, J, K) voxels whose centres the contours enclose; contours of one slice by the even-odd rule.

    Raises:
        GeometryError: `E-CONTOUR-PLANE` when a contour does not lie in a slice of the grid.
    """
    to_index = np.linalg.inv(onto.affine) @ lps_to_ras(np.eye(4))
    indices = [points @ to_index[:3, :3].T + to_index[:3, 3] for points in structure.contours]
    spread = np.max([np.ptp(points, axis=0) for points in indices], axis=0)
    axis = int(spread.argmin())
    mask = np.zeros(onto.shape, np.bool_)
    slices = np.moveaxis(mask, axis, 0)
    for points in indices:
        place = float(np.mean(points[:, axis]))
        if np.abs(points[:, axis] - np.rint(place)).max() > _FLAT:
            message = (
                f"a contour of structure {structure.number} lies "
                f"{np.abs(points[:, axis] - np.rint(place)).max():.2f} voxels off the slices of {onto.describe()}"
            )
            remedy = "Pair it with the image that it was drawn on."
            raise GeometryError(message, code="E-CONTOUR-PLANE", file=path, remedy=remedy)
        if 0 <= round(place) < len(slices):
            _turn_inside(slices[round(place)], np.delete(points, axis, axis=1))
    return mask


def _turn_inside(plane: NDArray[np.bool_], polygon: Points) -> None:
    """Turn every pixel whose centre lies within a closed polygon of (row, column) points into its contrary.

    A pixel is inside when an odd number of edges crosses its row to the left of it or on it; none is outside the box
    about the points.
    """
    low = np.clip(np.ceil(polygon.min(axis=0)), 0, plane.shape).astype(int)
    high = np.clip(np.ceil(polygon.max(axis=0)), low, plane.shape).astype(int)
    ends = np.roll(polygon, -1, axis=0)
    # an edge crosses the rows from its lower end to below its upper end; one along a row crosses none
    first = np.clip(np.ceil(np.minimum(polygon[:, 0], ends[:, 0])), low[0], high[0]).astype(int)
    after = np.clip(np.ceil(np.maximum(polygon[:, 0], ends[:, 0])), low[0], high[0]).astype(int)
    edges = np.repeat(np.arange(len(polygon)), after - first)
    starts = np.cumsum(after - first) - (after - first)
    rows = first[edges] + np.arange(edges.size) - starts[edges]
    (row, column), (next_row, next_column) = polygon[edges].T, ends[edges].T
    columns = column + (rows - row) * (next_column - column) / (next_row - row)
    crossings = np.zeros((high[0] - low[0], high[1] - low[1] + 1), np.int32)
    np.add.at(crossings, (rows - low[0], np.clip(np.ceil(columns), low[1], high[1]).astype(int) - low[1]), 1)
    plane[low[0] : high[0], low[1] : high[1]] ^= np.cumsum(crossings[:, :-1], axis=1) % 2 == 1


def trace(mask: NDArray[np.bool_]) -> list[Points]:
    """Closed contours of a slice, one for each part whose pixels share edges.

    Args:
        mask: (rows, columns).

    Returns:
        Each (n, 2): (row, column) of corners of pixels, in halves, in order; the last joins the first.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    parts, _ = ndimage.label(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    contours = []
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        loops = _loops(parts[box] == number)
        corner = np.array([rows[0] + box[0].start, columns[0] + box[1].start]) - 0.5
        contours.append(_with_keyholes(loops) + corner)
    return contours


def _loops(mask: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """The outline's corners, loop by loop, the outer one first.

    On every line of the pixel grid corners of an outline come in pairs: sorted, the first is joined to the second, the
    third to the fourth. A loop follows such a pair along a row, then one along a column, and so on.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    windows = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    count = sum(windows)
    diagonal = (count == 2) & (windows[0] == windows[3])
    rows, columns = np.nonzero((count == 1) | (count == 3) | diagonal)
    twice = 1 + diagonal[rows, columns].astype(int)
    rows, columns = np.repeat(rows, twice), np.repeat(columns, twice)
    corners = list(zip(rows.tolist(), columns.tolist(), strict=True))
    joined = [_partners(np.lexsort((columns, rows))), _partners(np.lexsort((rows, columns)))]
    loops, left = [], [True] * len(corners)
    for start in range(len(corners)):
        loop, corner = [], start
        while left[corner]:
            for partners in joined:
                left[corner] = False
                loop.append(corners[corner])
                corner = partners[corner]
        if loop:
            loops.append(loop)
    return sorted(loops, key=lambda loop: min(loop))


def _partners(order: NDArray[np.int_]) -> list[int]:
    """Of corners in order along a line the first with the second, the third with the fourth."""
    partners = np.empty_like(order)
    partners[order[::2]], partners[order[1::2]] = order[1::2], order[::2]
    return [int(partner) for partner in partners]


def _with_keyholes(loops: list[list[tuple[int, int]]]) -> Points:
    """One polygon: every hole joined to what lies left of its leftmost corner by a channel without width.

    A hole runs against the outline, so that its area counts off, and fillers by winding number leave it empty.
    """
    outline = loops[0]
    is_positive = _signed_area(outline) > 0
    for loop in sorted(loops[1:], key=lambda loop: min((column, row) for row, column in loop)):
        hole = loop[::-1] if (_signed_area(loop) > 0) == is_positive else loop
        start = min(range(len(hole)), key=lambda index: (hole[index][1], hole[index][0]))
        row, column = hole[start]
        after, place = _left_of(outline, row, column)
        entry = (row, place)
        turned = [*hole[start:], *hole[:start], hole[start]]
        outline = [*outline[: after + 1], entry, *turned, entry, *outline[after + 1 :]]
    return np.array(outline, dtype=np.float64)


def _signed_area(loop: list[tuple[int, int]]) -> float:
    """Gauss's shoelace formula, twice."""
    rows, columns = np.array(loop).T
    return float(rows @ np.roll(columns, -1) - columns @ np.roll(rows, -1))


def _left_of(outline: list[tuple[int, int]], row: int, column: int) -> tuple[int, int]:
    """The nearest edge along a column to the left of a corner: the index of its first point, and its column."""
    best = (-1, -1)
    for index, (here, after) in enumerate(zip(outline, [*outline[1:], outline[0]], strict=True)):
        is_crossed = here[1] == after[1] < column and min(here[0], after[0]) <= row <= max(here[0], after[0])
        if is_crossed and here[1] > best[1]:
            best = (index, here[1])
    return best
