"""The fields of a header that is written in words: NRRD's and MetaImage's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from medseg.core.errors import InputError

RECOPY = "The header is damaged: copy or convert the file again."


def damaged(message: str, path: Path) -> InputError:
    """The header cannot be believed: `E-HEADER`."""
    return InputError(message, code="E-HEADER", file=path, remedy=RECOPY)


def text_of(fields: Mapping[str, str], name: str, path: Path, *, default: str | None = None) -> str:
    """What the field says, or the default where the format has one.

    Raises:
        InputError: `E-HEADER` when it is not there.
    """
    text = fields.get(name, default)
    if text is None:
        message = f"its header lacks the field {name!r}"
        raise damaged(message, path)
    return text


def numbers_in(text: str, name: str, path: Path) -> list[float]:
    """Numbers with spaces between them.

    Args:
        text: Of the field.
        name: Of the field, for the message.
        path: The file.

    Raises:
        InputError: `E-HEADER`.
    """
    try:
        return [float(word) for word in text.split()]
    except ValueError:
        message = f"{name} must be numbers"
        raise damaged(message, path) from None


def wholes_in(text: str, name: str, path: Path) -> list[int]:
    """Whole numbers with spaces between them, at least one.

    Raises:
        InputError: `E-HEADER`.
    """
    numbers = numbers_in(text, name, path)
    if not numbers or not all(math.isfinite(number) and number.is_integer() for number in numbers):
        message = f"{name} must be whole numbers, found {text[:60]!r}"
        raise damaged(message, path)
    return [int(number) for number in numbers]
