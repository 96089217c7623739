"""One case against its reference: numbers, and the page that shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.core.errors import InputError
from medseg.core.findings import CasePrediction, CaseReport, ClassAnswer
from medseg.core.volume import LabelMap, Volume, require_same_grid
from medseg.data.contents import read_reference
from medseg.io.documents import read_document
from medseg.io.files import sha256_of, write_text
from medseg.io.volumes import SUFFIXES, read_labels, read_volumes
from medseg.ops.metrics import LabelComparison, compare_labels
from medseg.report.case import render_case
from medseg.report.pictures import case_pictures
from medseg.workflows.infer import grid_summary
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.case import Case, Dataset
    from medseg.core.settings import EvaluateSettings


@dataclass(frozen=True, eq=False)
class _Masks:
    """Both masks of a case, on one grid, and their comparison label by label."""

    prediction: LabelMap
    reference: LabelMap
    compared: tuple[LabelComparison, ...]


def evaluate_case(
    case: Case, dataset: Dataset, predictions: Path, settings: EvaluateSettings, *, out: Path
) -> CaseReport:
    """Score one case and write `cases/CASE.json` and `.html`.

    Raises:
        InputError: E-NO-PREDICTION, or as the readers.
        GeometryError: E-GRID-MISMATCH.
    """
    found = _findings(predictions, case.id)
    volume = read_volumes(case.images, dataset.reading, channels=len(dataset.channels))
    reference = read_reference(case, dataset, onto=volume.geometry)
    masks = None if reference is None else _compare(case, dataset, predictions, volume, reference, settings)
    report = CaseReport(
        case=case.id,
        patient=case.group,
        grid=grid_summary(volume),
        reference_sha256=None if case.label is None else sha256_of(case.label),
        volumes_ml=_volumes(masks, dataset, found),
        metrics=() if masks is None else tuple(one.metrics for one in masks.compared),
        unlabelled=tuple(name for name in dataset.label_names if not _is_labelled(case, name)),
        classes=_answers(case, found, dataset),
        flags=(*(volume.warnings if found is None else found.flags), *_mask_flags(masks)),
        attributes=case.attributes,
        provenance=make_provenance(dataset.name, settings) if found is None else found.provenance,
    )
    write_text(out / "cases" / f"{case.id}.json", report.to_json())
    write_text(
        out / "cases" / f"{case.id}.html", _page(report, case, dataset, volume, masks, pictured=settings.pictures)
    )
    return report


def mask_path(predictions: Path, case_id: str) -> Path | None:
    """The case's mask in a folder of predictions, in any format."""
    paths = (predictions / f"{case_id}{suffix}" for suffix in (".nii.gz", *SUFFIXES))
    return next((path for path in paths if path.is_file()), None)


def _compare(
    case: Case, dataset: Dataset, predictions: Path, volume: Volume, reference: LabelMap, settings: EvaluateSettings
) -> _Masks:
    """Every label that was annotated in this case."""
    path = mask_path(predictions, case.id)
    if path is None:
        raise InputError(
            f"no prediction for this case in {predictions}",
            code="E-NO-PREDICTION",
            remedy=f"Run `medseg infer` for it, or name its mask {case.id}.nii.gz.",
        )
    prediction = read_labels(path, onto=volume.geometry, names=dataset.labels)
    for mask in (reference, prediction):
        require_same_grid(volume, mask)
    compared = compare_labels(
        prediction.array,
        reference.array,
        spacing_mm=reference.geometry.spacing_mm,
        labels={name: value for name, value in dataset.labels.items() if _is_labelled(case, name)},
        tolerance_mm=settings.tolerance_mm,
        ignore=None if dataset.ignore_value is None else reference.array == dataset.ignore_value,
    )
    return _Masks(prediction, reference, compared)


def _page(
    report: CaseReport, case: Case, dataset: Dataset, volume: Volume, masks: _Masks | None, *, pictured: bool
) -> str:
    pictures = (
        case_pictures(
            volume,
            prediction=None if masks is None else masks.prediction,
            reference=None if masks is None else masks.reference,
            labels=dataset.labels,
            modality=dataset.channels[0],
            annotated=case.labelled,
        )
        if pictured
        else ()
    )
    distances = (
        {}
        if masks is None
        else {one.metrics.label: one.distances for one in masks.compared if one.distances is not None}
    )
    return render_case(report, pictures, distances=distances, cohort_page="../index.html")


def _mask_flags(masks: _Masks | None) -> list[str]:
    read = {} if masks is None else {"prediction": masks.prediction, "reference": masks.reference}
    return [f"{flag}: while reading the {name}" for name, mask in read.items() for flag in mask.warnings]


def _is_labelled(case: Case, name: str) -> bool:
    return case.label is not None and (case.labelled is None or name in case.labelled)


def _findings(predictions: Path, case_id: str) -> CasePrediction | None:
    path = predictions / f"{case_id}.json"
    return read_document(path, CasePrediction) if path.is_file() else None


def _answers(case: Case, found: CasePrediction | None, dataset: Dataset) -> tuple[ClassAnswer, ...]:
    """The model's answers beside the manifest's classes.

    A class-only case without an answer is a case without a prediction.
    """
    if found is None:
        if case.label is None and dataset.heads:
            raise InputError("no prediction for this case", code="E-NO-PREDICTION", remedy="Run `medseg infer` for it.")
        return ()
    return tuple(answer.model_copy(update={"reference": case.classes.get(answer.head)}) for answer in found.classes)


def _volumes(masks: _Masks | None, dataset: Dataset, found: CasePrediction | None) -> dict[str, float]:
    if found is not None:
        return found.volumes_ml
    if masks is None:
        return {}
    voxel_ml = masks.prediction.geometry.voxel_volume_mm3 / 1000
    return {
        name: float(np.count_nonzero(masks.prediction.array == value)) * voxel_ml
        for name, value in dataset.labels.items()
    }
