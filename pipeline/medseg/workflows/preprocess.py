"""`medseg preprocess`: fingerprint -> plan -> store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from medseg.core.clinical import encode
from medseg.core.errors import BatchError, InputError, MedsegError, case_context
from medseg.core.findings import CaseFailure
from medseg.core.plan import Fingerprint, Plan
from medseg.core.progress import Progress, silent
from medseg.core.settings import PreprocessSettings, parse_window
from medseg.data.contents import read_reference
from medseg.data.store import FINGERPRINT, Store, StoredCase, close_store, store_case
from medseg.io.contained import contained
from medseg.io.documents import read_document
from medseg.io.files import require_writable, write_text
from medseg.io.volumes import read_volumes
from medseg.ops.blank import blank_values, may_skip
from medseg.ops.prepare import to_network
from medseg.planning.clinical import clinical_columns, require_given
from medseg.planning.fingerprint import CaseMeasurement, fingerprint_of, measure_case
from medseg.planning.network import Notes, Target
from medseg.planning.plan import Wishes, make_plan
from medseg.planning.skipping import decide_skipping
from medseg.workflows.config import named_windows

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.case import Case, Dataset
    from medseg.core.volume import LabelMap, Volume
    from medseg.workflows.workspace import Workspace

_THREADS = 2
Result = TypeVar("Result")


def plan_dataset(
    dataset: Dataset, settings: PreprocessSettings, *, progress: Progress = silent
) -> tuple[Fingerprint | None, Plan, list[CaseFailure]]:
    """Measure the training cases and configure everything; an explicit plan is taken as it is.

    Returns:
        The fingerprint (None with an explicit plan), the plan, and the cases that could not be read.
    """
    if settings.plan is not None:
        return None, _given_plan(settings.plan, dataset, settings.clinical), []
    taught = [case for case in dataset.cases if case.split != "test"]

    def measure(case: Case) -> CaseMeasurement:
        volume, labels = _read(case, dataset, settings)
        return measure_case(case, dataset, volume, labels=labels)

    clinical_columns(dataset, settings.clinical, Notes())  # a fault there shall not cost the time of measuring
    with contained(settings):
        measurements, failures = _each(taught, measure, progress, "measuring cases")
    if not measurements:
        raise BatchError(
            f"none of the {len(taught)} training cases could be read; the first: {failures[0].message}",
            code="E-ALL-FAILED",
            remedy="Run `medseg check` for the whole list.",
        )
    fingerprint = fingerprint_of(measurements, taught)
    return fingerprint, make_plan(dataset, fingerprint, _wishes(settings)), failures


def preprocess(workspace: Workspace, settings: PreprocessSettings, *, progress: Progress = silent) -> Store:
    """Fill the workspace's store; cases that cannot be read are named in its index and left out.

    Raises:
        BatchError: E-ALL-FAILED when no case could be read.
    """
    dataset = workspace.dataset(settings.manifest, progress=progress)
    if not (dataset.labels or dataset.heads):
        raise InputError(
            "this dataset has neither labels nor classes: there is nothing to learn",
            code="E-NOTHING-TO-LEARN",
            file=settings.manifest,
            remedy="Add masks (`label` and `labels`) or classes (`classes` and `heads`) to the manifest.",
        )
    require_writable(workspace.store)

    def prepare(case: Case) -> StoredCase:
        volume, labels = _read(case, dataset, settings)
        prepared = to_network(volume, plan, labels=labels, ignore=dataset.ignore_value)
        if air is not None and prepared.labels is not None and case.split != "test":
            checked[case.id] = may_skip(prepared.image, prepared.labels, air)
        return store_case(workspace.store, case, prepared, dataset, clinical=encode(plan.clinical, case.attributes))

    with contained(settings):
        fingerprint, plan, _ = plan_dataset(dataset, settings, progress=progress)
        air, checked = blank_values(plan.normalisation), dict[str, bool]()
        stored, failures = _each(dataset.cases, prepare, progress, "preprocessing")
    if not stored:
        raise BatchError(
            f"none of the {len(dataset.cases)} cases could be preprocessed; the first: {failures[0].message}",
            code="E-ALL-FAILED",
            remedy="Run `medseg check` for the whole list.",
        )
    (workspace.store / FINGERPRINT).unlink(missing_ok=True)
    if fingerprint is not None:
        write_text(workspace.store / FINGERPRINT, fingerprint.to_json())
    losing = sorted(case for case, safe in checked.items() if not safe)
    if settings.plan is None or (plan.skip_constant_windows and (losing or not checked)):
        plan = decide_skipping(plan, losing=losing, num_checked=len(checked), has_air=air is not None)
    return close_store(workspace.store, plan, dataset, cases=tuple(stored), failures=tuple(failures))


def _read(case: Case, dataset: Dataset, settings: PreprocessSettings) -> tuple[Volume, LabelMap | None]:
    volume = read_volumes(
        case.images, settings.over(dataset.reading_of(case)), channels=len(dataset.channels), missing=case.missing
    )
    return volume, read_reference(case, dataset, settings, onto=volume.geometry)


def _each(
    cases: Iterable[Case], work: Callable[[Case], Result], progress: Progress, description: str
) -> tuple[list[Result], list[CaseFailure]]:
    """Do the work for every case, two at a time: reading one overlaps with computing the other."""

    def attempt(case: Case) -> Result | CaseFailure:
        try:
            with case_context(case.id):
                return work(case)
        except MedsegError as error:
            return CaseFailure(case=case.id, code=error.code, message=error.message, remedy=error.remedy or None)

    todo = list(cases)
    with ThreadPoolExecutor(_THREADS) as pool:
        outcomes = list(progress(pool.map(attempt, todo), description, len(todo)))
    return (
        [outcome for outcome in outcomes if not isinstance(outcome, CaseFailure)],
        [outcome for outcome in outcomes if isinstance(outcome, CaseFailure)],
    )


def _given_plan(path: Path, dataset: Dataset, clinical: tuple[str, ...]) -> Plan:
    plan = read_document(path, Plan)
    if plan.labels != dataset.labels or plan.channels != dataset.channels:
        raise InputError(
            f"this plan is for channels {plan.channels} and labels {plan.labels}, "
            f"the dataset has {dataset.channels} and {dataset.labels}",
            code="E-PLAN-MISMATCH",
            file=path,
            remedy="Use the plan of this dataset, or leave --plan out to make one.",
        )
    require_given(dataset, plan.clinical, clinical)
    return plan


def _wishes(settings: PreprocessSettings) -> Wishes:
    return Wishes(
        target=_target(settings.target),
        spacing_mm=settings.spacing_mm,
        patch_size=settings.patch_size,
        window_hu=None if settings.window is None else parse_window(settings.window, named_windows()),
        network=settings.network,
        memory_gib=settings.memory_gib or _memory_gib(settings.target),
        correct_bias_field=settings.correct_bias_field,
        equalise=settings.equalise,
        pooling=settings.pooling,
        clinical=settings.clinical,
    )


def _memory_gib(target: str) -> float | None:
    """Of this machine's GPU, where one is here and will train."""
    import torch

    if target == "cpu" or not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(0).total_memory) / 2**30


def _target(name: str) -> Target:
    if name == "auto":
        import torch

        return "gpu" if torch.cuda.is_available() else "cpu"
    return "gpu" if name == "gpu" else "cpu"
