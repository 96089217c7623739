"""Tables as CSV that a spreadsheet opens without harm."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_text(rows: Iterable[Sequence[str | float]]) -> str:
    """RFC 4180 text; what a spreadsheet would run as a formula gets a leading apostrophe, numbers stay numbers."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\r\n").writerows([_safe(cell) for cell in row] for row in rows)
    return stream.getvalue()


def _safe(cell: str | float) -> str | float:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell
