"""`medseg infer`: volumes -> masks on their own grid, and a JSON of what was found.

A case is done when its record agrees with every file; the same command again skips what is done and goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeAlias

from medseg.core.answering import Answering
from medseg.core.batch import BatchSummary, CaseState, is_summary
from medseg.core.errors import InputError, MedsegError, UsageError
from medseg.core.findings import CaseFailure, CasePrediction
from medseg.core.progress import Progress, silent
from medseg.io.bundle import Bundle, read_bundle
from medseg.io.contained import contained
from medseg.io.files import write_text
from medseg.workflows.claim import Claim, claimed
from medseg.workflows.dicom_out import terms_of
from medseg.workflows.infer_case import CaseWork, Job, attempt
from medseg.workflows.infer_record import discard, standing
from medseg.workflows.inputs import InferCase, collect_inputs, refuse_overwriting, with_clinical
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.settings import InferSettings

Outcome: TypeAlias = CasePrediction | MedsegError
Runner: TypeAlias = Callable[[Job, Bundle, Sequence[InferCase]], Iterator[tuple[InferCase, Outcome]]]


@dataclass(frozen=True)
class Request:
    """What is asked for; the arguments of `infer`."""

    bundle: Path
    settings: InferSettings
    volumes: Sequence[Path] = ()
    folder: Path | None = None
    split: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Inferred:
    """What came of a batch: every case is in one of the two lists.

    Attributes:
        skipped: Ids of predictions that were done before and verified.
        redone: Why an earlier result was not kept, by case.
    """

    bundle: Path
    out: Path
    predictions: tuple[CasePrediction, ...]
    failures: tuple[CaseFailure, ...]
    skipped: tuple[str, ...] = ()
    redone: dict[str, str] = field(default_factory=dict)


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
        out: Masks (`CASE.nii.gz`), findings (`CASE.json`) and `predictions.json` go here.
        settings: Overlap, mirroring, device, precision.
        volumes: Files or DICOM folders.
        folder: A folder of images or a manifest.
        split: Only these cases of a manifest.
        progress: Wraps the loop over cases.

    Raises:
        BatchError: `E-LOCKED` when another run writes into the folder.
        UsageError: `E-ENGINE` when the settings ask for Ray, which `infer_batch` with its runner is for.
        MedsegError: When the model or the inputs as a whole cannot be used.
    """
    settings.require_local()
    with claimed(out, settings) as claim:
        return infer_batch(Request(bundle, settings, volumes, folder, split), claim, progress=progress)


def overlapped(job: Job, bundle: Bundle, cases: Sequence[InferCase]) -> Iterator[tuple[InferCase, Outcome]]:
    """While one case is in the network, the next is read and the last is written: two images in memory at most."""
    work = CaseWork(job, bundle)
    with (
        contained(job.settings),
        ThreadPoolExecutor(1, "reading") as reading,
        ThreadPoolExecutor(1, "writing") as writing,
    ):
        coming: Future[object] | None = reading.submit(attempt, cases[0], work.read, cases[0])
        import_module("medseg.ops.chain")  # monai takes seconds, in which the first case is read
        leaving: tuple[InferCase, Future[Outcome]] | None = None
        for case, following in zip_longest(cases, cases[1:]):
            opened = coming.result() if coming else None
            coming = reading.submit(attempt, following, work.read, following) if following else None
            answered = attempt(case, work.predict, opened)
            del opened
            if leaving:
                yield leaving[0], leaving[1].result()
            leaving = case, writing.submit(attempt, case, work.write, answered)
            del answered
        if leaving:
            yield leaving[0], leaving[1].result()


def infer_batch(
    request: Request, claim: Claim, *, runner: Runner = overlapped, progress: Progress = silent
) -> Inferred:
    """As `infer`, into a folder that is already claimed, by whoever does the cases."""
    model = read_bundle(request.bundle)
    cases = _cases(request, model, claim)
    job = batch_job(request, model, claim)
    states, kept, redone = _look(job, cases)
    todo = [case for case in cases if case.id not in kept]
    predictions, failures = dict(kept), []
    summary = _Summary(claim, job, states)
    summary.write(finished=False)
    try:
        for case, outcome in progress(runner(job, model, todo) if todo else iter(()), "predicting", len(todo)):
            if isinstance(outcome, CasePrediction):
                predictions[case.id] = outcome
            else:
                discard(case.id, claim.out)
                failures.append(CaseFailure.of(case.id, outcome))
            states[case.id] = _state(outcome, redone.get(case.id))
            if isinstance(outcome, MedsegError) and (len(cases) == 1 or outcome.code == "E-DISK-FULL"):
                raise outcome
    finally:
        summary.write(finished=all(state.state != "pending" for state in states.values()))
    made = tuple(predictions[case.id] for case in cases if case.id in predictions)
    return Inferred(request.bundle, claim.out, made, tuple(failures), tuple(kept), redone)


