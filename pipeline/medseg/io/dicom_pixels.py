"""Pixels of DICOM planes in the modality's units."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.io.dicom_files import untrusted
from medseg.io.dicom_planes import Plane

_AIR_HU = -1024
_CURES = {
    "1.2.840.10008.1.2.4.50": "pillow",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pillow",
    "1.2.840.10008.1.2.4.91": "pillow",
    "1.2.840.10008.1.2.4.201": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg pylibjpeg-openjpeg",
}


def decode_planes(planes: Sequence[Plane]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """(K, rows, columns) in the order given, each plane rescaled with its own slope and intercept.

    Whole numbers within 16 bits come as int16, all else as float32. Padding pixels of a CT become air.

    Raises:
        InputError: `E-CODEC`, `E-SHORT-DATA` or `E-DICOM`, naming the slice.
    """
    is_whole = all(plane.slope == 1 and plane.intercept % 1 == 0 for plane in planes)
    header = planes[0].file.header
    values = np.empty((len(planes), planes[0].file.rows, planes[0].file.columns), np.int32 if is_whole else np.float32)
    remarks: set[str] = set()
    order = sorted(range(len(planes)), key=lambda index: (str(planes[index].path), planes[index].frame))
    data, opened = None, None
    for index in order:
        plane = planes[index]
        if opened is not plane.file:
            data, opened = plane.file.load(), plane.file
        stored = _decode(data, plane, remarks)
        scaled = stored.astype(values.dtype) if is_whole else stored.astype(np.float64) * plane.slope
        values[index] = scaled + (int(plane.intercept) if is_whole else plane.intercept)
        padding = _padding(data, stored)
        if padding is not None and header.get("Modality") == "CT" and padding.any():
            values[index][padding & (values[index] < _AIR_HU)] = _AIR_HU
            remarks.add("W-PADDING")
    if is_whole and values.min() >= np.iinfo(np.int16).min and values.max() <= np.iinfo(np.int16).max:
        values = values.astype(np.int16)
    return values, tuple(sorted(remarks))


def _decode(data: Any, plane: Plane, remarks: set[str]) -> NDArray[Any]:
    from pydicom.pixels import get_decoder, pixel_array
    from pydicom.uid import ImplicitVRLittleEndian

    with untrusted(plane.path, "its pixels"):
        syntax = data.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian
        data.file_meta.TransferSyntaxUID = syntax
        if syntax.is_encapsulated and not get_decoder(syntax).is_available:
            raise InputError(
                f"its pixels are packed as {syntax.name}, which nothing installed can unpack",
                code="E-CODEC",
                file=plane.path,
                remedy=f"Run: pip install {_CURES.get(str(syntax), 'python-gdcm')}",
            )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            stored: NDArray[Any] = _low_bits(pixel_array(data, index=plane.frame, raw=True), data)
    if caught:
        remarks.add("W-DECODE")
    return stored


def _low_bits(stored: NDArray[Any], data: Any) -> NDArray[Any]:
    """Only BitsStored of the bits are the value: old scanners keep overlays in those above."""
    unused = stored.dtype.itemsize * 8 - int(data.get("BitsStored", stored.dtype.itemsize * 8))
    if unused <= 0 or stored.dtype.kind not in "iu":
        return stored
    return (stored << unused) >> unused


def _padding(data: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    if data.get("PixelPaddingValue") is None or stored.dtype.kind not in "iu":
        return None
    low, high = (
        int(np.array(int(data.get(name, data.PixelPaddingValue))).astype(stored.dtype))
        for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    )
    return (stored >= min(low, high)) & (stored <= max(low, high))
