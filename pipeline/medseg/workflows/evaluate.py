"""`medseg evaluate`: predictions against references; one report per case and one of the cohort."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.core.errors import InputError, MedsegError, case_context
from medseg.core.findings import CaseFailure, CaseReport, CohortReport
from medseg.core.progress import Progress, silent
from medseg.io.contained import contained
from medseg.io.files import require_path, require_writable, write_text
from medseg.io.volumes import SUFFIXES
from medseg.ops.scores import classification_summary
from medseg.ops.statistics import estimate, summarise_labels
from medseg.report.cohort import cohort_csv, render_cohort
from medseg.workflows.evaluate_case import evaluate_case
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.case import Case, Dataset
    from medseg.core.findings import ClassSummary
    from medseg.core.settings import EvaluateSettings
    from medseg.workflows.workspace import Workspace

_THREADS = 2


@dataclass(frozen=True)
class Evaluated:
    """Where the pages are and what they say."""

    page: Path
    report: CohortReport


def evaluate(
    workspace: Workspace,
    predictions: Path,
    out: Path,
    settings: EvaluateSettings,
    *,
    manifest: Path | None = None,
    progress: Progress = silent,
) -> Evaluated:
    """Score every case of a manifest that has a reference; a case without a prediction is a failure, not a gap.

    Args:
        workspace: Names the embedded cohort when there is no manifest.
        predictions: Folder with a mask `CASE.nii.gz` (or another format) and, from `infer`, `CASE.json` per case.
        out: `index.html`, `cohort.json`, `cohort.csv`, and `cases/CASE.html` and `.json`.
        settings: Tolerance, split, pictures.
        manifest: With the references.
        progress: Wraps the loop over cases.

    Raises:
        InputError: E-NOTHING-TO-EVALUATE when no case could be scored.
    """
    require_path(predictions)
    dataset = workspace.dataset(manifest, progress=progress)
    cases = [
        case
        for case in dataset.cases
        if settings.split in {"all", case.split} and (case.label is not None or case.classes)
    ]

    require_writable(out)

    def attempt(case: Case) -> CaseReport | CaseFailure:
        try:
            with case_context(case.id):
                return evaluate_case(case, dataset, predictions, settings, out=out)
        except MedsegError as error:
            return CaseFailure(case=case.id, code=error.code, message=error.message, remedy=error.remedy or None)

    with contained(settings), ThreadPoolExecutor(_THREADS) as pool:
        outcomes = list(progress(pool.map(attempt, cases), "evaluating", len(cases)))
    reports = [outcome for outcome in outcomes if isinstance(outcome, CaseReport)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, CaseFailure)]
    failures += _without_reference(predictions, dataset)
    if not reports:
        found = (
            failures[0].message if failures else f"the manifest has no case with a reference (split {settings.split})"
        )
        raise InputError(
            f"no case could be evaluated: {found}",
            code="E-NOTHING-TO-EVALUATE",
            file=predictions,
            remedy="Run `medseg infer --input MANIFEST --out FOLDER` and name that folder with --predictions.",
        )
    report = cohort_report(dataset, reports, failures, settings)
    pages = {case.case: f"cases/{case.case}.html" for case in report.cases}
    write_text(out / "cohort.json", report.to_json())
    write_text(out / "cohort.csv", cohort_csv(report))
    write_text(out / "index.html", render_cohort(report, case_pages=pages))
    return Evaluated(out / "index.html", report)


def cohort_report(
    dataset: Dataset, reports: Sequence[CaseReport], failures: Sequence[CaseFailure], settings: EvaluateSettings
) -> CohortReport:
    """Put the cases together, worst first."""
    rows = [(report.patient, row) for report in reports for row in report.metrics]
    scored = [(report.patient, report.mean_dice) for report in reports if report.mean_dice is not None]
    return CohortReport(
        name=dataset.name,
        num_cases=len(reports) + len(failures),
        labels=summarise_labels(rows),
        mean_dice=estimate([value for _, value in scored], [patient for patient, _ in scored], bounds=(0, 1))
        if scored
        else None,
        classes=tuple(
            summary for head in dataset.heads for summary in _class_summary(head, dataset.heads[head], reports)
        ),
        cases=tuple(sorted(reports, key=_badness)),
        failures=tuple(failures),
        provenance=make_provenance(dataset.name, settings),
    )


def _without_reference(predictions: Path, dataset: Dataset) -> Iterable[CaseFailure]:
    """Masks that no case of the manifest asks for."""
    known = {case.id for case in dataset.cases}
    for path in sorted(predictions.iterdir()):
        suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(s)), None)
        name = path.name[: -len(suffix)] if suffix else ""
        if suffix and path.is_file() and name not in known:
            yield CaseFailure(
                case=name,
                code="E-NO-REFERENCE",
                message=f"{path.name} belongs to no case of the manifest",
                remedy="Rename it after its case, or move it away.",
            )


def _class_summary(head: str, names: tuple[str, ...], reports: Sequence[CaseReport]) -> Iterable[ClassSummary]:
    answers = [
        answer
        for report in reports
        for answer in report.classes
        if answer.head == head and answer.reference is not None
    ]
    if answers:
        yield classification_summary(
            head,
            names,
            np.array([[answer.probabilities[name] for name in names] for answer in answers]),
            np.array([names.index(answer.reference or "") for answer in answers]),
        )


def _badness(report: CaseReport) -> tuple[float, str]:
    """Worst mean Dice first; without masks, the least probability given to the right class."""
    if report.mean_dice is not None:
        return report.mean_dice, report.case
    right = [answer.probabilities.get(answer.reference, 0.0) for answer in report.classes if answer.reference]
    return min(right, default=1.0), report.case
