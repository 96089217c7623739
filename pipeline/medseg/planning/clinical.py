"""Which columns of the manifest join the diagnosis, and how they become numbers: learnt from training cases alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medseg.core.clinical import ClinicalColumn, as_number, says_something
from medseg.core.document import suggest
from medseg.core.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.core.case import Case, Dataset
    from medseg.planning.network import Notes

_MOST_LEVELS = 8


def clinical_columns(dataset: Dataset, names: Sequence[str], notes: Notes) -> tuple[ClinicalColumn, ...]:
    """Each chosen column as a number or as levels.

    Args:
        dataset: Its test cases are not looked at.
        names: Of the columns, in the order in which the head reads them.
        notes: Takes the reasons.

    Raises:
        UsageError: E-CLINICAL-COLUMN when a column cannot tell anything, or there is nothing to tell.
        InputError: E-CLINICAL-VALUE naming the case, for a word among numbers.
    """
    if names and not (dataset.heads or dataset.targets):
        message = f"there is no class or value that {', '.join(names)} could help to tell"
        remedy = "Leave `clinical` out, or give the cases classes or values."
        raise UsageError(message, code="E-CLINICAL-COLUMN", remedy=remedy)
    cases = _taught(dataset)
    return tuple(_column(name, cases, notes) for name in dict.fromkeys(names))


def require_given(dataset: Dataset, columns: Sequence[ClinicalColumn], names: Sequence[str]) -> None:
    """Make sure that the columns of a plan are in the dataset, and are those asked for, if any were.

    Raises:
        UsageError: E-CLINICAL-COLUMN.
    """
    known = [column.name for column in columns]
    if names and set(names) != set(known):
        message = f"this plan reads {', '.join(known) or 'no clinical columns'}, not {', '.join(names)}"
        remedy = "Edit `clinical` in the plan, or leave --plan or --clinical out."
        raise UsageError(message, code="E-CLINICAL-COLUMN", remedy=remedy)
    for name in known:
        if not any(says_something(case.attributes.get(name, "")) for case in _taught(dataset)):
            raise _absent(name, _taught(dataset))


def _taught(dataset: Dataset) -> list[Case]:
    return [case for case in dataset.cases if case.split != "test"]


def _absent(name: str, cases: Sequence[Case]) -> UsageError:
    known = sorted({column for case in cases for column in case.attributes})
    return _unusable(f"no training case has a value of {name!r}", suggest(name, known))


def _column(name: str, cases: Sequence[Case], notes: Notes) -> ClinicalColumn:
    given = {case.id: case.attributes.get(name, "").strip() for case in cases}
    given = {case: value for case, value in given.items() if says_something(value)}
    if not given:
        raise _absent(name, cases)
    missing = f"; {len(cases) - len(given)} of {len(cases)} training cases have none" if len(given) < len(cases) else ""
    numbers = {case: as_number(value) for case, value in given.items()}
    words = [case for case, number in numbers.items() if number is None]
    different = sorted(set(given.values()))
    values = [number for number in numbers.values() if number is not None]
    if len(different) == 1 or (not words and len(set(values)) == 1):
        raise _unusable(f"{name!r} is {different[0]} in every training case that has it", "it tells nothing")
    if words and 2 * len(words) < len(given):
        raise InputError(
            f"{name} is {given[words[0]]!r}, and a number in {len(values)} of {len(given)} training cases",
            code="E-CLINICAL-VALUE",
            case=words[0],
            remedy="Correct the value, or leave it empty where it is not known.",
        )
    if words or _are_codes(values):
        if len(different) > _MOST_LEVELS:
            message = f"{name!r} has {len(different)} different words, at most {_MOST_LEVELS} can be learnt"
            raise _unusable(message, "group them in the manifest")
        why = "words" if words else "two whole numbers: a code"
        notes.add(f"clinical column {name}", f"levels {', '.join(different)}", f"{why}{missing}")
        return ClinicalColumn(name=name, levels=tuple(different))
    mean, deviation = float(np.mean(values)), float(np.std(values))
    described = f"number: mean {mean:.4g}, deviation {deviation:.4g}"
    notes.add(f"clinical column {name}", described, f"of the training cases{missing}")
    return ClinicalColumn(name=name, mean=mean, deviation=deviation)


def _are_codes(values: Sequence[float]) -> bool:
    """0 and 1, or 1 and 2: a third value would be another answer (often: not known), not a larger one."""
    return len(set(values)) == 2 and all(value.is_integer() and 0 <= value < 10 for value in values)


def _unusable(message: str, hint: str) -> UsageError:
    return UsageError(message, code="E-CLINICAL-COLUMN", remedy=f"Choose other columns with --clinical: {hint}.")
