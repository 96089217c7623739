"""What a label means: its SNOMED codes, its side and its colour, so that a hospital's systems know what they hold."""

from __future__ import annotations

import difflib
import hashlib
import re
from typing import Any, Literal

from pydantic import Field, model_validator

from medseg.core.document import Document
from medseg.core.errors import UsageError
from medseg.core.sides import NamedSide, named_side, words_without_side

_SPELLINGS = (("tumour", "tumor"), ("oesoph", "esoph"), ("oedema", "edema"), ("haem", "hem"), ("grey", "gray"))
PRIVATE_SCHEME = "99MEDSEG"
_MOST_CODE_CHARACTERS, _MOST_MEANING_CHARACTERS = 16, 64
Name = tuple[tuple[str, ...], NamedSide | None]


class Code(Document):
    """One coded concept; in YAML and JSON `SCT 10200004 Liver` will do."""

    scheme: str = Field(min_length=1, max_length=16, description="coding scheme designator: SCT, DCM, UCUM, 99...")
    value: str = Field(min_length=1, max_length=_MOST_CODE_CHARACTERS)
    meaning: str = Field(min_length=1, max_length=_MOST_MEANING_CHARACTERS)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, values: Any) -> Any:
        if not isinstance(values, str):
            return values
        parts = values.split(maxsplit=2)
        if len(parts) < 3:
            message = "write scheme, code and meaning, as in `SCT 10200004 Liver`"
            raise ValueError(message)
        return dict(zip(("scheme", "value", "meaning"), parts, strict=True))


ANATOMY = Code(scheme="SCT", value="91723000", meaning="Anatomical Structure")
ABNORMALITY = Code(scheme="SCT", value="49755003", meaning="Morphologically Altered Structure")
TISSUE = Code(scheme="SCT", value="85756007", meaning="Tissue")
LEFT = Code(scheme="SCT", value="7771000", meaning="Left")
RIGHT = Code(scheme="SCT", value="24028007", meaning="Right")


class Term(Document):
    """What a label is called: category and type as DICOM segmentations want them.

    A lesion of an organ has the organ as its `region`.
    """

    type: Code
    category: Code = ANATOMY
    modifier: Code | None = Field(default=None, description="of the type: left, right, anterior ...")
    region: Code | None = Field(default=None, description="organ in which a lesion lies")
    region_modifier: Code | None = Field(default=None, description="side of the region")
    colour: tuple[int, int, int] = Field(description="red, green, blue, 0 to 255, that viewers are told to draw")
    synonyms: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _in_range(self) -> Term:
        if not all(0 <= part <= 255 for part in self.colour):
            message = f"colour must be three numbers of 0 to 255, got {list(self.colour)}"
            raise ValueError(message)
        return self

    @property
    def is_lesion(self) -> bool:
        return self.category == ABNORMALITY

    @property
    def meaning(self) -> str:
        """In words: `Neoplasm, Kidney, Left`."""
        parts = (self.type, self.modifier, self.region, self.region_modifier)
        return ", ".join(code.meaning for code in parts if code is not None)


