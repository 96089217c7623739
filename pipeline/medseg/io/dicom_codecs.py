"""Unpacking one frame: which installed decoder is trusted with which compressed form."""

from __future__ import annotations

import warnings
from typing import Any

from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.io.dicom_planes import Plane

_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
# 12 bits of it are unpacked by nothing with a permissive licence
_JPEG_12_BITS = (("pylibjpeg",), "pylibjpeg pylibjpeg-libjpeg")
_JPEG_LOSSLESS = (("gdcm", "pylibjpeg"), "python-gdcm")
_JPEG_LS = (("pyjpegls", "gdcm", "pylibjpeg"), "pyjpegls")
_JPEG_2000 = (("pylibjpeg", "pillow", "gdcm"), "pylibjpeg pylibjpeg-openjpeg")
# Transfer syntax: pydicom's decoders in the order of preference, and what to install when there is none. The order is
# ours so that the same file gives the same values whatever else is installed.
_DECODERS = {
    "1.2.840.10008.1.2.4.50": (("pillow", "gdcm", "pylibjpeg"), "pillow"),
    _JPEG_EXTENDED: (("gdcm", "pylibjpeg", "pillow"), "python-gdcm"),
    "1.2.840.10008.1.2.4.57": _JPEG_LOSSLESS,
    "1.2.840.10008.1.2.4.70": _JPEG_LOSSLESS,
    "1.2.840.10008.1.2.4.80": _JPEG_LS,
    "1.2.840.10008.1.2.4.81": _JPEG_LS,
    "1.2.840.10008.1.2.4.90": _JPEG_2000,
    "1.2.840.10008.1.2.4.91": _JPEG_2000,
    "1.2.840.10008.1.2.4.201": _JPEG_2000,
    "1.2.840.10008.1.2.4.202": _JPEG_2000,
    "1.2.840.10008.1.2.4.203": _JPEG_2000,
    "1.2.840.10008.1.2.5": (("pydicom", "pylibjpeg", "gdcm"), "pydicom"),
}


def decode_frame(data: Any, plane: Plane) -> tuple[NDArray[Any], bool]:
    """The stored values (rows, columns) of one frame, and whether the decoder remarked on them.

    Raises:
        InputError: `E-CODEC`, naming the slice. What pydicom raises on damaged pixels passes through.
    """
    from pydicom.pixels import pixel_array

    data.file_meta.TransferSyntaxUID = _syntax(data)
    decoder = _decoder(data, plane) if _syntax(data).is_encapsulated else ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stored = pixel_array(data, index=plane.frame, raw=True, decoding_plugin=decoder)
        return _low_bits(stored, data), bool(caught)


def _syntax(data: Any) -> Any:
    from pydicom.uid import ImplicitVRLittleEndian

    return data.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian


def _decoder(data: Any, plane: Plane) -> str:
    from pydicom.pixels import get_decoder

    syntax = _syntax(data)
    preferred, package = _DECODERS.get(str(syntax), ((), ""))
    if syntax == _JPEG_EXTENDED and int(data.get("BitsStored", 8)) > 8:
        preferred, package = _JPEG_12_BITS
    available = get_decoder(syntax).available_plugins if preferred else ()
    found = next((name for name in preferred if name in available), None)
    if found is None:
        form = syntax.name if syntax.name != syntax else "no standard form"
        raise InputError(
            f"its pixels are packed as {form}, which nothing installed can unpack",
            code="E-CODEC",
            file=plane.path,
            remedy=f"Run: pip install {package}" if package else "Export it uncompressed or as lossless JPEG.",
        )
    return found


def _low_bits(stored: NDArray[Any], data: Any) -> NDArray[Any]:
    """Only BitsStored of the bits are the value: old scanners keep overlays in those above."""
    unused = stored.dtype.itemsize * 8 - int(data.get("BitsStored", stored.dtype.itemsize * 8))
    if unused <= 0 or stored.dtype.kind not in "iu":
        return stored
    return (stored << unused) >> unused
