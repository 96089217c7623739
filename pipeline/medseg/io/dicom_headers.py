"""DICOM headers without their pixels, read from bytes that nobody vouches for."""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from medseg.core.errors import InputError
from medseg.io.files import require_file

_PIXEL_TAGS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_READ = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "StudyInstanceUID",
    "PatientID",
    "FrameOfReferenceUID",
    "Modality",
    "ImageType",
    "PhotometricInterpretation",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "Units",
    "RescaleType",
)
_UNFRAMED = (b"\x02\0\0\0UL", b"\x08\0\x05\0CS", b"\x08\0\x08\0CS", b"\x08\0\0\0")
_INFLATED_LIMIT = 64 << 20
_FAULTS = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    LookupError,
    EOFError,
    OSError,
    RuntimeError,
    ArithmeticError,
    struct.error,
    zlib.error,
)
HEAD_BYTES = 1024
# pydicom logs the traceback of what it also raises
logging.getLogger("pydicom.pixels").setLevel(logging.CRITICAL)
# and its remarks quote values, a patient's name among them; the level is set anew when pydicom is loaded
logging.getLogger("pydicom").addFilter(lambda record: record.levelno >= logging.CRITICAL)


def is_dicom(head: bytes) -> bool:
    """The DICM mark, or a data set that begins without it."""
    return head[128:132] == b"DICM" or head.startswith(_UNFRAMED)


def read_object(path: Path, *, is_whole: bool = True) -> Any:
    """Read the data set of one file, whole or up to its pixels.

    Raises:
        InputError: `E-DICOM`, `E-NESTING`, or as `require_file`.
    """
    with require_file(path).open("rb") as stream:
        return parse(stream, path, is_whole=is_whole)[0]


def parse(stream: BinaryIO, path: Path, *, is_whole: bool = True) -> tuple[Any, tuple[int, int] | None]:
    """Read a data set, whole or up to its pixels.

    Returns:
        The data set; and where the stream stood at its pixel element and how long that is declared to be, -1 when it is
        encapsulated, or None when there is none.

    Raises:
        InputError: `E-DICOM`, `E-NESTING`.
    """
    from pydicom.filereader import read_partial

    pixels: list[tuple[int, int]] = []

    def at_pixels(tag: Any, _kind: str | None, length: int) -> bool:
        if int(tag) not in _PIXEL_TAGS:
            return False
        pixels.append((stream.tell(), -1 if length == 0xFFFFFFFF else length))
        return not is_whole

    with untrusted(path, "its header"):
        header = read_partial(stream, stop_when=at_pixels, force=True)
        for name in _READ:
            # pydicom decodes a value when it is first asked for
            header.get(name)
        list(header.file_meta)
    return header, pixels[0] if pixels else None


def whole_number(header: Any, name: str, default: int, path: Path) -> int:
    """An integer attribute, `default` when it is missing or empty.

    Raises:
        InputError: `E-DICOM`.
    """
    with untrusted(path, name):
        value = header.get(name)
        return default if value is None else int(value)


def texts(header: Any, name: str) -> tuple[str, ...]:
    """The values of an attribute that may have one, several or none."""
    value = header.get(name)
    values = value if isinstance(value, MutableSequence) else [value]
    return tuple(str(part) for part in values if part not in {None, ""})


def first_item(data: Any, name: str) -> Any:
    """The first item of a sequence; None when there is none."""
    sequence = data.get(name) if data is not None else None
    return sequence[0] if sequence else None


def untrusted_faults() -> tuple[type[Exception], ...]:
    """Whatever pydicom raises on damaged bytes."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (*_FAULTS, BytesLengthException, InvalidDicomError)


@contextmanager
def untrusted(path: Path, what: str) -> Iterator[None]:
    """Turn whatever pydicom raises on damaged bytes into one refusal.

    Its remarks are left out: the values that are used are checked where they are used. Its words are left out too, they
    quote the header, which may name the patient.

    Raises:
        InputError: `E-DICOM` or `E-NESTING`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RecursionError:
        message = "its sequences are nested deeper than can be read"
        raise InputError(message, code="E-NESTING", file=path, remedy="Export the series again.") from None
    except untrusted_faults() as error:
        message = f"{what} cannot be read ({type(error).__name__})"
        raise InputError(message, code="E-DICOM", file=path, remedy="Copy or export this file again.") from None


def is_deflated(head: bytes) -> bool:
    return _DEFLATED in head[132:] and head[132:138] == b"\x02\0\0\0UL"


def inflated_size(data: bytes, path: Path) -> int:
    """Bytes of a deflated data set, which may be no more than four times its file and 64 MiB.

    Raises:
        InputError: `E-GZ-CRC`, `E-GZ-TRUNC` or `E-TOO-LARGE`.
    """
    start = 144 + int.from_bytes(data[140:144], "little")
    limit = 4 * len(data) + _INFLATED_LIMIT
    decoder = zlib.decompressobj(-15)
    try:
        inflated = len(decoder.decompress(data[start:], limit + 1))
    except zlib.error as error:
        message = f"its compressed data set is damaged ({error})"
        raise InputError(message, code="E-GZ-CRC", file=path, remedy="Copy or export the series again.") from None
    if inflated > limit:
        message = f"its {len(data)} bytes inflate to more than {limit}"
        raise InputError(message, code="E-TOO-LARGE", file=path, remedy="Export it without deflate compression.")
    if not decoder.eof:
        message = "its compressed data set ends early"
        raise InputError(message, code="E-GZ-TRUNC", file=path, remedy="Copy or export the series again.")
    return inflated
