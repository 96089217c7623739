"""Diameters of a mask in millimetres, on any grid.

A structure is the solid made of its voxels, corners included: the same solid whose volume is counted. A diameter is
the largest distance between two of its points, so a box of n voxels of s mm is n s wide, and one voxel has a diagonal.
Formulas, and what follows from the choice, are printed in docs/clinical.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

from medseg.core.measurements import Caliper

if TYPE_CHECKING:
    from medseg.core.geometry import Geometry

Points = NDArray[np.float64]

_SAME_MM = 1e-6
_BLOCK = 2048


@dataclass(frozen=True)
class AxialDiameters:
    """The two diameters a reader draws on one slice.

    Attributes:
        long_axis: Longest diameter in any axial slice.
        short_axis: Longest line from border to border at a right angle to it, in the same slice.
        slice_index: That slice, counted from 0 along `axial_axis` of the grid.
    """

    long_axis: Caliper
    short_axis: Caliper
    slice_index: int


def axial_axis(geometry: Geometry) -> int:
    """The array axis whose slices are closest to the patient's axial plane."""
    return geometry.canonical_axes()[0][2]


def axial_tilt_degrees(geometry: Geometry) -> float:
    """Angle between the slices along `axial_axis` and the patient's axial plane."""
    edges = np.delete(geometry.affine[:3, :3], axial_axis(geometry), axis=1)
    normal = np.cross(edges[:, 0], edges[:, 1])
    return float(np.degrees(np.arccos(min(1.0, abs(normal[2]) / np.linalg.norm(normal)))))


