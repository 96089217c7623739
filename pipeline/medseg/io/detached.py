"""Image data that lie in another file than their header: only ever in the header's own folder."""

from __future__ import annotations

from pathlib import Path

from medseg.core.errors import InputError
from medseg.io.files import require_file


def sibling(name: str, header: Path) -> Path:
    """The file that a header names as its data.

    Raises:
        InputError: `E-PATH-ESCAPE` when it lies outside the header's folder, is a list or a pattern; `E-PAIR-MISSING`.
    """
    folder = header.parent.resolve()
    target = folder / name
    is_list = name.upper().startswith("LIST") or "%" in name or "\0" in name
    if is_list or not target.resolve().is_relative_to(folder):
        raise InputError(
            f"its data must be one file in its own folder, its header names {name!r}",
            code="E-PATH-ESCAPE",
            file=header,
            remedy="Put the data file beside the header, or save the image as one file.",
        )
    if not target.exists():
        raise InputError(
            f"its data file {name!r} is missing",
            code="E-PAIR-MISSING",
            file=header,
            remedy="Put the data file beside the header.",
        )
    return require_file(target)
