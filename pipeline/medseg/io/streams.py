"""Bytes of a file in order, inflated when compressed and always checked to the last one.

Reading compressed data to its end is what finds damage: the checksum is the last thing in the file.
"""

from __future__ import annotations

import bz2
import os
import zlib
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.io.files import opened

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

Codec = Literal["raw", "gzip", "zlib", "bzip2"]

GZIP_MAGIC = b"\x1f\x8b"
MAX_BYTES = 8 << 30
_BITE = 1 << 18
_MOUTHFUL = 1 << 20
_TRAILING_LIMIT = 64 << 20
# Deflate cannot shrink by more than 1032: a header that claims more is wrong. Bytes stored as they are may be a few
# short of the claim (a cut file, told apart from a wrong header by this factor); bzip2 has no such limit.
_LARGEST_RATIO = {"raw": 1000, "gzip": 1040, "zlib": 1040, "bzip2": 50_000_000}
_DAMAGED = "Copy or download the file again: part of it is missing or changed."


def inflater() -> Any:
    """The module that inflates: `isal` where it is installed (twice as fast), zlib otherwise."""
    return import_module("isal.isal_zlib") if find_spec("isal") else zlib


class ByteStream:
    """A file's bytes after decompression.

    Attributes:
        codec: How the file is packed.
        size: Bytes on disk, from where reading began.
    """

    def __init__(self, file: IO[bytes], path: Path, codec: Codec, *, size: int) -> None:
        self._path = path
        self.codec = codec
        self.size = size
        self._chunks = _chunks(file, path, codec)
        self._pending = memoryview(b"")

    def peek(self, size: int) -> bytes:
        """Return the next bytes without consuming them; fewer at the end."""
        while len(self._pending) < size and (chunk := next(self._chunks, None)) is not None:
            self._pending = memoryview(bytes(self._pending) + chunk)
        return bytes(self._pending[:size])

    def read(self, size: int) -> bytes:
        """Return the next bytes; fewer at the end."""
        data = self.peek(size)
        self._pending = self._pending[size:]
        return data

    def skip(self, size: int) -> int:
        """Pass over bytes without keeping them; return how many there were."""
        left = size
        while left:
            taken = len(self.read(min(left, _MOUTHFUL)))
            if not taken:
                break
            left -= taken
        return size - left

    def refuse_claim(self, claimed: int) -> None:
        """Compare what a header promises with what the file can hold, before any memory is taken.

        Raises:
            InputError: `E-SIZE-MISMATCH`, `E-TOO-LARGE`.
        """
        if claimed > self.size * _LARGEST_RATIO[self.codec]:
            message = f"its header claims {claimed} bytes of voxels, a file of {self.size} bytes cannot hold them"
            raise InputError(message, code="E-SIZE-MISMATCH", file=self._path, remedy=_DAMAGED)
        if claimed > MAX_BYTES:
            raise InputError(
                f"its {claimed} bytes of voxels are more than the {MAX_BYTES} that are read at once",
                code="E-TOO-LARGE",
                file=self._path,
                remedy="Check the header; crop or resample the volume if it really is that large.",
            )

    def array(self, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        """Read exactly `count` numbers.

        Raises:
            InputError: `E-SIZE-MISMATCH`, `E-TOO-LARGE`, `E-SHORT-DATA`, or what decompression finds.
        """
        claimed = count * dtype.itemsize
        self.refuse_claim(claimed)
        values = np.empty(count, dtype)
        target = values.view(np.uint8)
        position = 0
        while position < claimed:
            if not self._pending:
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise self._short(claimed, str(position), "E-SHORT-DATA")
                self._pending = memoryview(chunk)
            part = self._pending[: claimed - position]
            target[position : position + len(part)] = np.frombuffer(part, np.uint8)
            position += len(part)
            self._pending = self._pending[len(part) :]
        return values

    def _short(self, claimed: int, found: str, code: str) -> InputError:
        message = f"expected {claimed} bytes of voxels, found {found}"
        return InputError(message, code=code, file=self._path, remedy=_DAMAGED)

    def finish(self) -> tuple[str, ...]:
        """Read to the end so that checksums are compared.

        Returns:
            `W-TRAILING` when bytes were left over.

        Raises:
            InputError: `E-SIZE-MISMATCH` when more than 64 MiB are left over, or what decompression finds.
        """
        extra = len(self._pending)
        for chunk in self._chunks:
            extra += len(chunk)
            if extra > _TRAILING_LIMIT:
                message = f"more than {_TRAILING_LIMIT >> 20} MiB follow the voxels that its header declares"
                raise InputError(message, code="E-SIZE-MISMATCH", file=self._path, remedy=_DAMAGED)
        return ("W-TRAILING",) if extra else ()


@contextmanager
def open_stream(path: Path, *, codec: Codec | None = None, offset: int = 0) -> Iterator[ByteStream]:
    """Open a regular file for reading in order.

    Args:
        path: The file.
        offset: Where in the file to begin.
        codec: How the bytes from `offset` on are packed; None looks for the gzip magic.

    Raises:
        InputError: `E-EMPTY`, or as `opened`.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise InputError("the file is empty (0 bytes)", code="E-EMPTY", file=path, remedy=_DAMAGED)
        if codec is None:
            codec = "gzip" if file.read(2) == GZIP_MAGIC else "raw"
        file.seek(offset)
        yield ByteStream(file, path, codec, size=size - offset)


def _chunks(file: IO[bytes], path: Path, codec: Codec) -> Iterator[bytes]:
    if codec == "gzip":
        return _inflate_members(file, path)
    if codec == "zlib":
        return _inflate(file, path)
    if codec == "bzip2":
        return _unpack_bzip2(file, path)
    return iter(lambda: file.read(_MOUTHFUL), b"")


def _inflate_members(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """Gzip is any number of members one after the other; zeros may pad the end; anything else is trailing garbage."""
    data = file.read(_BITE)
    while data[:2] == GZIP_MAGIC:
        data = yield from _inflate_one(file, path, data, 31)
        while len(data) < len(GZIP_MAGIC) or not data.strip(b"\0"):
            more = file.read(_BITE)
            # half a magic may stand at the end of a bite
            data = data.lstrip(b"\0") + more
            if not more:
                break
    while data:
        yield data
        data = file.read(_BITE)


def _inflate(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """A zlib or gzip stream, whichever the first bytes say."""
    data = file.read(_BITE)
    data = yield from _inflate_one(file, path, data, 31 if data[:2] == GZIP_MAGIC else 15)
    while data:
        yield data
        data = file.read(_BITE)


def _inflate_one(file: IO[bytes], path: Path, data: bytes, wbits: int) -> Generator[bytes, None, bytes]:
    module = inflater()
    decoder = module.decompressobj(wbits=wbits)
    while not decoder.eof:
        try:
            yield decoder.decompress(data, _MOUTHFUL)
        except module.error as error:
            message = f"its compressed data is damaged ({str(error).lower()})"
            raise InputError(message, code="E-GZ-CRC", file=path, remedy=_DAMAGED) from None
        data = decoder.unconsumed_tail or (b"" if decoder.eof else file.read(_BITE))
        if not data and not decoder.eof:
            raise InputError("its compressed data ends early", code="E-GZ-TRUNC", file=path, remedy=_DAMAGED)
    return bytes(decoder.unused_data)


def _unpack_bzip2(file: IO[bytes], path: Path) -> Iterator[bytes]:
    try:
        with bz2.BZ2File(file) as unpacked:
            yield from iter(lambda: unpacked.read(_MOUTHFUL), b"")
    except EOFError:
        raise InputError("its compressed data ends early", code="E-GZ-TRUNC", file=path, remedy=_DAMAGED) from None
    except OSError as error:
        message = f"its compressed data is damaged ({str(error).lower()})"
        raise InputError(message, code="E-GZ-CRC", file=path, remedy=_DAMAGED) from None
