"""Every number of two models set against each other: difference, interval, test, verdict, sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medseg.core.comparison import Contrast, Kind
from medseg.ops.metrics import METRICS
from medseg.ops.paired import (
    auroc_difference,
    detectable_difference,
    holm,
    patients_needed,
    spread_of_patients,
)
from medseg.ops.statistics import paired_comparison
from medseg.workflows.pairing import Pair
from medseg.workflows.verdicts import sentence_of, verdict_of

_HIGHER_IS_BETTER = {"accuracy": True, "brier": False}
_NOT_TESTED = "probability"  # of the right class: it orders the cases, the Brier score tests it


class _Row(NamedTuple):
    """One metric of one case."""

    patient: str
    first: float
    second: float


def contrasts_of(pairs: Sequence[Pair], *, first: str, second: str) -> tuple[Contrast, ...]:
    """Per metric and label or head, in the order of the cases' scores; AUROC after each head's other numbers.

    The tests of one metric over several labels (or heads) are corrected together (Holm).

    Args:
        pairs: At least one.
        first: Name of the first model, for the sentences.
        second: Name of the second model.
    """
    raw = [*_means(pairs), *_areas(pairs)]
    families: dict[tuple[Kind, str], list[int]] = {}
    for position, (contrast, _) in enumerate(raw):
        families.setdefault((contrast.kind, contrast.metric), []).append(position)
    finished: list[Contrast | None] = [None] * len(raw)
    for members in families.values():
        corrected = holm([raw[position][0].p for position in members])
        for position, p_holm in zip(members, corrected, strict=True):
            finished[position] = _finished(*raw[position], p_holm=p_holm, num_tests=len(members), names=(first, second))
    return tuple(contrast for contrast in finished if contrast is not None)


def _finished(
    contrast: Contrast, deviation: float, *, p_holm: float, num_tests: int, names: tuple[str, str]
) -> Contrast:
    known = bool(np.isfinite(deviation)) and deviation > 0
    full = contrast.model_copy(
        update={
            "p_holm": p_holm,
            "num_tests": num_tests,
            "detectable_difference": detectable_difference(deviation, contrast.num_patients, num_tests=num_tests)
            if known
            else None,
            "patients_needed": patients_needed(deviation, contrast.difference, num_tests=num_tests)
            if known and contrast.difference
            else None,
        }
    )
    judged = full.model_copy(update={"verdict": verdict_of(full)})
    return judged.model_copy(update={"sentence": sentence_of(judged, first=names[0], second=names[1])})


def _means(pairs: Sequence[Pair]) -> list[tuple[Contrast, float]]:
    """What has a number in every case, with the standard deviation of the patients' mean differences."""
    tables: dict[tuple[Kind, str, str], list[_Row]] = {}
    for pair in pairs:
        for score in pair.scores:
            for metric, (before, after) in score.values.items():
                if metric != _NOT_TESTED:
                    key = (score.kind, score.subject, metric)
                    tables.setdefault(key, []).append(_Row(pair.first.patient, before, after))
    largest_mm = max(pair.first.grid.diagonal_mm for pair in pairs)
    made = []
    for (kind, subject, metric), rows in tables.items():
        patients = [row.patient for row in rows]
        first, second = np.array([row.first for row in rows]), np.array([row.second for row in rows])
        definition = METRICS.get(metric)
        limit = 2.0 if definition is None else largest_mm if definition.unit else 1.0  # Brier scores differ by up to 2
        paired = paired_comparison(first, second, patients, bounds=(-limit, limit))
        higher = definition.better == "higher" if definition else _HIGHER_IS_BETTER[metric]
        contrast = _contrast(
            kind,
            subject,
            metric,
            first=float(first.mean()),
            second=float(second.mean()),
            difference=paired.difference.mean,
            low=paired.difference.low,
            high=paired.difference.high,
            test="wilcoxon",
            p=paired.wilcoxon_p,
            unit=definition.unit if definition else "",
            better="higher" if higher else "lower",
            num_cases=len(rows),
            num_patients=len(set(patients)),
            num_better=paired.num_higher if higher else paired.num_lower,
            num_worse=paired.num_lower if higher else paired.num_higher,
        )
        made.append((contrast, spread_of_patients(second - first, patients)))
    return made


def _areas(pairs: Sequence[Pair]) -> list[tuple[Contrast, float]]:
    """The areas under the ROC curve of every head whose references differ, with the deviation per patient."""
    heads = dict.fromkeys(score.subject for pair in pairs for score in pair.scores if score.kind == "head")
    made = []
    for head in heads:
        answers = [
            (pair.first.patient, mine, other)
            for pair in pairs
            for mine in pair.first.classes
            for other in pair.second.classes
            if mine.head == other.head == head and mine.reference is not None
        ]
        patients = [patient for patient, _, _ in answers]
        classes = list(answers[0][1].probabilities)
        area = auroc_difference(
            np.array([[mine.probabilities[name] for name in classes] for _, mine, _ in answers]),
            np.array([[other.probabilities[name] for name in classes] for _, _, other in answers]),
            np.array([classes.index(mine.reference or "") for _, mine, _ in answers]),
            patients,
        )
        if area is None:
            continue
        num_patients = len(set(patients))
        contrast = _contrast(
            "head",
            head,
            "auroc",
            first=area.first,
            second=area.second,
            difference=area.second - area.first,
            low=area.low,
            high=area.high,
            test="delong",
            p=area.p,
            unit="",
            better="higher",
            num_cases=len(answers),
            num_patients=num_patients,
        )
        made.append((contrast, area.deviation * float(np.sqrt(num_patients))))
    return made


def _contrast(kind: Kind, subject: str, metric: str, **values: object) -> Contrast:
    """A contrast before its family is known."""
    waiting = {
        "p_holm": 1.0,
        "num_tests": 1,
        "verdict": "not_distinguishable",
        "detectable_difference": None,
        "patients_needed": None,
    }
    return Contrast.model_validate({"kind": kind, "subject": subject, "metric": metric, **waiting, **values})
