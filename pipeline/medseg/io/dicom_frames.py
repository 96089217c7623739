"""What a DICOM header claims about its pixels, checked before any is decoded, and the numbers that it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medseg.core.errors import GeometryError, InputError
from medseg.io.dicom_files import DicomFile
from medseg.io.dicom_headers import whole_number

_ENCAPSULATED_RATIO = 10_000
_AGAIN = "Export the series again."
_CONVERT = "Export one real number per pixel (original CT, MR or PET images)."


def number_of_frames(file: DicomFile) -> int:
    """Check what the header claims against the bytes there are.

    Raises:
        InputError: `E-NO-PIXELS`, `E-RGB`, `E-PHOTOMETRIC`, `E-DIMS`, `E-SIZE-MISMATCH`, `E-SHORT-DATA` or `E-DICOM`.
    """
    header, path = file.header, file.path
    if file.pixel_bytes is None:
        raise InputError("it has no pixels", code="E-NO-PIXELS", file=path, remedy=_AGAIN)
    samples = whole_number(header, "SamplesPerPixel", 1, path)
    photometric = str(header.get("PhotometricInterpretation", ""))
    if samples != 1 or photometric.startswith(("RGB", "YBR", "PALETTE")):
        message = f"expected one number per pixel, found {samples if samples != 1 else 'colours'}"
        raise InputError(message, code="E-RGB", file=path, remedy=_CONVERT)
    if photometric == "MONOCHROME1" and header.get("Modality") == "CT":
        message = "its grey scale is inverted (MONOCHROME1), so its numbers are no Hounsfield units"
        raise InputError(message, code="E-PHOTOMETRIC", file=path, remedy=_CONVERT)
    rows, columns, frames = file.rows, file.columns, whole_number(header, "NumberOfFrames", 1, path)
    bits = whole_number(header, "BitsAllocated", 0, path)
    if min(rows, columns, frames, bits) < 1:
        message = f"{rows} rows, {columns} columns, {frames} frames and {bits} bits cannot be"
        raise InputError(message, code="E-DIMS", file=path, remedy=_AGAIN)
    _refuse_claim(file, rows * columns * frames * max(bits, 8) // 8)
    return frames


def _refuse_claim(file: DicomFile, claimed: int) -> None:
    is_packed = file.pixel_bytes == -1
    if is_packed and claimed <= _ENCAPSULATED_RATIO * file.size:
        return
    found = file.size if is_packed else min(file.pixel_bytes or 0, file.size)
    if not is_packed and claimed <= found:
        return
    code = "E-SIZE-MISMATCH" if is_packed or claimed > 100 * file.size else "E-SHORT-DATA"
    message = f"rows x columns x frames need {claimed} bytes of pixels, the file has {found}"
    raise InputError(message, code=code, file=file.path, remedy="Copy or export this slice again.")


def numbers(file: DicomFile, holders: Sequence[Any], name: str, count: int) -> list[float] | None:
    """A decimal attribute of the first data set that has it; None when none has.

    Raises:
        InputError: `E-DICOM`.
        GeometryError: `E-SPACING`.
    """
    holder = next((holder for holder in holders if holder is not None and name in holder), None)
    if holder is None:
        return None
    try:
        value = holder[name].value
        found = [float(part) for part in ([value] if count == 1 else value or [])]
    except (ValueError, TypeError, OverflowError):
        raise _bad_number(file, name, "no numbers") from None
    if found and len(found) != count:
        raise _bad_number(file, name, f"{len(found)} numbers, expected {count}")
    return found or None


def _bad_number(file: DicomFile, name: str, found: str) -> InputError:
    message = f"{name} cannot be read: {found}"
    if name == "PixelSpacing":
        return GeometryError(message, code="E-SPACING", file=file.path, remedy=_AGAIN)
    return InputError(message, code="E-DICOM", file=file.path, remedy=_AGAIN)
