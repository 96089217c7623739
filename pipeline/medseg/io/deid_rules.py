"""The table of the profile, looked up by tag, and the words that descriptions may keep."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

from medseg.core.deidentification import ProfileTable
from medseg.core.terminology import Terminology
from medseg.io.packaged import packaged, read_yaml

_WORD = re.compile(r"[^\s,;:()\[\]_/\\]+")
_THICKNESS = re.compile(r"\d{1,2}([.,]\d{1,2})?mm", re.IGNORECASE)
_LESION_NUMBER = re.compile(r"-\d{1,3}$")
_HEX = re.compile(r"[0-9A-F]{8}")


@dataclass(frozen=True)
class Profile:
    """The table, ready to be asked.

    Attributes:
        actions: Tag to X, Z, D, U or U*.
        words: In lower case.
        names: Of labels, in lower case.
    """

    table: ProfileTable
    actions: dict[int, str]
    words: frozenset[str]
    names: frozenset[str] = frozenset()

    def known_words(self, text: str) -> str:
        """What of a text may stay: words of the list, and thicknesses as in `1.5mm`."""
        return " ".join(word for word in _WORD.findall(text) if self.is_known(word))

    def knowing(self, names: Iterable[str]) -> Profile:
        """The same, with the names that a dataset gives its labels."""
        return replace(self, names=frozenset(name.lower() for name in names))

    def is_name(self, text: str) -> bool:
        """Whether a text is the name of a label, or of one of its lesions: `liver tumour-2`."""
        return _LESION_NUMBER.sub("", text.strip().lower()) in self.names

    def is_known(self, word: str) -> bool:
        return _LESION_NUMBER.sub("", word.lower()) in self.words or _THICKNESS.fullmatch(word) is not None


@cache
def read_profile() -> Profile:
    """Raises: UsageError: `E-CONFIG` when a packaged table was damaged."""
    from pydicom.datadict import tag_for_keyword

    path = packaged("configs", "deidentify.yaml")
    table = ProfileTable.parse(read_yaml(path), file=path)
    actions: dict[int, str] = {}
    for code, names in table.actions.items():
        for name in names:
            tag = int(name, 16) if _HEX.fullmatch(name) else tag_for_keyword(name)
            if tag is not None:  # an older dictionary: what it does not know is removed anyway
                actions[int(tag)] = code.rsplit("/", 1)[-1]
    terms = packaged("configs", "terminology.yaml")
    named = Terminology.parse(read_yaml(terms), file=terms).terms
    anatomy = (word for known, term in named.items() for name in (known, *term.synonyms) for word in name.split())
    return Profile(table, actions, frozenset(word.lower() for word in (*table.words, *anatomy)))
