"""One case of `medseg infer`, in three steps that may overlap with those of other cases: read, predict, write."""

from __future__ import annotations

import logging
import tempfile
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.core.errors import MedsegError, case_context, told, told_at_length
from medseg.core.findings import CasePrediction, ClassAnswer, GridSummary, Provenance
from medseg.core.outputs import SUFFIX_OF
from medseg.core.values import ValueAnswer
from medseg.core.volume import LabelMap
from medseg.data.contents import values_in
from medseg.engine.channels import read_for
from medseg.engine.predict import Predictor
from medseg.io.bundle import Bundle, read_bundle
from medseg.io.files import atomic_path, sha256_of
from medseg.io.probabilities import SUFFIX, ProbabilityFile
from medseg.io.seals import sealed
from medseg.io.volumes import read_volumes, write_labels
from medseg.planning.strangeness import other_channels, strangeness
from medseg.workflows.dicom_out import Finding, algorithm_of, open_series, write_objects
from medseg.workflows.infer_record import commit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from medseg.core.batch import InputSeal
    from medseg.core.plan import Plan
    from medseg.core.prediction import Prediction
    from medseg.core.settings import InferSettings
    from medseg.core.terminology import Term
    from medseg.core.volume import Volume
    from medseg.io.dicom_source import SourceSlices
    from medseg.workflows.inputs import InferCase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What every case of a batch has in common; plain, so that it can travel to other processes.

    Attributes:
        bundle: The model's folder.
        out: Finished files.
        staging: Files on their way, on the same disk.
        terms: Codes of labels, when DICOM objects are written.
        provenance: Of the results, but for what a manifest says of one case's reading.
    """

    bundle: Path
    out: Path
    staging: Path
    settings: InferSettings
    terms: Mapping[str, Term]
    provenance: Provenance

    def provenance_of(self, case: InferCase) -> Provenance:
        reading = self.settings.over(case.reading).model_dump()
        return self.provenance.model_copy(update={"settings": self.provenance.settings | reading})


@dataclass(frozen=True, eq=False)
class Opened:
    """A case that was read."""

    case: InferCase
    volume: Volume
    slices: SourceSlices | None
    inputs: tuple[InputSeal, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Answered:
    """A case that the network has seen; the image is let go, unless a report is to say its values.

    Attributes:
        staged: Folder for its files on their way; the probabilities, which came slab by slab, are there already.
    """

    case: InferCase
    staged: Path
    probabilities: str | None
    answer: Prediction
    image: Volume | None
    nothing: LabelMap | None
    grid: GridSummary
    slices: SourceSlices | None
    inputs: tuple[InputSeal, ...]
    flags: tuple[str, ...]


class CaseWork:
    """The steps of one case, with the model they share."""

    def __init__(self, job: Job, bundle: Bundle | None = None) -> None:
        self.job = job
        self.predictor = Predictor(bundle or read_bundle(job.bundle), job.settings)
        self.bundle = self.predictor.bundle

    def read(self, case: InferCase) -> Opened:
        settings, plan = self.job.settings, self.bundle.plan
        reading = settings.over(case.reading)
        with ExitStack() as unchanged:
            seals = [unchanged.enter_context(sealed(path)) for path in case.images]
            slices = open_series(case.images[0], reading) if settings.dicom else None
            with read_for(plan.channels):
                volume = read_volumes(case.images, reading, channels=len(plan.channels), missing=case.missing)
            inputs = tuple(seal() for seal in seals)
        return Opened(case, volume, slices, inputs, (*volume.warnings, *self._remarks(case, volume)))

    def predict(self, opened: Opened) -> Answered:
        staged = Path(tempfile.mkdtemp(prefix=f"{opened.case.id[:100]}-", dir=self.job.staging))
        probabilities, plan, attributes = None, self.bundle.plan, opened.case.attributes
        if self.job.settings.save_probabilities and plan.labels:
            probabilities = f"{opened.case.id}{SUFFIX}"
            names = tuple(plan.regions) or ("background", *plan.label_names)
            with (
                atomic_path(staged / probabilities) as path,
                closing(ProbabilityFile(path, names, opened.volume.geometry)) as file,
            ):
                answer = self.predictor.predict(opened.volume, probabilities=file, attributes=attributes)
        else:
            answer = self.predictor.predict(opened.volume, attributes=attributes)
        return Answered(
            opened.case,
            staged,
            probabilities,
            answer,
            opened.volume if "dicom-sr" in self.job.settings.dicom else None,
            _nothing(opened.volume) if opened.slices is not None and answer.labels is None else None,
            GridSummary.of(opened.volume.geometry),
            opened.slices,
            opened.inputs,
            (*opened.flags, *answer.flags),
        )

    def write(self, answered: Answered) -> CasePrediction:
        """Write everything aside, then move it to its place at once."""
        case, answer, plan, job = answered.case, answered.answer, self.bundle.plan, self.job
        staged, provenance = answered.staged, job.provenance_of(case)
        classes = tuple(ClassAnswer(head=head, probabilities=values) for head, values in answer.classes.items())
        files = _write_voxels(case, answer, plan, job.settings, staged)
        values = _value_answers(answer, plan)
        flags = (*answered.flags, *(_outside(one) for one in values if not one.inside))
        mask = answer.labels or answered.nothing
        if answered.slices is not None and mask is not None:
            finding = Finding(
                case.id,
                mask,
                plan.labels,
                job.terms,
                algorithm_of(provenance),
                classes,
                image=answered.image,
                seed=case.seed,
            )
            resample = job.settings.over(case.reading).fix_geometry
            objects = write_objects(finding, answered.slices, job.settings, staged, resample=resample)
            files |= objects.files
            flags = (*flags, *objects.flags)
        named = next((file for name, file in files.items() if name not in {"dicom-sr", "dicom-rtstruct"}), None)
        if answered.probabilities is not None:
            files["probabilities"] = answered.probabilities
        hashes = {file: sha256_of(staged / file) for file in files.values()}
        made = CasePrediction(
            case=case.id,
            mask=named,
            mask_sha256=None if named is None else hashes[named],
            files=files,
            sha256=hashes,
            source_names=tuple(path.name for path in case.images),
            inputs=answered.inputs,
            clinical=dict(case.attributes),
            grid=answered.grid,
            labels=plan.labels,
            volumes_ml=_volumes(answer, plan),
            classes=classes,
            values=values,
            flags=flags,
            backend=answer.backend,
            windows=answer.windows,
            skipped_windows=answer.skipped_windows,
            region=answer.region,
            seconds=answer.seconds,
            provenance=provenance,
        )
        commit(staged, job.out, made)
        return made

    def __call__(self, case: InferCase) -> CasePrediction | MedsegError:
        """All three steps."""
        answered = attempt(case, self.predict, attempt(case, self.read, case))
        outcome: CasePrediction | MedsegError = attempt(case, self.write, answered)
        return outcome

    def _remarks(self, case: InferCase, volume: Volume) -> tuple[str, ...]:
        plan = self.bundle.plan
        remarks = (*other_channels(case.channels, plan.channels), *strangeness(volume, plan, self.bundle.fingerprint))
        if case.id in self.bundle.manifest.training_cases:
            taught = "W-TRAINING-CASE: the model was trained on a case of this name; a score on it is not honest"
            return (*remarks, taught)
        return remarks


def attempt(case: InferCase, step: Callable[[Any], Any], given: Any) -> Any:
    """A step's result, or the reason why the case has failed, which passes through the steps that follow."""
    if isinstance(given, MedsegError):
        return given
    try:
        with case_context(case.id):
            return step(given)
    except MedsegError as error:
        return error
    except Exception as error:  # noqa: BLE001 - one case in thousands must not end the others
        logger.error("case %s\n%s", case.id, told_at_length(error))  # noqa: TRY400 - the words may quote a header
        return MedsegError(
            told(error),
            code="E-INTERNAL",
            case=case.id,
            remedy="This is a fault of medseg: run the case alone with --debug and report what it prints.",
        )


def _nothing(volume: Volume) -> LabelMap:
    return LabelMap(np.zeros(volume.geometry.shape, np.uint8), volume.geometry)


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


def _value_answers(answer: Prediction, plan: Plan) -> tuple[ValueAnswer, ...]:
    targets = plan.classification.targets if plan.classification else {}
    return tuple(
        ValueAnswer(name=name, unit=one.unit, value=answer.values[name], low=one.low, high=one.high)
        for name, one in targets.items()
    )


def _outside(one: ValueAnswer) -> str:
    return (
        f"W-OUTSIDE-RANGE: {one.name} of {one.words} lies outside the {one.low:.4g} to {one.high:.4g} of the training "
        "cases: the model has seen nothing like it"
    )


def _volumes(answer: Prediction, plan: Plan) -> dict[str, float]:
    """Millilitres by label, and by region where regions unite several labels."""
    if answer.labels is None:
        return {}
    united = {name: (value,) for name, value in plan.labels.items()} | plan.regions
    counts = values_in(answer.labels)
    voxel_ml = answer.labels.geometry.voxel_volume_mm3 / 1000
    return {name: round(sum(counts.get(value, 0) for value in values) * voxel_ml, 4) for name, values in united.items()}
