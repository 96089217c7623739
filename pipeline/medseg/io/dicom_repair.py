"""What `fix_geometry` does: gaps, uneven steps and gantry tilt resampled onto a straight, even grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError
from medseg.core.geometry import Affine
from medseg.io.dicom_planes import Plane
from medseg.io.dicom_stack import DRIFT_MM, EVEN, affine_lps, heights_of

_FINE = 0.1
_MOST_INVENTED = 4
_EXPORT = "Export the series again, complete and by itself."


def straighten(
    values: NDArray[Any], planes: Sequence[Plane], path: Path
) -> tuple[NDArray[Any], Affine, tuple[str, ...]]:
    """Resample (K, rows, columns) linearly onto a straight, even grid; what is even stays as it is.

    Slices that drift sideways (gantry tilt) are shifted within their plane, onto a canvas that holds all of them; the
    new border takes the smallest value of the image. Places between slices are interpolated along the normal.

    Raises:
        GeometryError: `E-SERIES-GAP` or `E-GEOM-SHEAR` when most of the result would be invented.
    """
    affine, remarks = affine_lps(planes, path)
    if len(planes) == 1:
        return values, affine, remarks
    normal = planes[0].normal
    heights = heights_of(planes) - float(planes[0].position @ normal)
    offsets = np.array([plane.position - planes[0].position for plane in planes]) - heights[:, np.newaxis] * normal
    # sideways drift of each slice in columns and rows of pixels
    shifts = offsets @ planes[0].orientation.T / np.array(planes[0].spacing_mm[::-1])
    if np.abs(shifts).max() > DRIFT_MM / max(planes[0].spacing_mm):
        growth = float(np.prod(1 + np.ptp(shifts, axis=0) / values.shape[:0:-1]))
        if growth > _MOST_INVENTED:
            message = f"its slices drift sideways so far that the image would become {growth:.1f} times as large"
            raise GeometryError(message, code="E-GEOM-SHEAR", file=path, remedy=_EXPORT)
        values, start = _shifted(values, shifts)
        affine[:3, 3] = planes[0].position + affine[:3, 0] * start[0] + affine[:3, 1] * start[1]
        remarks = (*remarks, "W-TILT-STRAIGHTENED")
    steps = np.diff(heights)
    usual = float(np.median(steps))
    if (np.abs(steps - usual) > EVEN * usual).any():
        # a fine step that several slices have, so that none of them is lost; a single narrow pair does not decide
        fine = float(np.quantile(steps, _FINE, method="nearest"))
        count = int(np.rint(heights[-1] / fine)) + 1
        if count > _MOST_INVENTED * len(planes):
            message = f"{len(planes)} slices would become {count}: most of them would be invented"
            raise GeometryError(message, code="E-SERIES-GAP", file=path, remedy=_EXPORT)
        values = _interpolated(values, heights, np.linspace(0, heights[-1], count))
        usual = float(heights[-1]) / (count - 1)
        remarks = (*remarks, "W-GAPS-FILLED")
    affine[:3, 2] = normal * usual
    return values, affine, remarks


def _shifted(values: NDArray[Any], shifts: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.int_]]:
    """Every slice moved by its own (columns, rows), and the index of the canvas's corner."""
    from scipy import ndimage

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
