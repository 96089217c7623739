"""Pixels of DICOM planes in the modality's units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.io.dicom_codecs import decode_frame
from medseg.io.dicom_headers import untrusted
from medseg.io.dicom_planes import Plane

_AIR_HU = -1024
_SMALLEST, _LARGEST = np.iinfo(np.int16).min, np.iinfo(np.int16).max
_BYTES_OF_16_BITS = 2
# Their stored values are measurements: which end of the scale is drawn white does not change them.
_MEASURED = {"PT", "NM"}


def decode_planes(planes: Sequence[Plane]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """(K, rows, columns) in the order given, each plane rescaled with its own slope and intercept.

    Whole numbers within 16 bits come as int16, all else as float32. Grey scales drawn inverted (MONOCHROME1) are turned
    round, so that bright is bright, except where the numbers are measurements (PET, nuclear medicine). Padding pixels
    become air in a CT and the smallest value of their slice elsewhere.

    Raises:
        InputError: `E-CODEC` or `E-DICOM`, naming the slice.
    """
    scales = [plane.rescale or (1.0, 0.0) for plane in planes]
    is_whole = all(slope == 1 and intercept % 1 == 0 for slope, intercept in scales)
    is_whole = is_whole and all(_is_narrow(plane.file.header) for plane in planes)
    values = np.empty((len(planes), planes[0].file.rows, planes[0].file.columns), np.int16 if is_whole else np.float32)
    remarks: Counter[str] = Counter()
    if planes[0].modality == "CT":
        remarks["W-RESCALE"] = sum(plane.rescale is None for plane in planes)
    order = sorted(range(len(planes)), key=lambda index: (str(planes[index].path), planes[index].frame))
    data, opened = None, None
    for index in order:
        plane = planes[index]
        if opened is not plane.file:
            data, opened = plane.file.load(), plane.file
        with untrusted(plane.path, "its pixels"):
            found = _plane_values(data, plane, scales[index], remarks)
        if values.dtype == np.int16 and not _SMALLEST <= found.min() <= found.max() <= _LARGEST:
            values = values.astype(np.int32)
        values[index] = found
    padded = f"W-PADDING: {remarks['W-PADDING']} pixels"
    return values, tuple(padded if code == "W-PADDING" else code for code in sorted(+remarks))


def _is_narrow(header: Any) -> bool:
    """Whether what is stored fits 16 bits and nothing but a number is added to it."""
    return "ModalityLUTSequence" not in header and int(header.get("BitsAllocated", 0)) <= 8 * _BYTES_OF_16_BITS


def _plane_values(data: Any, plane: Plane, scale: tuple[float, float], remarks: Counter[str]) -> NDArray[Any]:
    stored, is_odd = decode_frame(data, plane)
    if is_odd:
        remarks["W-DECODE"] += 1
    padding = _padding(data, stored)
    if data.get("PhotometricInterpretation") == "MONOCHROME1":
        remarks["W-PHOTOMETRIC"] += 1
        if plane.modality not in _MEASURED:
            stored = _turned_round(stored, data)
    values = _rescaled(data, stored, scale)
    if padding is not None and padding.any() and not padding.all():
        border = _AIR_HU if plane.modality == "CT" else values[~padding].min()
        # what already looks like background stays: zero under a signal, air's own value
        strange = padding & (values < min(border, 0)) | (padding & (values > max(border, 0)))
        if strange.any():
            remarks["W-PADDING"] += int(np.count_nonzero(strange))
            values[strange] = border
    return values


def _rescaled(data: Any, stored: NDArray[Any], scale: tuple[float, float]) -> NDArray[Any]:
    if "ModalityLUTSequence" not in data:
        is_shifted = scale[0] == 1 and scale[1] % 1 == 0 and stored.dtype.itemsize <= _BYTES_OF_16_BITS
        return np.add(stored, int(scale[1]), dtype=np.int32) if is_shifted else stored * scale[0] + scale[1]
    from pydicom.pixels import apply_modality_lut

    return np.asarray(apply_modality_lut(stored, data), dtype=np.float64)


def _turned_round(stored: NDArray[Any], data: Any) -> NDArray[Any]:
    """The largest value that the stored bits can have becomes the smallest."""
    bits = int(data.get("BitsStored", stored.dtype.itemsize * 8))
    # low + high of the range: 2^n - 1 for unsigned numbers, -1 for signed ones
    ends = -1 if int(data.get("PixelRepresentation", 0)) else (1 << bits) - 1
    return np.asarray(ends - stored.astype(np.int64))


def _padding(data: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    if data.get("PixelPaddingValue") is None or stored.dtype.kind not in "iu":
        return None
    low, high = (
        int(np.array(int(data.get(name, data.PixelPaddingValue))).astype(stored.dtype))
        for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    )
    return (stored >= min(low, high)) & (stored <= max(low, high))
