"""Left and right as they stand in the names of labels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

NamedSide = Literal["left", "right"]

_LEFT_RIGHT = (
    ("left", "right"),
    ("l", "r"),
    ("lt", "rt"),
    ("lh", "rh"),
    ("lft", "rgt"),
    ("sinister", "dexter"),
    ("sinistra", "dextra"),
    ("sinistrum", "dextrum"),
    ("sin", "dex"),
    ("links", "rechts"),
    ("linke", "rechte"),
    ("gauche", "droite"),
    ("gauche", "droit"),
)
# kidney|L and L|Kidney, left|2: a side glued on by case or number is a word of its own
_CASES = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NUMBERS = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
_SHORT = 2
_WORD = re.compile(r"[^\W_]+")


def left_right_pairs(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Labels (left, right) that differ in one word only, and that word is a side.

    `left_kidney`/`right_kidney`, `Kidney-L`/`Kidney-R`, `lh.insula`/`rh.insula`, `LKidney`/`RKidney`, `ren sinister`/
    `ren dexter`. A side is a whole word: `leftover` and `cleft` are none.
    """
    by_words = {_words(name): name for name in names}
    pairs = []
    for words, name in by_words.items():
        twins = (
            (*words[:place], right, *words[place + 1 :])
            for place, word in enumerate(words)
            for left, right in _LEFT_RIGHT
            if word == left
        )
        pairs += [(name, by_words[twin]) for twin in twins if twin in by_words]
    return tuple(pairs)


def named_side(name: str) -> NamedSide | None:
    """The side that one name states: `kidney_left`, `Kidney-R`; None when it states none, or both.

    A letter beside a number is no side: vertebra L1, segment 4r.
    """
    words = {word for word in _words(name) if len(word) > _SHORT} | {word.lower() for word in _split(name)}
    is_left, is_right = (not words.isdisjoint(sides) for sides in zip(*_LEFT_RIGHT, strict=True))
    if is_left == is_right:
        return None
    return "left" if is_left else "right"


def words_without_side(name: str) -> tuple[str, ...]:
    """The words of a name in lower case, without those that state a side; numbers stay on their letters (`l1`)."""
    sides = {word for pair in _LEFT_RIGHT for word in pair}
    long_sides = {word for word in sides if len(word) > _SHORT}
    kept = []
    for word in (word.lower() for word in _split(name)):
        if word not in sides:
            parts = _NUMBERS.sub("_", word).split("_")
            kept += [part for part in parts if part not in long_sides] if long_sides & set(parts) else [word]
    return tuple(kept)


def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for part in _split(name) for word in _NUMBERS.sub("_", part).split("_"))


def _split(name: str) -> list[str]:
    return _WORD.findall(_CASES.sub("_", name))
