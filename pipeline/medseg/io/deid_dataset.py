"""One DICOM data set made nameless: each attribute by the profile's table, and by a rule for its type outside of it."""

from __future__ import annotations

import re
from collections.abc import MutableSequence
from datetime import date
from typing import Any

from medseg.core.deidentification import DeidentifyOptions
from medseg.io.deid_key import Pseudonyms, is_uid
from medseg.io.deid_rules import Profile
from medseg.io.deid_tally import Tally
from medseg.io.dicom_headers import untrusted_faults

DUMMY = "ANONYMIZED"
_TEXT = {"LO", "SH", "LT", "ST", "UT", "UC"}
_WORDS = {*_TEXT, "CS", "AE", "AS"}
_BINARY = {"OB", "OW", "OF", "OD", "OL", "OV", "UN"}
_DATES = {"DA", "DT", "TM"}
_DUMMIES: dict[str, Any] = {
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "AS": "000Y",
    "DS": "0",
    "IS": "0",
    "UR": "urn:anonymized",
}
_OLDEST_YEARS = 89
_SHORTEST_NAME, _SHORTEST_NUMBER = 4, 5


class Cleaner:
    """Makes the data sets of one patient nameless, in place."""

    def __init__(
        self, profile: Profile, options: DeidentifyOptions, pseudonyms: Pseudonyms, patient: str, tally: Tally
    ) -> None:
        self._profile = profile
        self._options = options
        self._pseudonyms = pseudonyms
        self._patient = patient
        self._tally = tally
        self._identifiers: frozenset[str] = frozenset()

    def clean(self, data: Any) -> None:
        """Clean a whole data set with everything nested in it."""
        self._identifiers = frozenset(self._found_identifiers(data))
        self._clean(data)

    def _clean(self, data: Any) -> None:
        for tag in sorted(data.keys()):
            try:
                element = data[tag]
                action = self._action(element)
                before = None if element.VR in {"SQ", *_BINARY} or " or " in element.VR else str(element.value)
            except untrusted_faults():
                # what cannot be understood cannot be judged
                name, action, before = "unknown", "X", None
            else:
                name = _name_of(element)
            if action == "X":
                del data[tag]
                self._tally.removed[name] += 1
                continue
            changed = self._apply(element, action)
            if tag not in data:
                continue
            if not changed and element.VR in _WORDS and self._holds_identifier(element.value):
                del data[tag]
                self._tally.removed[name] += 1
            elif changed or (before is not None and str(element.value) != before):
                self._tally.replaced[name] += 1
            else:
                self._tally.kept[name] += 1

    def _action(self, element: Any) -> str:
        """X, Z, D, U, `clean`, `shift`, `inside` or `keep`."""
        tag, table, word = element.tag, self._profile.table, element.keyword
        if tag.is_private or tag.group & 0xFF00 in {0x5000, 0x6000} or not word:
            return "X"
        if word in table.structure_names and self._profile.is_name(str(element.value)):
            return "keep"
        return self._by_options(element) or self._profile.actions.get(int(tag)) or self._by_type(element)

    def _by_options(self, element: Any) -> str | None:
        """What an option says; None where none does."""
        table, word = self._profile.table, element.keyword
        if self._options.keep_characteristics and word in table.characteristics:
            return "age" if word == "PatientAge" else "keep"
        if self._options.shift_dates and element.VR in _DATES and word not in table.never_shifted:
            return "shift"
        code = self._profile.actions.get(int(element.tag))
        if word in table.structured_content or code == "U*" or (self._options.keep_uids and word in table.references):
            return "inside"
        return f"clean {code}" if self._may_keep_words(word) else None

    def _may_keep_words(self, word: str) -> bool:
        table = self._profile.table
        if self._options.keep_words and word in table.descriptors:
            return True
        return self._options.keep_characteristics and word in table.clean_characteristics

    def _by_type(self, element: Any) -> str:
        """Attributes that the table does not name."""
        table, kind, word = self._profile.table, element.VR, element.keyword
        if word in table.additions:
            return f"clean {table.additions[word]}"
        if kind in {"SQ", "UI"}:
            return "inside" if kind == "SQ" else "U"
        if kind in _TEXT:
            return "keep" if word in table.technical_text else "clean Z"
        if kind in {"PN", *_DATES}:
            return "Z"
        is_removed = kind in {"AE", "UR"} or (kind in _BINARY and word not in table.binary)
        return "X" if is_removed else "keep"

    def _apply(self, element: Any, action: str) -> bool:
        """Do it; whether the value became another one for sure."""
        if action == "keep":
            return False
        if action == "inside":
            for item in element.value:
                self._clean(item)
            return False
        if action == "U":
            element.value = _each(element.value, self._uid)
        elif action == "shift":
            element.value = _each(element.value, lambda text: self._shifted(element.VR, text))
        elif action == "age":
            element.value = _capped(str(element.value))
        elif action.startswith("clean"):
            kept = _each(element.value, self._profile.known_words)
            fallback = action.split()[-1]
            if not _has_text(kept):
                return self._remove_or_replace(element, fallback)
            element.value = kept
        else:
            return self._remove_or_replace(element, action)
        return False

    def _remove_or_replace(self, element: Any, action: str) -> bool:
        if element.VR == "SQ":
            for item in list(element.value) if action == "D" else []:
                _fill(item)
            if action != "D":
                element.value = []
            return True
        if element.keyword in {"PatientName", "PatientID"}:
            element.value = self._patient
        elif action == "D":
            element.value = _dummy(element.VR)
        else:
            element.value = None
        return True

    def _uid(self, text: str) -> str:
        return text if self._options.keep_uids and is_uid(text) else self._pseudonyms.uid(text)

    def _shifted(self, kind: str, text: str) -> str:
        """A date moved by whole days; the time of day stays, for times of one study belong together."""
        if kind == "TM":
            return text if re.fullmatch(r"\d{2,6}(\.\d{1,6})?", text) else ""
        if re.fullmatch(r"\d{8}" if kind == "DA" else r"\d{8}(\d{2,6}(\.\d{1,6})?)?([+-]\d{4})?", text) is None:
            return ""
        try:
            day = self._pseudonyms.moved(date.fromisoformat(text[:8]), self._patient)
        except ValueError:
            return ""
        return "" if day is None else f"{day:%Y%m%d}{text[8:]}"

    def _found_identifiers(self, data: Any) -> set[str]:
        """Names and numbers of people in a header, in lower case."""
        found: set[str] = set()
        for tag in sorted(data.keys()):
            try:
                element = data[tag]
                values = element.value if element.VR == "SQ" else _texts(element.value)
            except untrusted_faults():
                continue
            if element.VR == "SQ":
                for item in values:
                    found |= self._found_identifiers(item)
            elif element.VR == "PN" or element.keyword in self._profile.table.identifying:
                found |= {part for text in values for part in re.split(r"[\s^=,;]+", text.lower())}
        return {part for part in found if self._identifies(part)}

    def _identifies(self, part: str) -> bool:
        shortest = _SHORTEST_NUMBER if part.isdigit() else _SHORTEST_NAME
        return len(part) >= shortest and not self._profile.is_known(part)

    def _holds_identifier(self, value: Any) -> bool:
        text = " ".join(_texts(value)).lower()
        return any(part in text for part in self._identifiers)