def _cases(request: Request, model: Bundle, claim: Claim) -> list[InferCase]:
    """The cases of this shard."""
    channels = len(model.plan.channels)
    found = collect_inputs(request.volumes, request.folder, num_channels=channels, split=request.split)
    found = with_clinical(found, model.plan.clinical, request.attributes)
    refuse_overwriting(found, claim.out, request.settings.formats)
    number, count = request.settings.part
    if count > 1:
        found = tuple(sorted(found, key=lambda case: case.id)[number - 1 :: count])
    if not found:
        message = f"no case is left for part {number} of {count}"
        raise InputError(message, code="E-NO-INPUT", remedy="Use fewer parts than there are cases.")
    for case in found:
        if is_summary(case.id):
            message = f"a case called {case.id!r} would be written over a summary such as {claim.summary.name}"
            raise UsageError(message, code="E-NAME-CLASH", file=case.images[0], remedy="Rename the file.")
    return list(found)


def batch_job(request: Request, model: Bundle, claim: Claim) -> Job:
    """What the cases have in common, terms of labels and provenance worked out."""
    settings, seals = request.settings, model.manifest.provenance
    terms = terms_of(model.plan.labels, settings, model.plan.terms) if settings.dicom else {}
    provenance = make_provenance(model.manifest.dataset, settings)
    words = {"terms": _digest({name: term.model_dump() for name, term in terms.items()})} if terms else {}
    provenance = provenance.model_copy(
        update={
            "model": model.manifest.name,
            "weights_sha256": seals.weights_sha256,
            "plan_sha256": seals.plan_sha256,
            "settings": provenance.settings | words | _answering(model),
        }
    )
    return Job(request.bundle, claim.out, claim.staging, settings, terms, provenance)


def _answering(model: Bundle) -> dict[str, str]:
    """What is done with the raw answers, where that is anything: another way of answering makes another result."""
    answering = model.manifest.answering
    return {} if answering == Answering() else {"answering": answering.model_dump_json(exclude_defaults=True)}


def _look(
    job: Job, cases: Sequence[InferCase]
) -> tuple[dict[str, CaseState], dict[str, CasePrediction], dict[str, str]]:
    """The state of every case, the results that stand, and why others do not."""
    states, kept, redone = {}, {}, {}
    for case in cases:
        found = standing(case, job.out, job.provenance_of(case))
        if isinstance(found, CasePrediction) and not job.settings.overwrite:
            kept[case.id] = found
            states[case.id] = _state(found, None).model_copy(update={"skipped": True})
            continue
        if found is not None:
            redone[case.id] = found if isinstance(found, str) else "everything is to be overwritten"
        states[case.id] = CaseState(case=case.id, state="pending", redone=redone.get(case.id))
    return states, kept, redone


def _state(outcome: Outcome, redone: str | None) -> CaseState:
    if isinstance(outcome, CasePrediction):
        return CaseState(
            case=outcome.case,
            state="done",
            redone=redone,
            seconds=round(sum(outcome.seconds.values()), 3),
            mask=outcome.mask,
            mask_sha256=outcome.mask_sha256,
        )
    return CaseState(case=outcome.case or "", state="failed", redone=redone, code=outcome.code, message=outcome.message)


@dataclass(frozen=True)
class _Summary:
    claim: Claim
    job: Job
    states: dict[str, CaseState]

    def write(self, *, finished: bool) -> None:
        made = self.job.provenance
        summary = BatchSummary(
            model=made.model, weights_sha256=made.weights_sha256, finished=finished, cases=tuple(self.states.values())
        )
        staged = self.claim.staging / self.claim.summary.name
        write_text(staged, summary.to_json())
        staged.replace(self.claim.summary)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
