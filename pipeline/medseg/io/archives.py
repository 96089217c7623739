"""Zip and tar archives: the one place where members become bytes or files.

Everything is refused that could leave the folder it is unpacked into, become anything else than a plain file, or grow
without bound; bytes are counted as they come out, whatever the archive claims. Archives inside archives stay closed.
"""

from __future__ import annotations

import secrets
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from medseg.core.errors import InputError
from medseg.io.archive_names import UNPACK, MemberNames
from medseg.io.files import require_file
from medseg.io.streams import ByteStream, Codec, open_stream

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2")
_LARGEST_BYTES = 16 << 30
_RATIO, _SPARE_BYTES = 200, 64 << 20
_MOUTHFUL = 1 << 20
_ENCRYPTED = 0x1
_LOCAL = struct.Struct("<4s22xHH")
_COPY = "Copy it again, or unpack it and give the folder."


class Member(NamedTuple):
    """A file inside a zip.

    Attributes:
        name: As the archive has it.
        place: Relative to where the archive would be unpacked.
        size: Bytes, as claimed and checked when it is read.
    """

    name: str
    place: PurePosixPath
    size: int
    offset: int
    packed: int
    method: int
    crc: int


def zip_members(path: Path) -> tuple[Member, ...]:
    """The files in a zip, by name, all of them fit to be unpacked; nothing is inflated yet.

    Raises:
        InputError: `E-ZIP`, `E-ENCRYPTED`, `E-TOO-LARGE`, `E-PATH-ESCAPE`, `E-ARCHIVE-MEMBER` or `E-PATH-TOO-LONG`.
    """
    with _faults(path), zipfile.ZipFile(require_file(path)) as archive:
        entries = archive.infolist()
    names = MemberNames(path)
    members = [_member(entry, names, path) for entry in entries]
    files = [member for member in members if member is not None]
    _require_bounded(sum(member.size for member in files), path)
    return tuple(sorted(files, key=lambda member: member.name))


def read_member(path: Path, member: Member) -> bytes:
    """The bytes of a file in a zip.

    Raises:
        InputError: `E-ZIP`, when they are not as many as was claimed or not the ones that were packed.
    """
    with _faults(path), path.open("rb") as file:
        if member.offset < 0:
            message = f"its member {member.name!r:.120} should begin before the archive does"
            raise zipfile.BadZipFile(message)
        file.seek(member.offset)
        magic, name_bytes, extra_bytes = _LOCAL.unpack(file.read(_LOCAL.size))
        file.seek(name_bytes + extra_bytes, 1)
        packed = file.read(member.packed)
        if member.method == zipfile.ZIP_STORED:
            data, is_whole = packed, True
        else:
            decoder = zlib.decompressobj(-zlib.MAX_WBITS)
            data = decoder.decompress(packed, member.size + 1)
            is_whole = decoder.eof or len(data) > member.size
    if magic != b"PK\x03\x04" or not is_whole or len(data) != member.size or zlib.crc32(data) != member.crc:
        message = f"its member {member.name!r:.120} is not what the archive says it is"
        raise InputError(message, code="E-ZIP", file=path, remedy=_COPY)
    return data