class Terminology(Document):
    """`configs/terminology.yaml`, or a file of one's own laid over it."""

    schema_version: Literal[1] = 1
    terms: dict[str, Term] = Field(default_factory=dict)

    def over(self, other: Terminology) -> Terminology:
        """Both tables; where both know a name, this one decides."""
        mine = {words_of(name) for name in self.terms}
        kept = {name: term for name, term in other.terms.items() if words_of(name) not in mine}
        return Terminology(terms={**self.terms, **kept})

    def term(self, label: str, *, may_be_private: bool = False) -> Term:
        """The term of a label, by its words in any order; the side becomes a modifier.

        Args:
            label: As in a dataset: `left_kidney`, `kidney tumour`, `Lung upper lobe, L`.
            may_be_private: Give an unknown label a code of medseg's own scheme (99MEDSEG) instead of refusing it.

        Raises:
            UsageError: `E-CODE`, naming the nearest known labels.
        """
        index = {words_of(name): term for known, term in self.terms.items() for name in (known, *term.synonyms)}
        words, side = words_of(label)
        exact = index.get((words, side))
        if exact is not None:
            return exact
        found = index.get((words, None)) or _composed(words, index) or _unnumbered(words, index)
        if found is not None:
            return _sided(found, side)
        if may_be_private:
            return _private(label)
        known = sorted(name for known, term in self.terms.items() for name in (known, *term.synonyms))
        near = difflib.get_close_matches(" ".join(words), known, n=3, cutoff=0.5)
        raise UsageError(
            f"the label {label!r} has no SNOMED code" + (f"; near are {', '.join(near)}" if near else ""),
            code="E-CODE",
            remedy="Give its code in a file passed with --terminology or under `terms` of the dataset's manifest, "
            "or write a private code with --private-codes.",
        )


def private_code(meaning: str) -> Code:
    """A code of medseg's own scheme (99MEDSEG) for words that no public scheme is asked for."""
    value = re.sub(r"[^A-Z0-9]+", "_", meaning.upper()).strip("_")
    if not value or len(value) > _MOST_CODE_CHARACTERS:
        digest = hashlib.sha256(meaning.encode()).hexdigest().upper()
        value = f"{value[:9]}_{digest[:6]}" if value else digest[:8]
    return Code(scheme=PRIVATE_SCHEME, value=value, meaning=" ".join(meaning.split())[:_MOST_MEANING_CHARACTERS])


def words_of(label: str) -> Name:
    """What a label says: words in order of the alphabet, American and in the singular, and the side it states."""
    words = sorted(_singular(_american(word)) for word in words_without_side(label))
    return tuple(words), named_side(label)


def tracking_uid(study_uid: str, lesion: str) -> str:
    """A DICOM UID that is the same whenever this lesion of this study is written (PS3.5 B.2, from its hash)."""
    digest = hashlib.sha256(f"{study_uid}/{lesion}".encode()).digest()
    # the version and variant bits make it a UUID (RFC 9562, version 8: a hash of the maker's choice)
    number = int.from_bytes(digest[:16]) & ~(0xF << 76) & ~(0x3 << 62) | (0x8 << 76) | (0x2 << 62)
    return f"2.25.{number}"


def _american(word: str) -> str:
    for british, american in _SPELLINGS:
        word = word.replace(british, american)
    return word


def _singular(word: str) -> str:
    if word == "vertebrae":
        return "vertebra"
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _composed(words: tuple[str, ...], index: dict[Name, Term]) -> Term | None:
    """A lesion and the organ it lies in: `kidney tumour`, `lesion of the liver`."""
    useful = [word for word in words if word not in {"of", "the", "in"}]
    for (known, _), term in index.items():
        if term.is_lesion and set(known) <= set(useful):
            rest = tuple(word for word in useful if word not in known)
            organ = index.get((rest, None))
            if not rest or (organ is not None and not organ.is_lesion):
                region = None if organ is None else organ.type
                return term.model_copy(update={"region": region, "synonyms": ()})
    return None


def _unnumbered(words: tuple[str, ...], index: dict[Name, Term]) -> Term | None:
    """`rib 7` is a rib, `lesion 2` a lesion."""
    return index.get((tuple(word for word in words if not word.isdigit()), None))


def _sided(term: Term, side: NamedSide | None) -> Term:
    if side is None:
        return term
    code = LEFT if side == "left" else RIGHT
    return term.model_copy(update={"region_modifier" if term.region else "modifier": code})


def _private(label: str) -> Term:
    hue = int(hashlib.sha256(label.encode()).hexdigest()[:6], 16)
    colour = (96 + hue % 160, 96 + hue // 160 % 160, 96 + hue // 25600 % 160)
    return Term(type=private_code(label), category=TISSUE, colour=colour)
