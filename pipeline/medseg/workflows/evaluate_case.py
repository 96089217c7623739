"""One case against its reference: numbers, and the page that shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.core.errors import InputError, MedsegError, case_context, told
from medseg.core.findings import CaseFailure, CasePrediction, CaseReport, ClassAnswer, GridSummary
from medseg.core.values import ValueAnswer
from medseg.core.volume import LabelMap, Volume
from medseg.data.contents import values_in
from medseg.io.documents import read_document
from medseg.io.files import sha256_of, write_text
from medseg.io.volumes import read_labels, read_volumes
from medseg.report.case import render_case
from medseg.report.pictures import case_pictures
from medseg.workflows.evaluate_inputs import DICOM_SUFFIXES
from medseg.workflows.provenance import make_provenance
from medseg.workflows.score_masks import Rules, ScoredMasks, is_labelled, score_masks

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.case import Case, Dataset
    from medseg.core.geometry import Geometry
    from medseg.core.settings import EvaluateSettings
    from medseg.workflows.label_map import Relabelling

NO_IMAGE = "W-NO-IMAGE: none of the images exists: no pictures, and the masks were compared with one another only"


@dataclass(frozen=True)
class Scoring:
    """What is the same for all cases of an evaluation; small, for it travels to every process.

    Attributes:
        rules: Labels, lesions, settings.
        predictions: Folder in which `infer` left `CASE.json`.
        relabelling: What the values of the predictions mean.
        out: Folder that takes `cases/CASE.json` and `.html`.
    """

    rules: Rules
    predictions: Path
    relabelling: Relabelling
    out: Path

    @property
    def dataset(self) -> Dataset:
        return self.rules.dataset

    @property
    def settings(self) -> EvaluateSettings:
        return self.rules.settings

    def page_of(self, case_id: str) -> Path:
        return self.out / "cases" / f"{case_id}.html"

    def record_of(self, case_id: str) -> Path:
        return self.out / "cases" / f"{case_id}.json"

    def finished(self, case_id: str) -> CaseReport | None:
        """What a process that was lost since had still written: the page comes last."""
        return read_document(self.record_of(case_id), CaseReport) if self.page_of(case_id).is_file() else None


def attempt_case(item: tuple[Case, tuple[Path, ...]], scoring: Scoring) -> CaseReport | CaseFailure:
    """`evaluate_case`, whose failure is a result: the others go on.

    A fault of medseg fails its case too; a disk that takes no more ends the evaluation.
    """
    case, masks = item
    try:
        with case_context(case.id):
            return scoring.finished(case.id) or evaluate_case(case, masks, scoring)
    except MedsegError as error:
        return CaseFailure.of(case.id, error)
    except MemoryError:
        return CaseFailure(
            case=case.id, code="E-MEMORY", message="the memory does not hold this case", remedy="Use fewer --jobs."
        )
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - one case's fault of ours must not cost the others; it is named, not hidden
        return CaseFailure(
            case=case.id,
            code="E-INTERNAL",
            message=told(error),
            remedy="This is a fault of medseg: run again with --jobs 1 --debug on this case and report what it prints.",
        )


def evaluate_case(case: Case, masks: tuple[Path, ...], scoring: Scoring) -> CaseReport:
    """Score one case and write `cases/CASE.json` and `.html`.

    Args:
        case: With a mask, or classes, as reference.
        masks: The predicted mask; none, or more than one, is a fault.
        scoring: Labels, settings, where to write.

    Raises:
        InputError: E-NO-PREDICTION, E-MASK-TWICE, E-LABEL-UNKNOWN, E-CLASS-NAME, or as the readers.
        GeometryError: E-GRID-MISMATCH.
    """
    dataset = scoring.dataset
    found = _findings(scoring.predictions, case.id)
    classes, values = _answers(case, found, dataset), _value_answers(case, found, dataset)
    image, flags = _image(case, masks, scoring)
    compared = None
    if case.label is not None:
        if not masks and found is not None and _says_nothing_found(found):
            grid = image.geometry if image is not None else read_labels(case.label).geometry
            prediction = LabelMap(np.zeros(grid.shape, np.uint8), grid)
        else:
            mask = _only(masks, case, scoring)
            onto = _grid_without_image(mask, case.label) if image is None else image.geometry
            prediction = scoring.relabelling.applied(read_labels(mask, onto=onto, names=dataset.labels))
        compared, image, moved = score_masks(prediction, case, image, scoring.rules)
        flags += moved
    scored = make_provenance(dataset.name, scoring.settings)
    report = CaseReport(
        case=case.id,
        patient=case.group,
        grid=_grid(compared, image, found),
        reference_sha256=None if case.label is None else sha256_of(case.label),
        volumes_ml=_volumes(None if compared is None else compared.prediction, dataset, found),
        metrics=() if compared is None else tuple(one.metrics for one in compared.labels),
        unlabelled=tuple(name for name in dataset.label_names if not is_labelled(case, name)),
        classes=classes,
        values=values,
        lesions=() if compared is None else compared.lesions,
        flags=tuple(_flags(case, flags, found, compared)),
        attributes=case.attributes,
        provenance=scored if found is None else found.provenance,
        scoring=scored,
    )
    write_text(scoring.record_of(case.id), report.to_json())
    write_text(scoring.page_of(case.id), _page(report, case, dataset, image, compared))
    return report


def _only(masks: tuple[Path, ...], case: Case, scoring: Scoring) -> Path:
    if len(masks) > 1:
        raise InputError(
            f"two predictions for this case: {', '.join(path.name for path in masks)}",
            code="E-MASK-TWICE",
            file=scoring.predictions,
            remedy="Keep one of them.",
        )
    if not masks:
        raise InputError(
            f"no prediction for this case in {scoring.predictions}",
            code="E-NO-PREDICTION",
            remedy=f"Run `medseg infer` for it, or name its mask {case.id}.nii.gz.",
        )
    return masks[0]


def _says_nothing_found(found: CasePrediction) -> bool:
    """DICOM masks cannot be empty: `infer` writes none, and says why."""
    return found.mask is None and any(flag.startswith("W-NO-SEGMENT") for flag in found.flags)


def _image(case: Case, masks: tuple[Path, ...], scoring: Scoring) -> tuple[Volume | None, list[str]]:
    """What the pictures need, and DICOM masks, which say where they lie by it; absent when there is none."""
    files = [path for path in (*masks, case.label) if path is not None]
    on_image = not files or any(path.suffix.lower() in DICOM_SUFFIXES for path in files)
    if not case.images or not (scoring.settings.pictures or on_image):
        return None, []
    if not any(path.exists() for path in case.images):
        return None, [NO_IMAGE]
    volume = read_volumes(
        case.images, scoring.dataset.reading_of(case), channels=len(scoring.dataset.channels), missing=case.missing
    )
    return volume, list(volume.warnings)


def _grid_without_image(mask: Path, reference: Path) -> Geometry | None:
    """Where a predicted DICOM object, which leaves out empty slices, lies: on its reference's grid.

    Raises:
        InputError: E-NO-IMAGE where the reference leaves them out too; or as `read_labels`.
    """
    if mask.suffix.lower() not in DICOM_SUFFIXES:
        return None
    if reference.suffix.lower() not in DICOM_SUFFIXES:
        return read_labels(reference).geometry
    message = "prediction and reference are DICOM objects, which leave out slices, and no image tells the grid"
    raise InputError(message, code="E-NO-IMAGE", file=mask, remedy="Give a --manifest that names the images.")


def _grid(masks: ScoredMasks | None, image: Volume | None, found: CasePrediction | None) -> GridSummary:
    """Of the prediction; a class-only case has that of its image, or the one its prediction names."""
    if masks is not None:
        return GridSummary.of(masks.prediction.geometry)
    if image is not None:
        return GridSummary.of(image.geometry)
    if found is None:
        message = "neither the image nor a prediction of this case is there"
        raise InputError(message, code="E-NO-PREDICTION", remedy="Run `medseg infer` for it.")
    return found.grid


def _page(report: CaseReport, case: Case, dataset: Dataset, image: Volume | None, masks: ScoredMasks | None) -> str:
    pictures = (
        ()
        if image is None
        else case_pictures(
            image,
            prediction=None if masks is None else masks.prediction,
            reference=None if masks is None else masks.reference,
            labels=dataset.labels,
            modality=dataset.channels[0],
            annotated=case.labelled,
        )
    )
    distances = (
        {} if masks is None else {one.metrics.label: one.distances for one in masks.labels if one.distances is not None}
    )
    return render_case(report, pictures, distances=distances, cohort_page="../index.html")


def _findings(predictions: Path, case_id: str) -> CasePrediction | None:
    path = predictions / f"{case_id}.json"
    return read_document(path, CasePrediction) if path.is_file() else None


def _answers(case: Case, found: CasePrediction | None, dataset: Dataset) -> tuple[ClassAnswer, ...]:
    """The model's answers beside the manifest's classes.

    A class-only case without an answer is a case without a prediction.
    """
    if found is None:
        if case.label is None and (dataset.heads or dataset.targets):
            raise InputError("no prediction for this case", code="E-NO-PREDICTION", remedy="Run `medseg infer` for it.")
        return ()
    for answer in found.classes:
        if answer.head in dataset.heads and set(answer.probabilities) != set(dataset.heads[answer.head]):
            raise InputError(
                f"head {answer.head!r} answers with the classes {', '.join(answer.probabilities)}; "
                f"the references have {', '.join(dataset.heads[answer.head])}",
                code="E-CLASS-NAME",
                remedy="Predict with a model of this dataset, or call the classes in the manifest as the model does.",
            )
    return tuple(answer.model_copy(update={"reference": case.classes.get(answer.head)}) for answer in found.classes)


def _value_answers(case: Case, found: CasePrediction | None, dataset: Dataset) -> tuple[ValueAnswer, ...]:
    """The model's numbers beside the manifest's, which must be in the same unit."""
    answers = found.values if found else ()
    for one in answers:
        if dataset.targets.get(one.name, one.unit) != one.unit:
            raise InputError(
                f"target {one.name!r} is answered in {one.unit!r}; the references are in {dataset.targets[one.name]!r}",
                code="E-TARGET-UNIT",
                remedy="Convert the references to the model's unit and name it in 'targets' of the manifest.",
            )
    return tuple(one.model_copy(update={"reference": case.values.get(one.name)}) for one in answers)


def _flags(case: Case, noticed: list[str], found: CasePrediction | None, compared: ScoredMasks | None) -> list[str]:
    """What was noticed on the way: by the prediction, the readers, and here."""
    read = {} if compared is None else {"prediction": compared.prediction, "reference": compared.reference}
    asked = (*case.classes, *case.values)
    answered = set(asked) if found is None else {*(a.head for a in found.classes), *(a.name for a in found.values)}
    return [
        *(noticed if found is None else dict.fromkeys([*found.flags, *noticed])),
        *(f"{flag}: while reading the {name}" for name, mask in read.items() for flag in mask.warnings),
        *(f"W-NO-ANSWER: the prediction says nothing of {head}" for head in asked if head not in answered),
    ]


def _volumes(prediction: LabelMap | None, dataset: Dataset, found: CasePrediction | None) -> dict[str, float]:
    if found is not None:
        return found.volumes_ml
    if prediction is None:
        return {}
    voxel_ml = prediction.geometry.voxel_volume_mm3 / 1000
    counts = values_in(prediction)
    return {name: counts.get(value, 0) * voxel_ml for name, value in dataset.labels.items()}
