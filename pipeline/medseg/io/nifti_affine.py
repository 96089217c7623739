"""Which of a NIfTI header's three descriptions of the grid to believe: only what does not contradict itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.errors import GeometryError
from medseg.core.geometry import Affine, Geometry, Shape
from medseg.io.decoded import ASSUME, ReadOptions

_MILLIMETRES_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_HALF_A_VOXEL = 0.5
_QUATERNION_ROUNDING = 2.5e-7
_CONVERT = "Convert it again from the original, or say which to believe with --prefer sform or qform."


def choose_affine(fields: Any, shape: Shape, path: Path, options: ReadOptions) -> tuple[Affine, tuple[str, ...]]:
    """Voxel index to RAS+ mm from sform, qform and pixdim, and the `W-` flags of what was decided.

    Raises:
        GeometryError: `E-NO-ORIENTATION`, `E-GEOM-CONFLICT`, `E-GEOM-QUATERN`, `E-GEOM-NONFINITE` or `E-SPACING`.
    """
    factor = _MILLIMETRES_PER_UNIT.get(int(fields["xyzt_units"]) & 7, 1.0)
    remarks = () if factor == 1 else ("W-UNITS",)
    edges = np.asarray(fields["pixdim"][1:4], dtype=np.float64) * factor
    has_sform, has_qform = int(fields["sform_code"]) > 0, int(fields["qform_code"]) > 0
    prefer = options.reading.prefer
    if has_sform:
        try:
            return _confirmed_sform(fields, edges, factor, shape=shape, path=path), remarks
        except GeometryError:
            if prefer == "sform":
                return _sform(fields, factor, path), (*remarks, "W-GEOM-SFORM")
            if prefer is None or not has_qform:
                raise
            remarks = (*remarks, "W-GEOM-QFORM")
    if has_qform:
        _require_positive(edges, path)
        return _qform(fields, edges, factor, path), remarks
    if not options.reading.assume_orientation:
        raise GeometryError(
            "its header says nothing about orientation (sform and qform codes are 0)",
            code="E-NO-ORIENTATION",
            file=path,
            remedy=ASSUME,
        )
    _require_positive(edges, path)
    return np.diag([*edges, 1.0]), (*remarks, "W-ORIENTATION-ASSUMED")


def _confirmed_sform(fields: Any, edges: Any, factor: float, *, shape: Shape, path: Path) -> Affine:
    """The sform, where the qform says the same or, without one, pixdim does."""
    sform = _sform(fields, factor, path)
    if int(fields["qform_code"]) > 0:
        _require_agreement(fields, sform, _trusted_qform(fields, edges, factor, path), shape=shape, path=path)
    else:
        _require_spacing_agreement(sform, edges, shape, path)
    return sform


def _sform(fields: Any, factor: float, path: Path) -> Affine:
    affine = np.eye(4)
    affine[:3] = np.asarray(fields["srow"], dtype=np.float64) * factor
    if not np.isfinite(affine).all():
        message = f"its sform holds {affine[:3].tolist()}"
        raise GeometryError(message, code="E-GEOM-NONFINITE", file=path, remedy="Convert it again from the original.")
    return affine


def _qform(fields: Any, edges: Any, factor: float, path: Path) -> Affine:
    """Rotation from the unit quaternion (a, b, c, d) of which the header keeps b, c, d: nifti1.h, method 2."""
    b, c, d = (float(part) for part in fields["quatern"])
    offset = np.asarray(fields["qoffset"], dtype=np.float64) * factor
    rest = 1.0 - (b * b + c * c + d * d)
    if not np.isfinite([b, c, d, *offset]).all():
        message = f"its qform holds {[b, c, d, *offset.tolist()]}"
        raise GeometryError(message, code="E-GEOM-NONFINITE", file=path, remedy="Convert it again from the original.")
    if rest < -1e-3:
        message = f"its quaternion ({b:.4g}, {c:.4g}, {d:.4g}) is longer than 1"
        raise GeometryError(message, code="E-GEOM-QUATERN", file=path, remedy="Convert it again from the original.")
    a = np.sqrt(max(rest, 0.0))
    length = np.sqrt(a * a + b * b + c * c + d * d)
    a, b, c, d = a / length, b / length, c / length, d / length
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    handedness = -1.0 if float(fields["pixdim"][0]) < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = rotation * edges * np.array([1.0, 1.0, handedness])
    affine[:3, 3] = offset
    return affine


def _trusted_qform(fields: Any, edges: Any, factor: float, path: Path) -> Affine:
    """The qform where it must confirm a sform; one that is no transform at all is a contradiction."""
    try:
        _require_positive(edges, path)
        return _qform(fields, edges, factor, path)
    except GeometryError as error:
        message = f"its sform is readable but its qform is not: {error.message}"
        raise GeometryError(message, code="E-GEOM-CONFLICT", file=path, remedy=_CONVERT) from None


def _require_positive(edges: Any, path: Path) -> None:
    if not (np.isfinite(edges).all() and (edges > 0).all()):
        raise GeometryError(
            f"voxel spacing must be positive, found {' x '.join(f'{edge:.4g}' for edge in edges)} mm",
            code="E-SPACING",
            file=path,
            remedy="Convert it again from the original.",
        )


def _require_agreement(fields: Any, sform: Affine, qform: Affine, *, shape: Shape, path: Path) -> None:
    """No corner may lie more than half a voxel apart, measured along the shortest voxel edge.

    What the qform cannot say exactly is allowed on top: near half a turn the left-out part of its quaternion is the
    root of a small difference, which leaves up to 1.4 thousandths of a radian open in float32.
    """
    corners = Geometry(shape, np.eye(4)).corners_mm()
    apart = np.linalg.norm(corners @ (sform - qform)[:3, :3].T + (sform - qform)[:3, 3], axis=1).max()
    edge = np.linalg.norm(qform[:3, :3], axis=0).min()
    rest = max(1.0 - float((np.asarray(fields["quatern"], dtype=np.float64) ** 2).sum()), 0.0)
    angle = 2 * (np.sqrt(rest + _QUATERNION_ROUNDING) - np.sqrt(max(rest - _QUATERNION_ROUNDING, 0.0)))
    extent = np.linalg.norm(corners @ qform[:3, :3].T, axis=1).max()
    if not apart <= _HALF_A_VOXEL * edge + angle * extent:
        message = f"its sform and its qform put one corner {apart:.2f} mm apart"
        raise GeometryError(message, code="E-GEOM-CONFLICT", file=path, remedy=_CONVERT)


def _require_spacing_agreement(sform: Affine, edges: Any, shape: Shape, path: Path) -> None:
    """Without a qform, pixdim must still give the sform's spacing: half a voxel over the length of each axis."""
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    apart = np.abs(np.abs(edges) - spacing) * (np.asarray(shape) - 1)
    if not (apart <= _HALF_A_VOXEL * spacing).all():
        named = " x ".join(f"{edge:.4g}" for edge in edges)
        message = f"its sform has voxels of {' x '.join(f'{edge:.4g}' for edge in spacing)} mm, its pixdim {named} mm"
        raise GeometryError(message, code="E-GEOM-CONFLICT", file=path, remedy=_CONVERT)
