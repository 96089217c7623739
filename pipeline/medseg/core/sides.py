"""Left and right by name: which labels are the two sides of one thing."""

from __future__ import annotations

import re
from collections.abc import Iterable

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
# between kidney|L, L|Kidney and L|1, so that a side glued on by case or number is a word of its own
_SEAMS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
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


def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORD.findall(_SEAMS.sub("_", name)))
