"""Left and right as they stand in the names of labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

NamedSide = Literal["left", "right"]

_OTHER = {"left": "right", "lt": "rt", "lh": "rh", "l": "r"}
_LEFT = re.compile(rf"(?<![a-z])({'|'.join(_OTHER)})(?![a-z])", re.IGNORECASE)
# Alone, a letter beside a number is no side: vertebra L1, segment 4r.
_SIDE_WORDS: dict[NamedSide, re.Pattern[str]] = {
    "left": re.compile(r"(?<![a-z])left(?![a-z])|(?<![a-z0-9])(lt|lh|l)(?![a-z0-9])", re.IGNORECASE),
    "right": re.compile(r"(?<![a-z])right(?![a-z])|(?<![a-z0-9])(rt|rh|r)(?![a-z0-9])", re.IGNORECASE),
}


def left_right_pairs(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Labels that differ only in their side: `left_kidney`/`right_kidney`, `Kidney-L`/`Kidney-R`, `kidney lt`/`rt`."""
    known = {name.lower(): name for name in names}
    pairs = []
    for name in names:
        for match in _LEFT.finditer(name):
            other = _OTHER[match.group().lower()]
            twin = known.get((name[: match.start()] + other + name[match.end() :]).lower())
            if twin is not None:
                pairs.append((name, twin))
    return tuple(pairs)


def named_side(name: str) -> NamedSide | None:
    """The side that one name states: `kidney_left`, `Kidney-R`; None when it states none, or both."""
    stated = [side for side, words in _SIDE_WORDS.items() if words.search(name)]
    return stated[0] if len(stated) == 1 else None
