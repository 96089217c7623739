"""Where the voxels of a grid lie in the patient: the only place where LPS and RAS meet.

Axes are (i, j, k), the order of the array. World coordinates are RAS+ millimetres, as in NIfTI; DICOM, ITK and NRRD
files speak LPS and are converted at the door with `lps_to_ras`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

Shape = tuple[int, int, int]
Box = tuple[Shape, Shape]  # first voxel along each axis, and one past the last
Vector = tuple[float, float, float]
Affine = NDArray[np.float64]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_POSITIVE, _NEGATIVE = "RAS", "LPI"


def lps_to_ras(affine: ArrayLike) -> Affine:
    """Turn a 4x4 affine between LPS and RAS world axes; its own inverse."""
    return _LPS_TO_RAS @ np.asarray(affine, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Geometry:
    """A voxel grid in the patient.

    Attributes:
        shape: Number of voxels along i, j, k.
        affine: (4, 4) float64, voxel index to RAS+ mm of the voxel's centre.
    """

    shape: Shape
    affine: Affine

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            message = f"affine must be a finite 4x4 matrix, got {affine.tolist()}"
            raise ValueError(message)
        if min(self.shape) < 1:
            message = f"shape must be three positive integers, got {self.shape}"
            raise ValueError(message)
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            message = f"affine must be invertible, got {affine.tolist()}"
            raise ValueError(message)
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))

    @classmethod
    def from_parts(
        cls,
        shape: Shape,
        spacing_mm: ArrayLike = (1.0, 1.0, 1.0),
        direction: ArrayLike | None = None,
        origin_mm: ArrayLike = (0.0, 0.0, 0.0),
    ) -> Geometry:
        """Build from spacing (mm), direction cosines (3, 3) in RAS and the centre of the first voxel (RAS mm)."""
        affine = np.eye(4)
        columns = np.eye(3) if direction is None else np.asarray(direction, dtype=np.float64)
        affine[:3, :3] = columns * np.asarray(spacing_mm, dtype=np.float64)
        affine[:3, 3] = origin_mm
        return cls(shape, affine)

    @cached_property
    def spacing_mm(self) -> Vector:
        x, y, z = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return (x, y, z)

    @cached_property
    def direction(self) -> Affine:
        """(3, 3) direction cosines in RAS, one column per array axis."""
        return np.asarray(self.affine[:3, :3] / np.asarray(self.spacing_mm))

    @property
    def voxel_volume_mm3(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @cached_property
    def axis_codes(self) -> str:
        """The anatomical direction in which each array axis grows, as in `RAS` or `LPS`."""
        axes, signs = self._closest_axes
        return "".join(_POSITIVE[axis] if sign > 0 else _NEGATIVE[axis] for axis, sign in zip(axes, signs, strict=True))

    @cached_property
    def _closest_axes(self) -> tuple[list[int], list[int]]:
        """For each array axis the world axis it runs along (each world axis taken once) and its sign."""
        cosines = self.direction
        best = max(
            ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)),
            key=lambda order: sum(abs(cosines[world, array]) for array, world in enumerate(order)),
        )
        return list(best), [1 if cosines[world, array] > 0 else -1 for array, world in enumerate(best)]

    def to_world(self, indices: ArrayLike) -> NDArray[np.float64]:
        """Voxel indices (..., 3), fractions allowed, to RAS+ mm."""
        return np.asarray(np.asarray(indices, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3])

    def to_index(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """RAS+ mm (..., 3) to fractional voxel indices."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(np.asarray(points_mm, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3])

    def corners_mm(self) -> NDArray[np.float64]:
        """(8, 3) RAS+ mm: the centres of the corner voxels."""
        return self.to_world(list(product(*((0, size - 1) for size in self.shape))))

    def deviation_mm(self, other: Geometry) -> float:
        """How far the corner farthest apart lies from its twin; infinite when the shapes differ."""
        if self.shape != other.shape:
            return float("inf")
        return float(np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max())

    def agrees_with(self, other: Geometry, *, tolerance_mm: float = 0.1) -> bool:
        """Whether both grids are the same to within `tolerance_mm` at every corner."""
        return self.deviation_mm(other) <= tolerance_mm

    def straightened(self) -> Geometry:
        """The nearest grid with axes at right angles: same spacing, same centre of the volume.

        Its axes are the orthogonal factor of the polar decomposition of the direction cosines, which lies nearest to
        them in the Frobenius norm (Higham, SIAM J. Sci. Stat. Comput. 1986).
        """
        left, _, right = np.linalg.svd(self.direction)
        centre = (np.asarray(self.shape) - 1) / 2
        affine = np.eye(4)
        affine[:3, :3] = (left @ right) * np.asarray(self.spacing_mm)
        affine[:3, 3] = self.to_world(centre) - affine[:3, :3] @ centre
        return Geometry(self.shape, affine)

    def canonical_axes(self) -> tuple[Shape, tuple[int, ...]]:
        """How to bring an array to RAS+ axes: `array.transpose(order)`, then flip the axes in `flips`."""
        axes, signs = self._closest_axes
        order = (axes.index(0), axes.index(1), axes.index(2))
        return order, tuple(axis for axis in range(3) if signs[order[axis]] < 0)

    def canonical(self) -> Geometry:
        """This grid with its axes permuted and flipped to run R, A, S; no voxel moves."""
        order, flips = self.canonical_axes()
        grid = Geometry((self.shape[order[0]], self.shape[order[1]], self.shape[order[2]]), self.affine[:, [*order, 3]])
        matrix = np.eye(4)
        for axis in flips:
            matrix[axis, axis] = -1
            matrix[axis, 3] = grid.shape[axis] - 1
        return Geometry(grid.shape, grid.affine @ matrix)

    def cropped(self, start: ArrayLike, stop: ArrayLike) -> Geometry:
        """The box of voxels start <= index < stop; may reach outside (padding)."""
        low, high = np.asarray(start, dtype=int), np.asarray(stop, dtype=int)
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world(low)
        size_i, size_j, size_k = (int(size) for size in high - low)
        return Geometry((size_i, size_j, size_k), affine)

    def resized(self, shape: Shape) -> Geometry:
        """The same extent (outer voxel faces) cut into `shape` voxels."""
        scale = np.asarray(self.shape) / np.asarray(shape)
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, :3] * scale
        affine[:3, 3] = self.to_world((scale - 1) / 2)
        return Geometry(shape, affine)

    def describe(self) -> str:
        """One line for messages: size, spacing, axes, position of the first voxel."""
        size = "x".join(str(n) for n in self.shape)
        spacing = "x".join(f"{s:.4g}" for s in self.spacing_mm)
        origin = ", ".join(f"{x:.2f}" for x in self.affine[:3, 3])
        return f"{size} voxels of {spacing} mm, axes {self.axis_codes}, first voxel at ({origin}) mm"
