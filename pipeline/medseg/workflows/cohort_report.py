"""From the reports of the cases to the report of the cohort."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from medseg.core.baseline import BaselineReport
from medseg.core.findings import CaseFailure, CaseReport, CohortReport
from medseg.io.documents import read_document
from medseg.ops.lesions import summarise_lesions
from medseg.ops.multilabel import multilabel_summary
from medseg.ops.ordinal import ordinal_summary
from medseg.ops.scores import classification_summary
from medseg.ops.statistics import estimate, summarise_labels
from medseg.ops.subgroups import subgroup_summaries
from medseg.ops.values import value_summary
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.case import Dataset
    from medseg.core.detection import LesionSummary
    from medseg.core.findings import ClassSummary, MultiLabelSummary
    from medseg.core.settings import EvaluateSettings
    from medseg.core.values import ValueSummary

BASELINE = "baseline.json"


def cohort_report(
    dataset: Dataset, reports: Sequence[CaseReport], failures: Sequence[CaseFailure], settings: EvaluateSettings
) -> CohortReport:
    """Put the cases together, worst first."""
    rows = [(report.patient, row) for report in reports for row in report.metrics]
    scored = [(report.patient, report.mean_dice) for report in reports if report.mean_dice is not None]
    subgroups, not_grouped = subgroup_summaries(reports)
    return CohortReport(
        name=dataset.name,
        num_cases=len(reports) + len(failures),
        labels=summarise_labels(rows, longest_mm=max((report.grid.diagonal_mm for report in reports), default=np.inf)),
        mean_dice=estimate([value for _, value in scored], [patient for patient, _ in scored], bounds=(0, 1))
        if scored
        else None,
        classes=tuple(summary for head in dataset.heads for summary in _class_summary(head, dataset, reports)),
        values=tuple(
            summary for name, unit in dataset.targets.items() for summary in _value_summary(name, unit, reports)
        ),
        multilabel=_multilabel(dataset, reports),
        unanswered=_unanswered(dataset, reports),
        lesions=_lesions(reports),
        subgroups=subgroups,
        not_grouped=not_grouped,
        cases=tuple(sorted(reports, key=_badness)),
        failures=tuple(failures),
        provenance=make_provenance(dataset.name, settings),
    )


def baselines_in(folder: Path) -> BaselineReport | None:
    """What `medseg baseline` left in the folder of an evaluation."""
    file = folder / BASELINE
    return read_document(file, BaselineReport) if file.is_file() else None


def _lesions(reports: Sequence[CaseReport]) -> tuple[LesionSummary, ...]:
    found = [detection for report in reports for detection in report.lesions]
    labels = dict.fromkeys(detection.label for detection in found)
    return tuple(summarise_lesions([one for one in found if one.label == label]) for label in labels)


def _class_summary(head: str, dataset: Dataset, reports: Sequence[CaseReport]) -> Iterable[ClassSummary]:
    names = dataset.heads[head]
    answers = [
        answer
        for report in reports
        for answer in report.classes
        if answer.head == head and answer.reference is not None
    ]
    if answers:
        probabilities = np.array([[answer.probabilities[name] for name in names] for answer in answers])
        reference = np.array([names.index(answer.reference or "") for answer in answers])
        summary = classification_summary(head, names, probabilities, reference)
        ordinal = ordinal_summary(names, probabilities, reference) if head in dataset.ordered else None
        yield summary.model_copy(update={"ordinal": ordinal})


def _value_summary(name: str, unit: str, reports: Sequence[CaseReport]) -> Iterable[ValueSummary]:
    answers = [(report.patient, one) for report in reports for one in report.values if one.name == name]
    if any(one.reference is not None for _, one in answers):
        yield value_summary(name, unit, answers)


def _multilabel(dataset: Dataset, reports: Sequence[CaseReport]) -> MultiLabelSummary | None:
    """Two and more heads of two classes are findings that may occur together."""
    heads = [head for head, names in dataset.heads.items() if len(names) == 2]
    answered = [
        {answer.head: answer for answer in report.classes if answer.reference is not None} for report in reports
    ]
    complete = [answers for answers in answered if all(head in answers for head in heads)]
    if len(heads) < 2 or not complete:
        return None
    positive = [dataset.heads[head][1] for head in heads]
    return multilabel_summary(
        heads,
        np.array(
            [[one[head].probabilities[name] for head, name in zip(heads, positive, strict=True)] for one in complete]
        ),
        np.array(
            [[one[head].reference == name for head, name in zip(heads, positive, strict=True)] for one in complete]
        ),
    )


def _unanswered(dataset: Dataset, reports: Sequence[CaseReport]) -> dict[str, int]:
    answered = {
        report.case: {*(one.head for one in report.classes), *(one.name for one in report.values)} for report in reports
    }
    return {
        head: missing
        for head in (*dataset.heads, *dataset.targets)
        if (
            missing := sum(
                head in {*case.classes, *case.values} and case.id in answered and head not in answered[case.id]
                for case in dataset.cases
            )
        )
    }


def _badness(report: CaseReport) -> tuple[float, str]:
    """Worst mean Dice first; without masks, the least probability given to the right class, or the largest error."""
    if report.mean_dice is not None:
        return report.mean_dice, report.case
    right = [answer.probabilities.get(answer.reference, 0.0) for answer in report.classes if answer.reference]
    errors = [-abs(one.value - one.reference) for one in report.values if one.reference is not None]
    return min(right or errors, default=1.0), report.case
