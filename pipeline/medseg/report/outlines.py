"""Borders of masks as SVG paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import contourpy
import numpy as np
from numpy.typing import NDArray

UNITS_PER_VOXEL = 4
RegionKind = Literal["agreement", "missed", "invented", "mistaken"]


@dataclass(frozen=True)
class Outline:
    """One label's border in one picture.

    Attributes:
        label: Its name.
        colour: Its position among all labels of the case.
        path: SVG path data, see `outline_path`.
    """

    label: str
    colour: int
    path: str


@dataclass(frozen=True)
class Region:
    """Where prediction and reference agree or differ in one picture: `path` as in `Outline`."""

    kind: RegionKind
    path: str
    area_mm2: float


def outline_path(mask: NDArray[np.bool_], *, voxels: bool = False) -> str:
    """(rows, columns) to closed SVG subpaths around every piece and hole; empty text for an empty mask.

    Coordinates are whole numbers, `UNITS_PER_VOXEL` to a voxel, from the outer corner of the first voxel.

    Args:
        mask: What to go around.
        voxels: Follow the faces of the voxels, corners cut by a quarter, so that areas are true to a voxel even where
            a region is one voxel wide. Otherwise the border runs through the midpoints between inside and outside
            voxels (marching squares), which reads more easily.
    """
    if not mask.any():
        return ""
    top, left = (int(np.argmax(mask.any(axis=axis))) for axis in (1, 0))
    bottom, right = (int(np.flatnonzero(mask.any(axis=axis))[-1]) + 1 for axis in (1, 0))
    mask = mask[top:bottom, left:right]
    fine = np.repeat(np.repeat(mask, 2, axis=0), 2, axis=1) if voxels else mask
    unit = UNITS_PER_VOXEL // 2 if voxels else UNITS_PER_VOXEL
    rings = contourpy.contour_generator(z=np.pad(fine, 1).astype(np.float32)).lines(0.5)
    corner = np.array([left, top]) * UNITS_PER_VOXEL
    return "".join(_ring(np.rint((np.asarray(ring) - 0.5) * unit).astype(int) + corner) for ring in rings)


def _ring(points: NDArray[np.int_]) -> str:
    """(N, 2) closed ring to path data, points on straight runs left out."""
    steps = np.diff(points, axis=0)
    turns = np.any(steps != np.roll(steps, 1, axis=0), axis=1)
    corners = points[:-1][turns]
    moves = "".join(f"l{x} {y}" for x, y in np.diff(corners, axis=0))
    return f"M{corners[0, 0]} {corners[0, 1]}{moves}z"
