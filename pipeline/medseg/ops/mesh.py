"""The closed surface of a mask: its volume, its area and its corners, without building the mesh.

The surface is that of marching cubes between voxel centres (Lorensen and Cline, SIGGRAPH 1987): inside a cube of eight
voxels it depends on nothing but which of them belong to the mask, so that area and volume are sums over 256 kinds of
cubes, and every corner lies halfway between a voxel inside and its neighbour outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Vector
from medseg.ops.surfaces import element_areas, neighbourhoods, orientations

# Volume below the polygons of `surfaces.element_areas`, in 48ths of a voxel: a corner cut off at the middle of its
# edges is 1/48, an edge 1/8, three corners of a face half a voxel less its part beyond x + y + z = 3/2.
_VOLUMES: dict[int, int] = {
    0b00000001: 1,
    0b00000011: 6,
    0b00000110: 2,
    0b00011000: 2,
    0b00000111: 17,
    0b00011001: 7,
    0b00010110: 3,
    0b00001111: 24,
    0b00010111: 24,
    0b00011011: 24,
    0b00011110: 18,
    0b00111100: 12,
    0b01101001: 4,
}


@dataclass(frozen=True, eq=False)
class Mesh:
    """What is known of a mask's surface.

    Attributes:
        volume_mm3: Inside it.
        area_mm2: Of it.
        corners_mm: (N, 3) along I, J, K, from the centre of the first voxel.
    """

    volume_mm3: float
    area_mm2: float
    corners_mm: NDArray[np.float64]


def mesh_of(mask: NDArray[np.bool_], *, spacing_mm: Vector) -> Mesh:
    """Measure the surface of a mask.

    Args:
        mask: (I, J, K), at least one voxel set; what lies outside the array is background.
        spacing_mm: Size of a voxel along I, J, K.
    """
    counts = np.bincount(neighbourhoods(mask, (0, 0, 0)).ravel(), minlength=256)
    return Mesh(
        volume_mm3=float(counts @ _cube_volumes()) * float(np.prod(spacing_mm)),
        area_mm2=float(counts @ element_areas(spacing_mm)),
        corners_mm=_corners(mask) * np.asarray(spacing_mm),
    )


@cache
def _cube_volumes() -> NDArray[np.float64]:
    """(256,) share of each 2 x 2 x 2 neighbourhood's cube that lies inside."""
    table = np.zeros(256)
    table[255] = 1
    for code, parts in _VOLUMES.items():
        for bits, _ in orientations(code):
            table[bits] = parts / 48
            if bits.bit_count() < 4:  # of four and four, what is inside is what the polygons part
                table[255 - bits] = 1 - parts / 48
    table.setflags(write=False)
    return table


def _corners(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, 3) in voxels: the middle of every grid edge with one end inside and the other outside."""
    padded = np.pad(mask, 1)
    found = []
    for axis in range(3):
        crossed = np.argwhere(np.diff(padded, axis=axis)) - 1.0
        crossed[:, axis] += 0.5
        found.append(crossed)
    return np.concatenate(found)
