"""Class probabilities of every voxel, compressed in chunks: an array of Zarr format 2 in one zip file.

Any Zarr library opens it, and so do zipfile and zlib alone: member `.zarray` says shape, chunks and number type,
`.zattrs` the names of the channels and the affine, and member `c.i.j.k` is one chunk, packed by zlib, in C order; one
that is not there is all zero. Chunks hold one channel of one slab: writing needs no more than that in memory.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.io.files import require_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medseg.core.geometry import Shape

SUFFIX = ".probabilities.zarr.zip"
_DTYPE = "<f2"
_LEVEL = 1
_META, _ATTRIBUTES = ".zarray", ".zattrs"


class ProbabilityFile:
    """Written chunk by chunk while the case is in the network; whole once `close` was called.

    Args:
        path: To write; begun anew by every `begin`.
        names: Of the channels.
        geometry: Grid of the last three axes.
    """

    def __init__(self, path: Path, names: Sequence[str], geometry: Geometry) -> None:
        self._path, self._names, self._geometry = path, tuple(names), geometry
        self._archive: zipfile.ZipFile | None = None
        self._chunk: Shape = geometry.shape

    def begin(self, chunk: Shape) -> None:
        """Start with an empty file of chunks of (1, *chunk)."""
        self.close()
        self._chunk = chunk
        self._archive = zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED)
        meta = {
            "zarr_format": 2,
            "shape": [len(self._names), *self._geometry.shape],
            "chunks": [1, *chunk],
            "dtype": _DTYPE,
            "compressor": {"id": "zlib", "level": _LEVEL},
            "fill_value": 0.0,
            "order": "C",
            "filters": None,
        }
        attributes = {"channels": self._names, "affine_ras_mm": self._geometry.affine.tolist()}
        self._put(_META, json.dumps(meta).encode())
        self._put(_ATTRIBUTES, json.dumps(attributes).encode())

    def write(self, channel: int, start: Shape, block: NDArray[np.float16]) -> None:
        """Put one chunk; at the far border of the grid it may be cut short.

        Args:
            channel: Number of the class.
            start: Its first voxel, a multiple of the chunk.
            block: (i, j, k) values of 0 to 1.
        """
        if not block.any():
            return
        full = np.zeros(self._chunk, _DTYPE)
        full[tuple(slice(0, size) for size in block.shape)] = block
        numbers = (channel, *(first // size for first, size in zip(start, self._chunk, strict=True)))
        self._put(".".join(map(str, numbers)), zlib.compress(full.tobytes(), _LEVEL))

    def close(self) -> None:
        """Finish the file."""
        if self._archive is not None:
            self._archive.close()
        self._archive = None

    def _put(self, name: str, data: bytes) -> None:
        if self._archive is None:
            message = "nothing was begun"
            raise ValueError(message)
        self._archive.writestr(zipfile.ZipInfo(name), data)


def read_probabilities(path: Path, channel: str | None = None) -> tuple[NDArray[np.float16], tuple[str, ...], Geometry]:
    """Read what `infer --save-probabilities` wrote.

    Args:
        path: `CASE.probabilities.zarr.zip`.
        channel: Only this one; the others are not unpacked.

    Returns:
        (C, I, J, K) probabilities, the names of the channels, and the grid.

    Raises:
        InputError: `E-PROBABILITIES` when it is damaged, is none, or has no such channel.
    """
    try:
        with zipfile.ZipFile(require_file(path)) as archive:
            meta, attributes = (json.loads(archive.read(name)) for name in (_META, _ATTRIBUTES))
            names = tuple(attributes["channels"])
            wanted = range(len(names)) if channel is None else [names.index(channel)]
            (_, *shape), (_, *chunk) = meta["shape"], meta["chunks"]
            array = np.zeros((len(wanted), *shape), meta["dtype"])
            for place in product(range(len(wanted)), *(range(-(-n // c)) for n, c in zip(shape, chunk, strict=True))):
                _fill(array, archive, (wanted[place[0]], *place[1:]), place, chunk)
            geometry = Geometry((shape[0], shape[1], shape[2]), np.array(attributes["affine_ras_mm"]))
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"no whole file of probabilities{'' if channel is None else f' with a channel {channel!r}'} ({error})",
            code="E-PROBABILITIES",
            file=path,
            remedy="Predict the case again with --save-probabilities.",
        ) from error
    return array, names if channel is None else (channel,), geometry


def _fill(
    array: NDArray[Any], archive: zipfile.ZipFile, stored: tuple[int, ...], place: tuple[int, ...], chunk: Sequence[int]
) -> None:
    name = ".".join(map(str, stored))
    if name not in archive.NameToInfo:
        return
    data = zlib.decompress(archive.read(name), bufsize=math.prod(chunk) * array.itemsize)
    block = np.frombuffer(data, array.dtype).reshape(chunk)
    starts = [number * size for number, size in zip(place[1:], chunk, strict=True)]
    box = tuple(slice(first, first + size) for first, size in zip(starts, chunk, strict=True))
    target = array[place[0]][box]
    target[...] = block[tuple(slice(0, size) for size in target.shape)]
