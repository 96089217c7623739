"""Whether an input is still what a result was made from."""

from __future__ import annotations

import hashlib
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from medseg.core.batch import InputSeal
from medseg.io.files import changed, require_path, sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_HEADERS = (".hdr", ".img", ".hdr.gz", ".img.gz", ".nhdr", ".mhd")
_HEADER_BYTES = 1 << 16
_DATA_FILE = re.compile(rb"^(?:data ?file|ElementDataFile)\s*[:=]\s*([^\r\n]+)", re.IGNORECASE | re.MULTILINE)


@contextmanager
def sealed(path: Path) -> Iterator[Callable[[], InputSeal]]:
    """Yield a function that seals what was read inside the block.

    Raises:
        InputError: `E-INPUT-CHANGED` when it is no longer what it was at the beginning of the block.
    """
    before = _stamp(path)

    def seal() -> InputSeal:
        found = InputSeal(name=path.name, stamp=before, sha256=_content(path))
        if _stamp(path) != before:
            raise changed(path)
        return found

    yield seal


def still_holds(seal: InputSeal, path: Path) -> bool:
    """Whether the content is the sealed one: by names, sizes and times when they agree, else by its hash."""
    return seal.name == path.name and (seal.stamp == _stamp(path) or seal.sha256 == _content(path))


def _stamp(path: Path) -> str:
    stats = [(name, file.stat()) for name, file in _files(path)]
    return _digest(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)


def _content(path: Path) -> str:
    files = _files(path)
    if len(files) == 1:
        return sha256_of(files[0][1])
    return _digest(f"{name} {sha256_of(file)}" for name, file in files)


def _files(path: Path) -> list[tuple[str, Path]]:
    """Every file of a folder; a header with the data that lie beside it."""
    require_path(path)
    if path.is_dir():
        return sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    if not path.name.lower().endswith(_HEADERS):
        return [(path.name, path)]
    stem = path.name.split(".")[0]
    with path.open("rb") as file:
        named = {match.strip().decode(errors="replace") for match in _DATA_FILE.findall(file.read(_HEADER_BYTES))}
    beside = {
        file.name: file for file in path.parent.iterdir() if file.name.split(".")[0] == stem or file.name in named
    }
    return sorted((name, file) for name, file in beside.items() if file.is_file())


def _digest(lines: Iterator[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
