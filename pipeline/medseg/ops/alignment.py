"""Where a point of one examination lies in another one: an affine map, optionally after a smooth displacement.

Points are RAS+ millimetres. `register` finds an alignment; this page only applies it, with nothing but numpy and scipy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.geometry import Affine, Geometry
from medseg.core.volume import LabelMap, Volume

Points = NDArray[np.float64]

_INVERSION_STEPS = 20
_INVERSION_TOLERANCE_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Displacement:
    """A smooth field of shifts.

    Attributes:
        shifts_mm: (3, I, J, K), RAS+ mm; beyond the grid the nearest value counts.
        geometry: Where the shifts are known.
    """

    shifts_mm: NDArray[np.float32]
    geometry: Geometry

    def at(self, points_mm: Points) -> Points:
        """(N, 3) shift at each of (N, 3) points, linear between the grid points."""
        index = self.geometry.to_index(points_mm).T
        parts = [ndimage.map_coordinates(part, index, order=1, mode="nearest") for part in self.shifts_mm]
        return np.stack(parts, axis=1).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Alignment:
    """From a point of the fixed examination to the same anatomy in the moving one: x -> matrix (x + shift(x)).

    Attributes:
        matrix: (4, 4), RAS+ mm.
        displacement: None where the map is affine.
    """

    matrix: Affine
    displacement: Displacement | None = None

    @classmethod
    def identity(cls) -> Alignment:
        return cls(np.eye(4))

    def to_moving(self, points_mm: Points) -> Points:
        """(N, 3) points of the fixed examination to the moving one."""
        shifted = points_mm if self.displacement is None else points_mm + self.displacement.at(points_mm)
        return np.asarray(shifted @ self.matrix[:3, :3].T + self.matrix[:3, 3])

    def to_fixed(self, points_mm: Points) -> Points:
        """(N, 3) points of the moving examination to the fixed one; a displacement is undone by iteration."""
        inverse = self._inverse
        straight = np.asarray(points_mm @ inverse[:3, :3].T + inverse[:3, 3])
        if self.displacement is None or not len(straight):
            return straight
        points = straight
        for _ in range(_INVERSION_STEPS):
            last, points = points, straight - self.displacement.at(points)
            if np.abs(points - last).max() < _INVERSION_TOLERANCE_MM:
                break
        return points

    def sample(self, volume: Volume | LabelMap, points_mm: Points, *, outside: float = 0.0) -> NDArray[Any]:
        """What the moving examination holds at (N, 3) points of the fixed one.

        Args:
            volume: The moving examination; the first channel of an image, linear between voxels; the nearest voxel of
                a mask.
            points_mm: (N, 3).
            outside: Value of points that the moving examination does not cover.
        """
        index = volume.geometry.to_index(self.to_moving(points_mm)).T
        if isinstance(volume, LabelMap):
            return ndimage.map_coordinates(volume.array, index, order=0, mode="constant", cval=outside)
        return ndimage.map_coordinates(
            volume.array[0], index, order=1, mode="constant", cval=outside, output=np.float32
        )

    @property
    def rotation_degrees(self) -> float:
        """Angle of the rotation nearest to the matrix."""
        left, _, right = np.linalg.svd(self.matrix[:3, :3])
        cosine = (np.trace(left @ right) - 1) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

    @property
    def stretches(self) -> tuple[float, ...]:
        """By how much the matrix stretches along its three principal axes, largest first; 1 for a rigid map."""
        return tuple(float(value) for value in np.linalg.svd(self.matrix[:3, :3], compute_uv=False))

    @cached_property
    def _inverse(self) -> Affine:
        return np.asarray(np.linalg.inv(self.matrix))


def covers(geometry: Geometry, points_mm: Points) -> NDArray[np.bool_]:
    """(N,) whether each of (N, 3) points lies within the outer voxel faces of the grid."""
    index = geometry.to_index(points_mm)
    return np.asarray(((index >= -0.5) & (index <= np.asarray(geometry.shape) - 0.5)).all(axis=1))