def axial_diameters(mask: NDArray[np.bool_], geometry: Geometry) -> AxialDiameters:
    """Long and short axis in the slice where the structure is longest (RECIST 1.1: Eisenhauer et al., EJC 2009).

    The slices are those of the array axis closest to axial; nothing is interpolated. Among slices of equal length the
    middle one is taken. All parts of the structure in a slice count, as one.

    Args:
        mask: (I, J, K), one structure.
        geometry: Its grid; oblique, anisotropic and sheared ones are measured as they lie.

    Raises:
        ValueError: When the mask is empty.
    """
    axis = axial_axis(geometry)
    edges = np.delete(geometry.affine[:3, :3], axis, axis=1)
    sections = np.moveaxis(mask, axis, 0)
    found = [(index, *_farthest(hull @ edges.T)) for index, hull in _section_hulls(sections)]
    longest = max(length for _, length, _ in found)
    tied = [entry for entry in found if entry[1] >= longest - _SAME_MM]
    index, _, ends = tied[(len(tied) - 1) // 2]
    level = geometry.affine[:3, 3] + index * geometry.affine[:3, axis]
    short = _longest_across(_border(sections[index]) @ edges.T, *ends)
    return AxialDiameters(_caliper(ends + level, edges), _caliper(short + level, edges), index)


def feret_diameter(mask: NDArray[np.bool_], geometry: Geometry) -> Caliper:
    """The largest distance between two points of the structure, in space.

    Args:
        mask: (I, J, K), one structure.
        geometry: Its grid.

    Raises:
        ValueError: When the mask is empty.
    """
    edges = geometry.affine[:3, :3]
    corners = np.concatenate(
        [
            np.column_stack([np.full(len(hull), index + side), hull])
            for index, hull in _section_hulls(mask)
            for side in (-0.5, 0.5)
        ]
    )
    _, ends = _farthest(corners[ConvexHull(corners).vertices] @ edges.T)
    return _caliper(ends + geometry.affine[:3, 3], edges)


def _section_hulls(sections: NDArray[np.bool_]) -> list[tuple[int, Points]]:
    """Every slice along the first axis that is not empty, with the corners of its convex hull in voxel indices."""
    used = np.flatnonzero(sections.any(axis=(1, 2)))
    if not used.size:
        message = "an empty mask has no diameter"
        raise ValueError(message)
    return [(int(index), _hull(sections[index])) for index in used]


def _hull(section: NDArray[np.bool_]) -> Points:
    """(N, 2) corners of the hull of a slice; only the ends of each row can be among them."""
    rows = np.flatnonzero(section.any(axis=1))
    first = section[rows].argmax(axis=1) - 0.5
    last = section.shape[1] - section[rows, ::-1].argmax(axis=1) - 0.5
    sides = [(rows + above, column) for above in (-0.5, 0.5) for column in (first, last)]
    corners = np.concatenate([np.column_stack(side) for side in sides])
    return np.asarray(corners[ConvexHull(corners).vertices])


def _farthest(points_mm: Points) -> tuple[float, Points]:
    """The largest distance between two of (N, 3) points, and the (2, 3) points."""
    best, ends = -1.0, points_mm[:2]
    for start in range(0, len(points_mm), _BLOCK):
        block = points_mm[start : start + _BLOCK]
        distances = cdist(block, points_mm)
        one, other = np.unravel_index(np.argmax(distances), distances.shape)
        if distances[one, other] > best:
            best, ends = float(distances[one, other]), np.stack([block[one], points_mm[other]])
    return best, ends


def _border(section: NDArray[np.bool_]) -> Points:
    """(N, 2, 2) voxel edges between inside and outside: start and end in voxel indices."""
    padded = np.pad(section, 1)
    pieces = []
    for axis in (0, 1):
        at = np.argwhere(np.diff(padded, axis=axis)).astype(np.float64)
        # Between voxels a and a + 1 of the padded slice lies the edge a - 0.5 of the slice itself.
        start = at - np.where(np.arange(2) == axis, 0.5, 1.5)
        pieces.append(np.stack([start, start + (np.arange(2) != axis)], axis=1))
    return np.concatenate(pieces)


def _longest_across(border_mm: Points, start: Points, stop: Points) -> Points:
    """(2, 3) ends of the longest line between two points of the border at a right angle to start-stop.

    Between two corners of the border the distance is convex along the long axis, so the longest line passes a corner.

    Args:
        border_mm: (N, 2, 3) pieces of the border, all in one plane.
        start: (3,) one end of the long axis.
        stop: (3,) the other.
    """
    along = (stop - start) / np.linalg.norm(stop - start)
    sides = (border_mm[:, 1] - border_mm[:, 0])[:, None]
    normal = np.cross(sides[0, 0], sides[-1, 0])
    across = np.cross(normal / np.linalg.norm(normal), along)
    place, height = (border_mm - start) @ along, (border_mm - start) @ across
    corners = np.unique(np.round(place.ravel(), 9))
    low, high = place.min(axis=1) - _SAME_MM, place.max(axis=1) + _SAME_MM
    steep = np.ptp(place, axis=1) < _SAME_MM
    run = np.where(steep, 1.0, place[:, 1] - place[:, 0])
    lengths, floors = np.empty(corners.size), np.empty(corners.size)
    for begin in range(0, corners.size, _BLOCK):
        at = corners[begin : begin + _BLOCK, None]
        passes = (low <= at) & (at <= high)
        share = np.clip((at - place[:, 0]) / run, 0, 1)
        crossing = height[:, 0] + share * (height[:, 1] - height[:, 0])
        top = np.where(passes, np.where(steep, height.max(axis=1), crossing), -np.inf).max(axis=1)
        bottom = np.where(passes, np.where(steep, height.min(axis=1), crossing), np.inf).min(axis=1)
        lengths[begin : begin + _BLOCK], floors[begin : begin + _BLOCK] = top - bottom, bottom
    tied = np.flatnonzero(lengths >= lengths.max() - _SAME_MM)
    middle = float(np.linalg.norm(stop - start)) / 2
    best = tied[np.argmin(np.abs(corners[tied] - middle))]
    foot = start + corners[best] * along + floors[best] * across
    return np.stack([foot, foot + lengths[best] * across])


def _caliper(ends_mm: Points, edges_mm: Points) -> Caliper:
    """A line with the uncertainty of docs/clinical.md: the border may lie half a voxel in or out at either end.

    Args:
        ends_mm: (2, 3) RAS+.
        edges_mm: (3, n) edge vectors of a voxel within the plane or space that was searched.
    """
    line = ends_mm[1] - ends_mm[0]
    length = float(np.linalg.norm(line))
    (x0, y0, z0), (x1, y1, z1) = ends_mm.tolist()
    return Caliper(
        length_mm=length,
        uncertainty_mm=float(np.abs(line / length @ edges_mm).sum()),
        ends_mm=((x0, y0, z0), (x1, y1, z1)),
    )
