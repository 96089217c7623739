"""What is known of a patient beside the image (age, sex ...), as numbers that a classification head can read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from medseg.core.document import Document
from medseg.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SAYS_NOTHING = {"", "-", "?", "n/a", "na", "nan", "none", "null", "unknown"}
_FARTHEST = 5.0  # deviations, as of the features beside it


class ClinicalColumn(Document):
    """One column of the manifest's attributes, and how it becomes numbers.

    A number becomes its distance from the mean in deviations, a word one place per level; a last place says that the
    value is missing, and then all the others are 0.
    """

    name: str = Field(min_length=1)
    levels: tuple[str, ...] = Field(default=(), description="words that training cases had; empty: a number")
    mean: float = 0.0
    deviation: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> ClinicalColumn:
        if len(set(self.levels)) < len(self.levels):
            message = f"levels of {self.name!r} must differ, got {self.levels}"
            raise ValueError(message)
        return self

    @property
    def width(self) -> int:
        return (len(self.levels) or 1) + 1


def encoded_width(columns: Sequence[ClinicalColumn]) -> int:
    """Of what `encode` gives."""
    return sum(column.width for column in columns)


def given(attributes: Mapping[str, str], columns: Sequence[ClinicalColumn]) -> dict[str, str]:
    """What a case says in these columns; those that say nothing are left out."""
    found = {column.name: attributes.get(column.name, "").strip() for column in columns}
    return {name: value for name, value in found.items() if says_something(value)}


def says_something(value: str) -> bool:
    """Whether it is a value, not one of the ways to write that there is none."""
    return value.strip().lower() not in _SAYS_NOTHING


def as_number(value: str) -> float | None:
    """A number, also an age as DICOM writes it (`063Y`); None for anything else."""
    try:
        number = float(value.strip().removesuffix("Y"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def encode(columns: Sequence[ClinicalColumn], attributes: Mapping[str, str]) -> tuple[float, ...]:
    """What the head reads of a case, column after column.

    Raises:
        InputError: E-CLINICAL-VALUE for a word where training cases had numbers.
    """
    values = given(attributes, columns)
    return tuple(number for column in columns for number in _encoded(column, values.get(column.name)))


def remarks(columns: Sequence[ClinicalColumn], attributes: Mapping[str, str]) -> tuple[str, ...]:
    """`W-CLINICAL` for each column that the head must do without."""
    values = given(attributes, columns)
    missing = [column.name for column in columns if column.name not in values]
    unseen = [one.name for one in columns if one.levels and values.get(one.name, one.levels[0]) not in one.levels]
    words = [f"{name} is not given" for name in missing]
    words += [f"{name} has a value that no training case had" for name in unseen]
    return tuple(f"W-CLINICAL: {one}; the diagnosis was made without it" for one in words)


def _encoded(column: ClinicalColumn, value: str | None) -> list[float]:
    if value is None or (column.levels and value not in column.levels):
        return [0.0] * (column.width - 1) + [1.0]
    if column.levels:
        return [*(float(value == level) for level in column.levels), 0.0]
    number = as_number(value)
    if number is None:
        raise InputError(
            f"{column.name} is {value!r}, not a number",
            code="E-CLINICAL-VALUE",
            remedy="Correct the value, or leave it empty where it is not known.",
        )
    return [min(max((number - column.mean) / column.deviation, -_FARTHEST), _FARTHEST), 0.0]
