"""Finding DICOM objects in a folder, a zip or a single file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from medseg.core.errors import InputError
from medseg.io.archives import Member, read_member, zip_members
from medseg.io.dicom_headers import HEAD_BYTES, inflated_size, is_deflated, is_dicom, parse, whole_number
from medseg.io.files import require_file

_SUFFIXES = (".dcm", ".ima", ".dicom")
_DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(frozen=True, eq=False)
class DicomFile:
    """One object with pixels or without.

    Attributes:
        path: Where it lies; inside a zip the archive's path with the member's.
        header: The data set up to the pixels.
        rows: 0 when the header has none.
        columns: 0 when the header has none.
        size: Bytes of the data set, inflated when it is deflated.
        pixel_bytes: Bytes of the pixel element; None when there is none, -1 when it is encapsulated.
    """

    path: Path
    member: Member | None
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
        with _opened(self.path.parent if self.member else self.path, self.member) as (stream, _):
            return parse(stream, self.path)[0]


def find_dicom(path: Path) -> tuple[list[DicomFile], int]:
    """Every DICOM object at `path` (a folder with its subfolders, a zip, a file), and how many other files there are.

    A DICOMDIR stands for the folder it lies in; the paths that it names are not followed.

    Raises:
        InputError: `E-NO-DICOM`, `E-EMPTY`, `E-NOT-DICOM`, `E-DICOM`, or as `zip_members`.
    """
    found: list[DicomFile] = []
    others = 0
    for place, file in each_file(path):
        if file is None and place == path:
            message = "it does not begin as a DICOM file does"
            raise InputError(message, code="E-NOT-DICOM", file=path, remedy="Check that this is the right file.")
        if file is not None and _is_directory(file):
            if place == path:
                return find_dicom(path.absolute().parent)
        elif file is not None and ("SOPClassUID" in file.header or "Rows" in file.header):
            found.append(file)
        else:
            others += 1
    if not found:
        message = f"no DICOM image was found among {others} file(s)"
        raise InputError(message, code="E-NO-DICOM", file=path, remedy="Give the folder that holds the series.")
    return found, others


def each_file(path: Path) -> Iterator[tuple[Path, DicomFile | None]]:
    """Every file at `path`, one after the other, read as a DICOM object; None for any other file.

    Raises:
        InputError: `E-EMPTY`, `E-DICOM`, or as `zip_members`.
    """
    for place, member in _candidates(path):
        with _opened(path if member else place, member) as (stream, size):
            file = _header_of(stream, size, place, member)
        yield place, file


def _is_directory(file: DicomFile) -> bool:
    return str(file.header.file_meta.get("MediaStorageSOPClassUID")) == _DIRECTORY


def _header_of(stream: BinaryIO, size: int, place: Path, member: Member | None) -> DicomFile | None:
    head = stream.read(HEAD_BYTES)
    if not head and place.name.lower().endswith(_SUFFIXES):
        message = "the file is empty (0 bytes)"
        raise InputError(message, code="E-EMPTY", file=place, remedy="Copy or export the series again.")
    if not is_dicom(head):
        return None
    deflated = is_deflated(head)
    if deflated:
        size = inflated_size(head + stream.read(), place)
    stream.seek(0)
    header, pixels = parse(stream, place, is_whole=False)
    rows, columns = whole_number(header, "Rows", 0, place), whole_number(header, "Columns", 0, place)
    pixel_bytes = None
    if pixels is not None:
        start, declared = pixels
        # of a deflated data set the stream's place says nothing
        pixel_bytes = min(declared, size if deflated else size - start)
    return DicomFile(place, member, header, rows, columns, size, pixel_bytes)


def _candidates(path: Path) -> Iterator[tuple[Path, Member | None]]:
    if path.is_dir():
        for place in sorted(path.rglob("*")):
            if place.is_file():
                yield require_file(place), None
    elif zipfile.is_zipfile(path):
        # the archive stays closed on disk: nothing is unpacked into a folder
        for member in zip_members(path):
            yield path / "_".join(member.place.parts), member
    else:
        yield require_file(path), None


@contextmanager
def _opened(path: Path, member: Member | None) -> Iterator[tuple[BinaryIO, int]]:
    """A file or a member of a zip, and its size."""
    if member is None:
        with path.open("rb") as stream:
            yield stream, path.stat().st_size
        return
    data = read_member(path, member)
    yield io.BytesIO(data), len(data)