def _name_of(element: Any) -> str:
    if element.tag.is_private:
        return "private"
    return str(element.keyword) or "unknown"


def _fill(item: Any) -> None:
    """Every attribute of an item that stands for another becomes a dummy."""
    for tag in sorted(item.keys()):
        element = item[tag]
        if element.tag.is_private or element.VR in {"SQ", "UI", *_BINARY} or " or " in element.VR:
            del item[tag]
        else:
            element.value = _dummy(element.VR)


def _dummy(kind: str) -> Any:
    if kind in _DUMMIES:
        return _DUMMIES[kind]
    if kind in _BINARY or " or " in kind:
        return b"\0\0"
    return DUMMY if kind in {*_WORDS, "PN"} else 0


def _capped(age: str) -> str:
    is_old = re.fullmatch(r"\d{3}Y", age) is not None and int(age[:3]) > _OLDEST_YEARS
    return "090Y" if is_old else age if re.fullmatch(r"\d{3}[DWMY]", age) else ""


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, MutableSequence) else [value]
    return [str(part) for part in values if part is not None]


def _each(value: Any, change: Any) -> Any:
    if value in (None, ""):
        return value
    changed = [change(text) for text in _texts(value)]
    return changed if len(changed) > 1 else changed[0]


def _has_text(value: Any) -> bool:
    return any(_texts(value)) if value else False