def extract(path: Path, folder: Path) -> None:
    """Unpack a zip or tar (also .tar.gz and .tar.bz2) into a new folder that only its owner can enter.

    It appears in one step, when everything in it is right.

    Raises:
        InputError: As `zip_members` and `read_member`; `E-NOT-WRITABLE` where something of that name is there already.
    """
    if folder.exists():
        message = "there is something of this name already; nothing was unpacked"
        raise InputError(message, code="E-NOT-WRITABLE", file=folder, remedy="Remove it, or choose another name.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".tmp-{secrets.token_hex(6)}")
    temporary.mkdir(mode=0o700)
    try:
        with _faults(path):
            for place, parts in _members(path):
                target = temporary / place
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with target.open("xb") as file:
                    file.writelines(parts)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A zip or tar as a folder that only its owner can enter, gone afterwards; anything else as it is.

    Raises:
        InputError: As `extract`.
    """
    if not (path.is_file() and path.name.lower().endswith(SUFFIXES)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="medseg-") as temporary:
        folder = Path(temporary, "archive")
        extract(path, folder)
        yield folder


def _members(path: Path) -> Iterator[tuple[PurePosixPath, Iterator[bytes]]]:
    with require_file(path).open("rb") as file:
        is_zip = file.read(4) in {b"PK\x03\x04", b"PK\x05\x06"}
    if is_zip:
        for member in zip_members(path):
            yield member.place, iter((read_member(path, member),))
    else:
        yield from _untarred(path)


def _untarred(path: Path) -> Iterator[tuple[PurePosixPath, Iterator[bytes]]]:
    """Members in order, each to be read before the next; the archive's own checksum is compared at the end."""
    names = MemberNames(path)
    with path.open("rb") as file:
        codec: Codec | None = "bzip2" if file.read(3) == b"BZh" else None
    with open_stream(path, codec=codec) as stream:
        counted = _Counted(stream, path)
        with tarfile.open(fileobj=counted, mode="r|") as archive:  # type: ignore[call-overload]
            for entry in archive:
                place = names.add(entry.name, is_folder=entry.isdir())
                if entry.isdir():
                    continue
                opened = archive.extractfile(entry) if entry.isreg() and not entry.issparse() else None
                if opened is None:
                    raise names.refusal(entry.name, "is a link, a device or another thing that is no plain file")
                yield place, _bites(opened, entry, path)
        counted.finish()


def _bites(opened: IO[bytes], entry: tarfile.TarInfo, path: Path) -> Iterator[bytes]:
    left = entry.size
    while left:
        data = opened.read(min(left, _MOUTHFUL))
        if not data:
            message = f"its member {entry.name!r:.120} ends early"
            raise InputError(message, code="E-ZIP", file=path, remedy=_COPY)
        left -= len(data)
        yield data


class _Counted:
    """What comes out of a packed tar, with a limit."""

    def __init__(self, stream: ByteStream, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._count = 0
        self._end = b""

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._count += len(data)
        self._end = (self._end + data)[-tarfile.BLOCKSIZE :]
        _require_bounded(self._count, self._path)
        return data

    def finish(self) -> None:
        """Read to the end: there a packed archive has its checksum, and every archive an empty block.

        Raises:
            InputError: `E-ZIP`, or what decompression finds.
        """
        while self.read(_MOUTHFUL):
            pass
        if self._end.strip(b"\0") or len(self._end) < tarfile.BLOCKSIZE:
            message = "the archive ends without its end mark"
            raise InputError(message, code="E-ZIP", file=self._path, remedy=_COPY)


def _member(entry: zipfile.ZipInfo, names: MemberNames, path: Path) -> Member | None:
    """One entry of a zip's directory; None for a folder."""
    name = entry.orig_filename
    is_folder = entry.filename.endswith("/")  # `is_dir` fails where there is no name
    place = names.add(name, is_folder=is_folder)
    if entry.flag_bits & _ENCRYPTED:
        message = f"its member {name!r:.120} is encrypted"
        raise InputError(message, code="E-ENCRYPTED", file=path, remedy="Unpack it with its password.")
    kind = entry.external_attr >> 28
    if kind not in {0, 0o4, 0o10}:
        raise names.refusal(name, "is a link, a device or another thing that is no plain file")
    if is_folder:
        return None
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        message = f"its member {name!r:.120} is packed by method {entry.compress_type}, which is not read"
        raise InputError(message, code="E-ZIP", file=path, remedy=UNPACK)
    offset, packed = entry.header_offset, entry.compress_size
    return Member(name, place, entry.file_size, offset, packed, entry.compress_type, entry.CRC)


def _require_bounded(size: int, path: Path) -> None:
    packed = path.stat().st_size
    if size > min(_LARGEST_BYTES, _RATIO * packed + _SPARE_BYTES):
        message = f"more than {size:,} bytes would come out of an archive of {packed:,}"
        raise InputError(message, code="E-TOO-LARGE", file=path, remedy=UNPACK)


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Whatever the libraries raise on a damaged archive.

    Raises:
        InputError: `E-ZIP`.
    """
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError, ValueError, RecursionError,
            NotImplementedError, OverflowError) as error:  # fmt: skip
        message = f"the archive cannot be unpacked ({error})"
        raise InputError(message, code="E-ZIP", file=path, remedy=_COPY) from None
