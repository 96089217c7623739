"""The scores of a cross-validation: fold by fold, all cases together, and how well calibrated the answers are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from medseg.core.crossvalidation import Calibration, CrossValidation, FoldResult, ScoreTable
from medseg.ops.calibration import calibrate
from medseg.workflows.cohort_report import cohort_report
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from medseg.core.case import Dataset
    from medseg.core.findings import CohortReport
    from medseg.core.settings import EvaluateSettings
    from medseg.data.splits import Split


def fold_table(
    dataset: Dataset, folds: Sequence[Split], report: CohortReport, settings: EvaluateSettings
) -> CrossValidation:
    """Split the cohort's report by fold, and fit a temperature to each head.

    Args:
        dataset: The cases that were held back, each marked with its fold.
        folds: In order.
        report: Of all of them, each judged by the fold that did not see it.
        settings: That they were scored with.
    """
    return CrossValidation(
        name=dataset.name,
        dataset=dataset.name,
        stratify_by="class",
        folds=tuple(_fold(dataset, number, split, report, settings) for number, split in enumerate(folds)),
        pooled=_table(report),
        calibration=tuple(_calibrations(dataset, report)),
        failures=report.failures,
        provenance=make_provenance(dataset.name, settings),
    )


def _fold(dataset: Dataset, number: int, split: Split, report: CohortReport, settings: EvaluateSettings) -> FoldResult:
    here = [case for case in report.cases if case.case in split.val]
    failed = [failure for failure in report.failures if failure.case in split.val]
    return FoldResult(
        fold=number,
        bundle=f"fold{number}/bundle",
        num_training_cases=len(split.train),
        held_back=split.val,
        scores=_table(cohort_report(dataset, here, failed, settings)) if here else None,
    )


def _table(report: CohortReport) -> ScoreTable:
    return ScoreTable(
        num_cases=len(report.cases), mean_dice=report.mean_dice, labels=report.labels, classes=report.classes
    )


def _calibrations(dataset: Dataset, report: CohortReport) -> Iterator[Calibration]:
    fold_of = {case.id: case.fold or 0 for case in dataset.cases}
    for head, names in dataset.heads.items():
        rows = [
            ([answer.probabilities[name] for name in names], names.index(answer.reference), fold_of[case.case])
            for case in report.cases
            for answer in case.classes
            if answer.head == head and answer.reference is not None
        ]
        folds = [fold for _, _, fold in rows]
        if len(set(folds)) > 1:
            yield calibrate(head, np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), folds)
