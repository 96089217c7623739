"""`medseg evaluate`: predictions against references; one report per case and one of the cohort."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.core.errors import InputError, MedsegError, case_context
from medseg.core.findings import CaseFailure, CasePrediction, CaseReport, ClassAnswer, CohortReport, LabelMetrics
from medseg.core.progress import Progress, silent
from medseg.core.volume import LabelMap, Volume, require_same_grid
from medseg.io.documents import read_document
from medseg.io.files import require_path, write_text
from medseg.io.volumes import SUFFIXES, read_labels, read_volumes
from medseg.ops.metrics import segmentation_metrics
from medseg.ops.scores import classification_summary
from medseg.ops.statistics import estimate, summarise_labels
from medseg.report.case import render_case
from medseg.report.cohort import cohort_csv, render_cohort
from medseg.report.pictures import case_pictures
from medseg.workflows.infer import grid_summary
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

    def attempt(case: Case) -> CaseReport | CaseFailure:
        try:
            with case_context(case.id):
                return _evaluate_case(case, dataset, predictions, out, settings)
        except MedsegError as error:
            return CaseFailure(case=case.id, code=error.code, message=error.message, remedy=error.remedy or None)

    with ThreadPoolExecutor(_THREADS) as pool:
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


def _evaluate_case(
    case: Case, dataset: Dataset, predictions: Path, out: Path, settings: EvaluateSettings
) -> CaseReport:
    found = _findings(predictions, case.id)
    volume = read_volumes(case.images, channels=len(dataset.channels))
    prediction: LabelMap | None = None
    reference: LabelMap | None = None
    metrics: tuple[LabelMetrics, ...] = ()
    if case.label is not None:
        prediction, reference = read_labels(_mask_path(predictions, case.id)), read_labels(case.label)
        for mask in (reference, prediction):
            require_same_grid(volume, mask)
        metrics = _score(case, dataset, prediction, reference, settings)
    report = CaseReport(
        case=case.id,
        patient=case.group,
        grid=grid_summary(volume),
        volumes_ml=_volumes(prediction, dataset, found),
        metrics=metrics,
        unlabelled=tuple(name for name in dataset.label_names if not _is_labelled(case, name)),
        classes=_answers(case, found),
        flags=() if found is None else found.flags,
        attributes=case.attributes,
        provenance=make_provenance(dataset.name, settings) if found is None else found.provenance,
    )
    write_text(out / "cases" / f"{case.id}.json", report.to_json())
    write_text(out / "cases" / f"{case.id}.html", _page(report, case, dataset, volume, prediction, reference, settings))
    return report


def _page(
    report: CaseReport,
    case: Case,
    dataset: Dataset,
    volume: Volume,
    prediction: LabelMap | None,
    reference: LabelMap | None,
    settings: EvaluateSettings,
) -> str:
    pictures = (
        case_pictures(
            volume,
            prediction=prediction,
            reference=reference,
            labels=dataset.labels,
            modality=dataset.channels[0],
            annotated=case.labelled,
        )
        if settings.pictures
        else ()
    )
    return render_case(report, pictures, cohort_page="../index.html")


def _score(
    case: Case, dataset: Dataset, prediction: LabelMap, reference: LabelMap, settings: EvaluateSettings
) -> tuple[LabelMetrics, ...]:
    """Every label that was annotated in this case."""
    ignored = None if dataset.ignore_value is None else reference.array == dataset.ignore_value
    return segmentation_metrics(
        prediction.array,
        reference.array,
        spacing_mm=reference.geometry.spacing_mm,
        labels={name: value for name, value in dataset.labels.items() if _is_labelled(case, name)},
        tolerance_mm=settings.tolerance_mm,
        ignore=ignored,
    )


def _is_labelled(case: Case, name: str) -> bool:
    return case.label is not None and (case.labelled is None or name in case.labelled)


def _mask_path(predictions: Path, case_id: str) -> Path:
    for suffix in (".nii.gz", *SUFFIXES):
        path = predictions / f"{case_id}{suffix}"
        if path.is_file():
            return path
    raise InputError(
        f"no prediction for this case in {predictions}",
        code="E-NO-PREDICTION",
        remedy=f"Run `medseg infer` for it, or name its mask {case_id}.nii.gz.",
    )


def _findings(predictions: Path, case_id: str) -> CasePrediction | None:
    path = predictions / f"{case_id}.json"
    return read_document(path, CasePrediction) if path.is_file() else None


def _answers(case: Case, found: CasePrediction | None) -> tuple[ClassAnswer, ...]:
    if found is None:
        return ()
    return tuple(answer.model_copy(update={"reference": case.classes.get(answer.head)}) for answer in found.classes)


def _volumes(prediction: LabelMap | None, dataset: Dataset, found: CasePrediction | None) -> dict[str, float]:
    if found is not None:
        return found.volumes_ml
    if prediction is None:
        return {}
    voxel_ml = prediction.geometry.voxel_volume_mm3 / 1000
    return {
        name: float(np.count_nonzero(prediction.array == value)) * voxel_ml for name, value in dataset.labels.items()
    }


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
