"""`medseg infer`: volumes -> masks on their own grid, and a JSON of what was found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.core.errors import MedsegError, case_context
from medseg.core.findings import CaseFailure, CasePrediction, ClassAnswer, GridSummary, Provenance
from medseg.core.outputs import SUFFIX_OF
from medseg.core.progress import Progress, silent
from medseg.core.volume import LabelMap
from medseg.data.modality import doubt_modality
from medseg.engine.predict import Predictor
from medseg.io.bundle import read_bundle
from medseg.io.contained import contained
from medseg.io.files import require_writable, sha256_of, write_text
from medseg.io.volumes import read_volumes, write_labels
from medseg.io.weights import save_tensors
from medseg.workflows.dicom_out import Finding, algorithm_of, open_series, terms_of, write_objects
from medseg.workflows.inputs import InferCase, collect_inputs, refuse_overwriting
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from medseg.core.plan import Plan
    from medseg.core.prediction import Prediction
    from medseg.core.settings import InferSettings
    from medseg.core.terminology import Term
    from medseg.core.volume import Volume
    from medseg.io.bundle import BundleManifest


@dataclass(frozen=True)
class Inferred:
    """What came of a batch: every case is in one of the two lists."""

    bundle: Path
    out: Path
    predictions: tuple[CasePrediction, ...]
    failures: tuple[CaseFailure, ...]


def infer(
    bundle: Path,
    out: Path,
    settings: InferSettings,
    *,
    volumes: Sequence[Path] = (),
    folder: Path | None = None,
    split: str | None = None,
    progress: Progress = silent,
) -> Inferred:
    """Predict every case; one that fails is reported and the others go on.

    Args:
        bundle: The model's folder.
        out: Masks (`CASE.nii.gz`) and findings (`CASE.json`) go here.
        settings: Overlap, mirroring, device, precision.
        volumes: Files or DICOM folders.
        folder: A folder of images or a manifest.
        split: Only these cases of a manifest.
        progress: Wraps the loop over cases.

    Raises:
        MedsegError: When the model or the inputs as a whole cannot be used.
    """
    model = read_bundle(bundle)
    cases = collect_inputs(volumes, folder, num_channels=len(model.plan.channels), split=split)
    refuse_overwriting(cases, out)
    terms = terms_of(model.plan.labels, settings, model.plan.terms) if settings.dicom else {}
    require_writable(out)
    predictor = Predictor(model, settings)
    provenance = make_provenance(model.manifest.dataset, settings).model_copy(
        update={
            "model": model.manifest.name,
            "weights_sha256": model.manifest.provenance.weights_sha256,
            "plan_sha256": model.manifest.provenance.plan_sha256,
        }
    )
    predictions, failures = [], []
    with contained(settings):
        for case in progress(cases, "predicting", len(cases)):
            try:
                with case_context(case.id):
                    predictions.append(_predict_one(case, predictor, out, provenance, terms))
            except MedsegError as error:
                if len(cases) == 1:
                    raise
                failures.append(
                    CaseFailure(case=case.id, code=error.code, message=error.message, remedy=error.remedy or None)
                )
    return Inferred(bundle, out, tuple(predictions), tuple(failures))


def _predict_one(
    case: InferCase, predictor: Predictor, out: Path, provenance: Provenance, terms: Mapping[str, Term]
) -> CasePrediction:
    plan, settings = predictor.bundle.plan, predictor.settings
    slices = open_series(case.images[0], settings) if settings.dicom else None
    volume = read_volumes(case.images, settings, channels=len(plan.channels))
    answer = predictor.predict(volume)
    classes = tuple(ClassAnswer(head=head, probabilities=values) for head, values in answer.classes.items())
    files = _write_voxels(case, answer, plan, settings, out)
    flags = [*volume.warnings, *answer.flags, *_flags(case, predictor.bundle.manifest), *_doubts(volume, plan)]
    if slices is not None:
        nothing = LabelMap(np.zeros(volume.geometry.shape, np.uint8), volume.geometry)
        finding = Finding(case.id, answer.labels or nothing, plan.labels, terms, algorithm_of(provenance), classes)
        objects = write_objects(finding, slices, settings, out, resample=settings.fix_geometry)
        files |= objects.files
        flags += objects.flags
    if answer.probabilities is not None:
        import torch

        save_tensors(
            out / f"{case.id}.probabilities.safetensors", {"probabilities": torch.from_numpy(answer.probabilities)}
        )
    mask = next((file for name, file in files.items() if name not in {"dicom-sr", "dicom-rtstruct"}), None)
    findings = CasePrediction(
        case=case.id,
        mask=mask,
        mask_sha256=None if mask is None else sha256_of(out / mask),
        files=files,
        source_names=tuple(path.name for path in case.images),
        grid=grid_summary(volume),
        labels=plan.labels,
        volumes_ml=_volumes(answer, plan),
        classes=classes,
        flags=tuple(flags),
        backend=answer.backend,
        seconds=answer.seconds,
        provenance=provenance,
    )
    write_text(out / f"{case.id}.json", findings.to_json())
    return findings


def _write_voxels(
    case: InferCase, answer: Prediction, plan: Plan, settings: InferSettings, out: Path
) -> dict[str, str]:
    """File names by format."""
    if answer.labels is None:
        return {}
    files: dict[str, str] = {name: f"{case.id}{SUFFIX_OF[name]}" for name in settings.voxels}
    for file in files.values():
        write_labels(answer.labels, out / file, names=plan.labels)
    return files


def grid_summary(volume: Volume | LabelMap) -> GridSummary:
    return GridSummary.of(volume.geometry)


def _volumes(answer: Prediction, plan: Plan) -> dict[str, float]:
    """Millilitres by label, and by region where regions unite several labels."""
    if answer.labels is None:
        return {}
    united = {name: (value,) for name, value in plan.labels.items()} | plan.regions
    counts = np.bincount(answer.labels.array.ravel(), minlength=max(map(max, united.values()), default=0) + 1)
    voxel_ml = answer.labels.geometry.voxel_volume_mm3 / 1000
    return {name: round(float(counts[list(values)].sum()) * voxel_ml, 4) for name, values in united.items()}


def _flags(case: InferCase, manifest: BundleManifest) -> list[str]:
    if case.id in manifest.training_cases:
        return ["W-TRAINING-CASE: the model was trained on a case of this name; a score on it is not honest"]
    return []


def _doubts(volume: Volume, plan: Plan) -> list[str]:
    """Whether the image is of the model's modality; a CT model that clips below 0 was trained on HU."""
    rules = zip(plan.channels, plan.normalisation, volume.array, strict=True)
    doubts = [doubt_modality(name, channel) for name, rule, channel in rules if name != "CT" or (rule.lower or 0) < 0]
    return [f"{doubt.code}: {doubt.message}; check that the image is of the model's kind" for doubt in doubts if doubt]
