"""A manifest without names: which columns stay, and what becomes of their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import date

from medseg.core.case import Case, Dataset
from medseg.core.document import suggest
from medseg.core.errors import UsageError

_DATE = re.compile(r"(\d{4})(-?)(\d{2})\2(\d{2})(?:[T ].*)?")
_BIRTH = re.compile(r"birth|\bdob\b|geburt", re.IGNORECASE)
_YEARS = re.compile(r"0*(\d+)([.,]\d+)?\s*Y?", re.IGNORECASE)
_SHORTEST_NAME = 4
_OLDEST_YEARS = 89

Move = Callable[[date], date | None]


def require_columns(dataset: Dataset, columns: Iterable[str]) -> None:
    """Each column that shall stay must be one.

    Raises:
        UsageError: `E-DEID-COLUMN`.
    """
    known = sorted({name for case in dataset.cases for name in case.attributes})
    for name in columns:
        if name not in known:
            message = f"no case has a column {name!r}"
            raise UsageError(message, code="E-DEID-COLUMN", remedy=suggest(name, known))


def kept_columns(case: Case, columns: Iterable[str], move: Move | None) -> dict[str, str]:
    """The columns of a case that stay.

    Args:
        case: The case.
        columns: What stays as it is, but for ages above 89, which become 90, and values that hold the case's or the
            patient's own name.
        move: Shifts a date; None removes dates, and dates of birth go in any case.
    """
    stays = set(columns)
    found = {
        name: _kept(name, value.strip(), case, stays=name in stays, move=move)
        for name, value in case.attributes.items()
    }
    return {name: value for name, value in found.items() if value}


def _kept(name: str, value: str, case: Case, *, stays: bool, move: Move | None) -> str:
    if _BIRTH.search(name):
        return ""
    match = _DATE.fullmatch(value)
    if match is not None:
        return _moved(match, move)
    if not stays or _names(value, case):
        return ""
    years = _YEARS.fullmatch(value) if name.lower() == "age" else None
    return str(_OLDEST_YEARS + 1) if years is not None and int(years[1]) > _OLDEST_YEARS else value


def _moved(match: re.Match[str], move: Move | None) -> str:
    """Without the time of day, in the same way of writing."""
    year, dash, month, day = match.groups()
    try:
        moved = None if move is None else move(date(int(year), int(month), int(day)))
    except ValueError:
        return ""
    return "" if moved is None else moved.strftime(f"%Y{dash}%m{dash}%d")


def _names(value: str, case: Case) -> bool:
    words = (case.id.lower(), case.patient.lower())
    return any(len(word) >= _SHORTEST_NAME and word in value.lower() for word in words)
