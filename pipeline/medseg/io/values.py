"""What voxel values must be before anything is computed from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.core.volume import Volume
from medseg.io.decoded import Decoded, settle_geometry

_LARGEST = 1e12
_LARGEST_LABEL = 65535
_INTEGER_TOLERANCE = 1e-3
_SMALL = 4
_CONVERT = "Convert it again from the original."


def as_volume(decoded: Decoded, path: Path) -> Volume:
    """Check grid and values of what a reader gave.

    Raises:
        InputError: As `intensities`.
        GeometryError: As `settle_geometry`.
    """
    array = decoded.array if decoded.array.ndim == 4 else decoded.array[np.newaxis]
    geometry = settle_geometry(decoded.affine, (array.shape[1], array.shape[2], array.shape[3]), path)
    array, remarks = intensities(array, path)
    return Volume(array, geometry, path, (*decoded.warnings, *remarks), decoded.unit, decoded.modality)


def intensities(array: NDArray[Any], path: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Check one image (C, I, J, K); whole numbers of up to 16 bits stay, all else becomes float32.

    Raises:
        InputError: `E-NONFINITE`, `E-INTENSITY` or `E-CONSTANT`.
    """
    for fault in intensity_faults(array, path):
        raise fault
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
        return array, image_flags(array)
    return array.astype(np.float32, copy=False), image_flags(array)


def image_flags(array: NDArray[Any]) -> tuple[str, ...]:
    """What to know of an image (C, I, J, K) that is accepted."""
    return ("W-SMALL",) if min(array.shape[1:]) < _SMALL else ()


def intensity_faults(array: NDArray[Any], path: Path) -> Iterator[InputError]:
    """What is wrong with the values of one image (C, I, J, K), channel by channel."""
    for index, channel in enumerate(array):
        low, high = channel.min(), channel.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            yield _not_finite(channel, path)
        elif max(abs(float(low)), abs(float(high))) > _LARGEST:
            message = f"values must lie within ±{_LARGEST:g}, found {float(low):g} to {float(high):g}"
            yield InputError(message, code="E-INTENSITY", file=path, remedy=_CONVERT)
        elif low == high and channel.size > 1:
            message = f"every voxel{f' of channel {index}' if len(array) > 1 else ''} has the value {float(low) + 0:g}"
            yield InputError(message, code="E-CONSTANT", file=path, remedy="Check that this is the right file.")


def labels(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """Check one mask (I, J, K) and give it the smallest of uint8 and uint16.

    Raises:
        InputError: `E-NONFINITE`, `E-LABEL-RANGE` or `E-LABEL-FRACTION`.
    """
    for fault in label_faults(array, path):
        raise fault
    kind = np.uint8 if round(float(array.max())) <= np.iinfo(np.uint8).max else np.uint16
    return (array if array.dtype.kind in "iu" else np.rint(array)).astype(kind, copy=False)


def label_faults(array: NDArray[Any], path: Path) -> Iterator[InputError]:
    """What is wrong with the values of one mask (I, J, K)."""
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        yield _not_finite(array, path)
        return
    if low < -_INTEGER_TOLERANCE or high > _LARGEST_LABEL + _INTEGER_TOLERANCE:
        message = f"labels must be 0 to {_LARGEST_LABEL}, found {low} to {high}"
        remedy = "Renumber the labels from 1; 0 is background."
        yield InputError(message, code="E-LABEL-RANGE", file=path, remedy=remedy)
    if array.dtype.kind in "iu":
        return
    apart = np.abs(array - np.rint(array))
    if apart.max() > _INTEGER_TOLERANCE:
        message = f"labels must be whole numbers, found {array.flat[int(apart.argmax())]:g}"
        remedy = "Resample masks with nearest neighbour, not linearly."
        yield InputError(message, code="E-LABEL-FRACTION", file=path, remedy=remedy)


def label_flags(array: NDArray[Any]) -> tuple[str, ...]:
    """What to know of a mask that is accepted."""
    return ("W-LABEL-FLOAT",) if array.dtype.kind == "f" else ()


def _not_finite(array: NDArray[Any], path: Path) -> InputError:
    count = array.size - int(np.count_nonzero(np.isfinite(array)))
    message = f"{count} of {array.size} voxels are NaN or infinite"
    remedy = "Replace them by the background value, or convert it again from the original."
    return InputError(message, code="E-NONFINITE", file=path, remedy=remedy)
