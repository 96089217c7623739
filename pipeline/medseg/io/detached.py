"""Image data that lie in another file than their header: only ever in the header's own folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.core.errors import InputError
from medseg.io.files import changed, require_file

# `LIST` or `LIST 2` (one file per slice follows), and `slice%03d.raw 1 24 1`.
_SEVERAL = re.compile(r"LIST(\s+\d+)?|\S*%.*(\s+[+-]?\d+){2,}", re.IGNORECASE)


@contextmanager
def data_file(name: str | None, header: Path) -> Iterator[Path]:
    """The file that a header names as its data, or the header itself when it names none.

    Raises:
        InputError: `E-PATH-ESCAPE` when it lies outside the header's folder, is a list or a pattern; `E-PAIR-MISSING`;
            `E-INPUT-CHANGED` when the name leads elsewhere after reading than before.
    """
    if name is None:
        yield header
        return
    target = _sibling(name, header)
    yield target
    if _sibling(name, header) != target:
        raise changed(header)


def _sibling(name: str, header: Path) -> Path:
    """The real file, links followed."""
    folder = header.parent.resolve()
    target = folder / name.replace("\0", "")
    if _SEVERAL.fullmatch(name) or "\0" in name or not _lies_in(folder, target):
        raise InputError(
            "its data must be one file in its own folder, its header names another, or several",
            code="E-PATH-ESCAPE",
            file=header,
            remedy="Put the data file beside the header, or save the image as one file.",
        )
    try:
        return require_file(target).resolve()
    except InputError as error:
        if error.code != "E-NOT-FOUND":
            raise
        raise InputError(
            "the data file that its header names is missing",
            code="E-PAIR-MISSING",
            file=header,
            remedy="Put the data file beside the header.",
        ) from None


def _lies_in(folder: Path, target: Path) -> bool:
    try:
        return target.resolve().is_relative_to(folder)
    except RuntimeError:  # links that form a loop, which `require_file` names
        return target.is_relative_to(folder)
