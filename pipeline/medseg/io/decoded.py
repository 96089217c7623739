"""What a format's reader hands on, and the checks of the grid that every format shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import Affine, Geometry, Shape
from medseg.core.reading import AS_IT_IS, Reading

_SPACING_RANGE_MM = (0.01, 50.0)
_ROUNDING_MM = 0.1
_EXACT = 1e-6
ASSUME = "If its axes are known to run R, A, S, read it with --assume-orientation; else convert it from the original."


@dataclass(frozen=True)
class ReadOptions:
    """What a format's reader is asked for.

    Attributes:
        channels: How many channels a file holds; more than one must be asked for.
        onto: DICOM SEG and RTSTRUCT: the grid that their structures are put on.
        names: DICOM SEG and RTSTRUCT: which structures to take, and the value of each.
    """

    reading: Reading = AS_IT_IS
    channels: int = 1
    onto: Geometry | None = None
    names: dict[str, int] | None = None


@dataclass(frozen=True, eq=False)
class Decoded:
    """Voxels and grid of one file.

    Attributes:
        array: (I, J, K) or (C, I, J, K), in the file's own number type when it needs no scaling.
        affine: Voxel index to RAS+ mm, as the file has it.
        unit: As of `Volume`.
        modality: As of `Volume`.
    """

    array: NDArray[Any]
    affine: Affine
    warnings: tuple[str, ...] = field(default=())
    unit: str | None = None
    modality: str | None = None


def require_dims(sizes: ArrayLike, path: Path) -> Shape:
    """Three positive sizes.

    Raises:
        InputError: `E-NDIM` or `E-DIMS`.
    """
    shape = tuple(int(size) for size in np.asarray(sizes).ravel())
    named = "x".join(map(str, shape))
    if len(shape) != 3:
        raise InputError(
            f"must be one 3D volume, found {len(shape)} dimensions ({named})",
            code="E-NDIM",
            file=path,
            remedy="Split it into 3D files, one per time point or channel.",
        )
    if min(shape) < 1:
        raise InputError(
            f"every dimension must be at least 1, found {named}",
            code="E-DIMS",
            file=path,
            remedy="The header is damaged: copy or convert the file again.",
        )
    return shape[0], shape[1], shape[2]


def settle_geometry(affine: ArrayLike, shape: Shape, path: Path) -> Geometry:
    """Refuse a grid that cannot be; straighten what is only rounding.

    Axes within 0.1 mm (at every corner) of a right-angled grid are replaced by the nearest such grid.

    Raises:
        GeometryError: `E-GEOM-NONFINITE`, `E-GEOM-SINGULAR`, `E-SPACING` or `E-GEOM-SHEAR`.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(matrix).all():
        message = f"its voxel-to-patient transform holds {_words(matrix)}"
        raise GeometryError(message, code="E-GEOM-NONFINITE", file=path, remedy="Convert it again from the original.")
    with np.errstate(over="ignore"):
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if np.isinf(spacing).any():
        require_spacing(spacing, path)
    if min(spacing) == 0 or not _spans_space(matrix[:3, :3] / spacing):
        message = f"its voxel axes do not span space: {_words(matrix)}"
        raise GeometryError(message, code="E-GEOM-SINGULAR", file=path, remedy="Convert it again from the original.")
    require_spacing(spacing, path)
    given = Geometry(shape, matrix)
    result = given.straightened()
    if np.abs(result.direction - given.direction).max() < _EXACT:
        return given
    moved_mm = result.deviation_mm(given)
    if moved_mm >= _ROUNDING_MM:
        raise GeometryError(
            f"its axes are not at right angles: a corner lies {moved_mm:.2f} mm from the nearest straight grid",
            code="E-GEOM-SHEAR",
            file=path,
            remedy="Resample it onto a straight grid (gantry tilt: read the DICOM series with --fix-geometry).",
        )
    return result


def require_spacing(spacing_mm: ArrayLike, path: Path) -> None:
    """Voxel edges must be finite and between 0.01 and 50 mm.

    Raises:
        GeometryError: `E-SPACING`.
    """
    low, high = _SPACING_RANGE_MM
    edges = np.asarray(spacing_mm, dtype=np.float64)
    if not ((edges >= low) & (edges <= high)).all():
        raise GeometryError(
            f"voxel spacing must be {low} to {high:.0f} mm, found {' x '.join(f'{edge:.4g}' for edge in edges)} mm",
            code="E-SPACING",
            file=path,
            remedy="Check the units (metres, micrometres) and convert it again from the original.",
        )


def _spans_space(axes: NDArray[np.float64]) -> bool:
    """Whether three unit columns are far from lying in one plane."""
    with np.errstate(all="ignore"):
        # entries near 1e-310 are legal numbers at which the elimination divides by zero
        return bool(abs(np.linalg.det(axes)) >= 1e-3)


def _words(matrix: Affine) -> str:
    return np.array2string(matrix[:3], precision=4, suppress_small=True).replace("\n", "")
