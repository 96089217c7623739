"""Bring two cohorts together case by case, and refuse those that were not measured alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from medseg.core.comparison import PairedScore
from medseg.core.errors import UsageError
from medseg.core.findings import CaseReport, CohortReport

# The settings that the compared numbers depend on, and what they are where a report does not name them.
_WEIGHTY = {"tolerance_mm": "1.0", "tolerances_mm": "{}", "mode": "surface", "resample_reference": "False"}
_METRICS = ("dice", "iou", "nsd", "hd95_mm", "hd_mm", "assd_mm")
_SHOWN = 5


@dataclass(frozen=True)
class Pair:
    """One case under both models, and what of it can be compared."""

    first: CaseReport
    second: CaseReport
    scores: tuple[PairedScore, ...]


@dataclass(frozen=True)
class Pairing:
    """All pairs, and the cases and labels that only one side has."""

    pairs: tuple[Pair, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]


def pair_cohorts(first: CohortReport, second: CohortReport, *, common: bool = False) -> Pairing:
    """Pair by case id.

    Args:
        first: Its order of cases is kept.
        second: Of the same cases.
        common: Leave out what only one side has instead of refusing.

    Raises:
        UsageError: `E-COMPARE-SETTINGS`, measured with different settings; `E-COMPARE-REFERENCE`, against different
            references; `E-COMPARE-CASES`, different cases or labels.
    """
    _require_same_settings(first, second)
    by_id = {case.case: case for case in second.cases}
    both = [(case, by_id[case.case]) for case in first.cases if case.case in by_id]
    only_first, only_second = _lacking(first, second), _lacking(second, first)
    if not both or ((only_first or only_second) and not common):
        raise UsageError(
            f"the two do not hold the same cases and labels: {len(both)} cases in both; "
            f"{_listed(only_first)} only in the first; {_listed(only_second)} only in the second",
            code="E-COMPARE-CASES",
            remedy="Predict and evaluate the missing ones, or add --common to compare what both have."
            if both
            else "Name two evaluations of the same dataset.",
        )
    _require_same_references(both)
    return Pairing(tuple(Pair(a, b, tuple(_scores(a, b))) for a, b in both), only_first, only_second)


def _lacking(one: CohortReport, other: CohortReport) -> tuple[str, ...]:
    """Cases and labels of `one` that `other` does not have."""
    cases = {case.case for case in other.cases}
    labels = {summary.label for summary in other.labels}
    missing = [case.case for case in one.cases if case.case not in cases]
    return (*missing, *(f"label {summary.label}" for summary in one.labels if summary.label not in labels))


def _require_same_settings(first: CohortReport, second: CohortReport) -> None:
    sides = [report.provenance.settings for report in (first, second)]
    chosen = {name: [str(side.get(name, default)) for side in sides] for name, default in _WEIGHTY.items()}
    differing = [f"{name} {left} and {right}" for name, (left, right) in chosen.items() if left != right]
    if differing:
        raise UsageError(
            f"the two were measured with different settings: {', '.join(differing)}",
            code="E-COMPARE-SETTINGS",
            remedy="Run `medseg evaluate` on both with the same settings.",
        )


def _require_same_references(both: Iterable[tuple[CaseReport, CaseReport]]) -> None:
    wrong = [
        f"{a.case} ({reason})" for a, b in both if (reason := next((why for why, of in _REASONS if of(a, b)), None))
    ]
    if wrong:
        raise UsageError(
            f"the two were not measured against the same references: {_listed(tuple(wrong))}",
            code="E-COMPARE-REFERENCE",
            remedy="Run `medseg evaluate` on both folders of predictions with the same manifest.",
        )


def _unnamed(a: CaseReport, b: CaseReport) -> bool:
    return any(case.metrics and case.reference_sha256 is None for case in (a, b))


def _volumes_differ(a: CaseReport, b: CaseReport) -> bool:
    """A label name that stands for another value of the same file shows here."""
    volumes = {row.label: row.reference_volume_ml for row in a.metrics}
    return any(volumes.get(row.label, row.reference_volume_ml) != row.reference_volume_ml for row in b.metrics)


def _classes_differ(a: CaseReport, b: CaseReport) -> bool:
    answers = {answer.head: (answer.reference, set(answer.probabilities)) for answer in a.classes}
    return any(
        answers.get(answer.head, (answer.reference, set(answer.probabilities)))
        != (answer.reference, set(answer.probabilities))
        for answer in b.classes
    )


_REASONS: tuple[tuple[str, Callable[[CaseReport, CaseReport], bool]], ...] = (
    ("a report does not say which reference it used", _unnamed),
    ("another file", lambda a, b: a.reference_sha256 != b.reference_sha256),
    ("another volume of a label", _volumes_differ),
    ("another class", _classes_differ),
)


def _scores(a: CaseReport, b: CaseReport) -> Iterable[PairedScore]:
    rows = {row.label: row for row in b.metrics}
    shared = [(row, rows[row.label]) for row in a.metrics if row.label in rows]
    if len(shared) > 1:
        means = tuple(sum(pair[side].dice for pair in shared) / len(shared) for side in (0, 1))
        yield PairedScore(kind="case", subject="all labels", values={"dice": (means[0], means[1])})
    for mine, other in shared:
        values = {name: (float(getattr(mine, name)), float(getattr(other, name))) for name in _METRICS}
        yield PairedScore(kind="label", subject=mine.label, values=values, presence=(mine.presence, other.presence))
    answers = {answer.head: answer for answer in b.classes}
    for answer in a.classes:
        if answer.reference is None or answer.head not in answers:
            continue
        sides = (answer, answers[answer.head])
        right = [float(side.answer == answer.reference) for side in sides]
        sure = [side.probabilities.get(answer.reference, 0.0) for side in sides]
        errors = [_squared_error(side.probabilities, answer.reference) for side in sides]
        values = {"accuracy": (right[0], right[1]), "brier": (errors[0], errors[1]), "probability": (sure[0], sure[1])}
        yield PairedScore(kind="head", subject=answer.head, values=values)


def _squared_error(probabilities: dict[str, float], reference: str) -> float:
    """One case's part of `scores.brier_score`: halved for two classes, whose errors are the same twice."""
    total = sum((value - (name == reference)) ** 2 for name, value in probabilities.items())
    return total / 2 if len(probabilities) == 2 else total


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}" if names else "none"
