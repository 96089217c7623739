"""Finding DICOM objects in a folder, a zip or a single file, and reading their headers without their pixels."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medseg.core.errors import InputError
from medseg.io.files import require_file

_PIXEL_TAGS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_SUFFIXES = (".dcm", ".ima", ".dicom")
_READ = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesDescription",
    "Modality",
    "ImageType",
    "PhotometricInterpretation",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "AcquisitionNumber",
    "EchoTime",
    "TriggerTime",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
)
_UNFRAMED = (b"\x02\0\0\0UL", b"\x08\0\x05\0CS", b"\x08\0\x08\0CS", b"\x08\0\0\0")
_INFLATED_LIMIT = 64 << 20
_ZIP_FILES, _ZIP_BYTES, _ZIP_RATIO = 100_000, 16 << 30, 200
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


@dataclass(frozen=True, eq=False)
class DicomFile:
    """One object with pixels or without.

    Attributes:
        path: Where it lies; inside a zip the archive's path with the member's.
        header: The data set up to the pixels.
        rows: 0 when the header has none.
        columns: 0 when the header has none.
        size: Bytes of the data set, inflated when it is deflated.
        pixel_bytes: Length that the pixel element declares; None when there is none, -1 when it is encapsulated.
    """

    path: Path
    member: str | None
    header: Any
    rows: int
    columns: int
    size: int
    pixel_bytes: int | None

    def load(self) -> Any:
        """Read the whole data set.

        Raises:
            InputError: `E-DICOM`.
        """
        data = _bytes_of(self.path.parent if self.member else self.path, self.member)
        return parse(data, self.path)[0]


def find_dicom(path: Path) -> tuple[list[DicomFile], int]:
    """Every DICOM object at `path` (a folder with its subfolders, a zip, a file), and how many other files there are.

    Raises:
        InputError: `E-NO-DICOM`, `E-EMPTY`, `E-ZIP`, `E-TOO-LARGE`, `E-NOT-DICOM` or `E-DICOM`.
    """
    found: list[DicomFile] = []
    others = 0
    for place, member in _candidates(path):
        data = _bytes_of(path if member else place, member)
        is_named = place.name.lower().endswith(_SUFFIXES)
        if not data and is_named:
            message = "the file is empty (0 bytes)"
            raise InputError(message, code="E-EMPTY", file=place, remedy="Copy or export the series again.")
        if not is_dicom(data):
            if place == path:
                message = "it does not begin as a DICOM file does"
                raise InputError(message, code="E-NOT-DICOM", file=path, remedy="Check that this is the right file.")
            others += 1
            continue
        size = _inflated_size(data, place)
        header, pixel_bytes = parse(data, place, is_whole=False)
        if "SOPClassUID" in header or "Rows" in header:
            rows, columns = whole_number(header, "Rows", 0, place), whole_number(header, "Columns", 0, place)
            found.append(DicomFile(place, member, header, rows, columns, size, pixel_bytes))
        else:
            others += 1
    if not found:
        message = f"no DICOM image was found among {others} file(s)"
        raise InputError(message, code="E-NO-DICOM", file=path, remedy="Give the folder that holds the series.")
    return found, others


def is_dicom(data: bytes) -> bool:
    """The DICM mark, or a data set that begins without it."""
    return data[128:132] == b"DICM" or data.startswith(_UNFRAMED)


def parse(data: bytes, path: Path, *, is_whole: bool = True) -> tuple[Any, int | None]:
    """Read a data set, whole or up to its pixels, and the declared length of the pixel element.

    Raises:
        InputError: `E-DICOM`, `E-NESTING`.
    """
    from pydicom.filereader import read_partial

    lengths: list[int] = []

    def at_pixels(tag: Any, _kind: str | None, length: int) -> bool:
        if int(tag) not in _PIXEL_TAGS:
            return False
        lengths.append(-1 if length == 0xFFFFFFFF else length)
        return not is_whole

    with untrusted(path, "its header"):
        header = read_partial(io.BytesIO(data), stop_when=at_pixels, force=True)
        for name in _READ:
            # pydicom decodes a value when it is first asked for
            header.get(name)
    return header, lengths[0] if lengths else None


def whole_number(header: Any, name: str, default: int, path: Path) -> int:
    """An integer attribute, `default` when it is missing or empty.

    Raises:
        InputError: `E-DICOM`.
    """
    with untrusted(path, name):
        value = header.get(name)
        return default if value is None else int(value)


@contextmanager
def untrusted(path: Path, what: str) -> Iterator[None]:
    """Turn whatever pydicom raises on damaged bytes into one refusal.

    Its remarks are left out: the values that are used are checked where they are used.

    Raises:
        InputError: `E-DICOM` or `E-NESTING`.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RecursionError as error:
        message = "its sequences are nested deeper than can be read"
        raise InputError(message, code="E-NESTING", file=path, remedy="Export the series again.") from error
    except (*_FAULTS, BytesLengthException, InvalidDicomError) as error:
        message = f"{what} cannot be read ({error})"
        raise InputError(message, code="E-DICOM", file=path, remedy="Copy or export this file again.") from error


def _inflated_size(data: bytes, path: Path) -> int:
    """Bytes of the data set; a deflated one may not inflate to more than four times its file and 64 MiB."""
    if _DEFLATED not in data[132:1024] or data[132:138] != b"\x02\0\0\0UL":
        return len(data)
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


def _candidates(path: Path) -> Iterator[tuple[Path, str | None]]:
    if path.is_dir():
        for place in sorted(path.rglob("*")):
            if place.is_file() and place.name != "DICOMDIR":
                yield require_file(place), None
    elif zipfile.is_zipfile(path):
        yield from _members(path)
    else:
        yield require_file(path), None


def _members(path: Path) -> Iterator[tuple[Path, str]]:
    """Members of an archive that stays closed on disk: nothing is unpacked into a folder, so no name can escape one."""
    with _opened(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    total = sum(entry.file_size for entry in entries)
    packed = max(path.stat().st_size, 1)
    if len(entries) > _ZIP_FILES or total > _ZIP_BYTES or total > _ZIP_RATIO * packed + _INFLATED_LIMIT:
        message = f"{len(entries)} files of {total} bytes in an archive of {packed} bytes are more than is unpacked"
        raise InputError(message, code="E-TOO-LARGE", file=path, remedy="Unpack it yourself and give the folder.")
    for entry in sorted(entries, key=lambda entry: entry.filename):
        if PurePosixPath(entry.filename).name != "DICOMDIR":
            yield path / entry.filename.replace("/", "_"), entry.filename


def _bytes_of(path: Path, member: str | None) -> bytes:
    if member is None:
        return path.read_bytes()
    with _opened(path) as archive, archive.open(member) as opened:
        # a forged size cannot overflow: no more than the directory's size is taken
        return opened.read(archive.getinfo(member).file_size)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        message = f"the archive cannot be unpacked ({error})"
        remedy = "Copy it again, or unpack it and give the folder."
        raise InputError(message, code="E-ZIP", file=path, remedy=remedy) from None
