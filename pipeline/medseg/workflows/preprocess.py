"""`medseg preprocess`: fingerprint -> plan -> store."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from medseg.core.errors import BatchError, InputError
from medseg.core.findings import CaseFailure
from medseg.core.plan import Fingerprint, Plan
from medseg.core.progress import Progress, silent
from medseg.core.settings import PreprocessSettings, parse_window
from medseg.data.store import FINGERPRINT, Store, close_store
from medseg.io.contained import contained
from medseg.io.documents import read_document
from medseg.io.files import remove_unfinished, require_writable, write_text
from medseg.ops.blank import blank_values
from medseg.planning.clinical import clinical_columns, require_given
from medseg.planning.fingerprint import fingerprint_of
from medseg.planning.network import Notes, Target
from medseg.planning.plan import Wishes, make_plan
from medseg.planning.skipping import decide_skipping
from medseg.workflows.config import named_windows
from medseg.workflows.parallel import Each, each_in_threads
from medseg.workflows.preprocess_case import Measuring, Storing, lost

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.case import Dataset
    from medseg.workflows.workspace import Workspace

Result = TypeVar("Result")


def plan_dataset(
    dataset: Dataset, settings: PreprocessSettings, *, each: Each = each_in_threads, progress: Progress = silent
) -> tuple[Fingerprint | None, Plan, list[CaseFailure]]:
    """Measure the training cases and configure everything; an explicit plan is taken as it is.

    Returns:
        The fingerprint (None with an explicit plan), the plan, and the cases that could not be read.

    Raises:
        BatchError: E-ALL-FAILED when no case could be read.
    """
    if settings.plan is not None:
        return None, _given_plan(settings.plan, dataset, settings.clinical), []
    taught = [case for case in dataset.cases if case.split != "test"]
    clinical_columns(dataset, settings.clinical, Notes())  # a fault there shall not cost the time of measuring
    measuring = Measuring(dataset.model_copy(update={"cases": ()}), settings)
    outcomes = each(measuring, taught, on_death=lost, around=partial(contained, settings))
    measurements, failures = _split(progress(outcomes, "measuring cases", len(taught)))
    if not measurements:
        raise BatchError(
            f"none of the {len(taught)} training cases could be read; the first: {failures[0].message}",
            code="E-ALL-FAILED",
            remedy="Run `medseg check` for the whole list.",
        )
    fingerprint = fingerprint_of(measurements, taught)
    return fingerprint, make_plan(dataset, fingerprint, _wishes(settings)), failures


def preprocess(
    workspace: Workspace, settings: PreprocessSettings, *, each: Each | None = None, progress: Progress = silent
) -> Store:
    """Fill the workspace's store; cases that cannot be read are named in its index and left out.

    Args:
        workspace: Its `store/` is filled.
        settings: What to read and how.
        each: Who does the cases; absent: threads of this process.
        progress: Wraps the loops over cases.

    Raises:
        BatchError: E-ALL-FAILED when no case could be read.
        InputError: E-NOTHING-TO-LEARN.
        UsageError: E-ENGINE when the settings ask for another engine and nobody was given.
    """
    if each is None:
        settings.require_local()
        each = each_in_threads
    dataset = workspace.dataset(settings.manifest, progress=progress)
    if not (dataset.labels or dataset.heads or dataset.targets):
        raise InputError(
            "this dataset has neither labels nor classes nor targets: there is nothing to learn",
            code="E-NOTHING-TO-LEARN",
            file=settings.manifest,
            remedy="Add masks (`label`, `labels`), classes (`classes`, `heads`) or numbers (`values`, `targets`).",
        )
    require_writable(workspace.store)
    with contained(settings):
        fingerprint, plan, _ = plan_dataset(dataset, settings, each=each, progress=progress)
        storing = Storing(workspace.store, plan, dataset.model_copy(update={"cases": ()}), settings)
        outcomes = each(storing, dataset.cases, on_death=lost, around=partial(contained, settings))
        stored, failures = _split(progress(outcomes, "preprocessing", len(dataset.cases)))
    remove_unfinished(workspace.store / "cases")
    if not stored:
        raise BatchError(
            f"none of the {len(dataset.cases)} cases could be preprocessed; the first: {failures[0].message}",
            code="E-ALL-FAILED",
            remedy="Run `medseg check` for the whole list.",
        )
    (workspace.store / FINGERPRINT).unlink(missing_ok=True)
    if fingerprint is not None:
        write_text(workspace.store / FINGERPRINT, fingerprint.to_json())
    checked = [one for one in stored if one.may_skip is not None]
    losing = sorted(one.entry.id for one in checked if not one.may_skip)
    if settings.plan is None or (plan.skip_constant_windows and (losing or not checked)):
        has_air = blank_values(plan.normalisation) is not None
        plan = decide_skipping(plan, losing=losing, num_checked=len(checked), has_air=has_air)
    entries = tuple(one.entry for one in stored)
    return close_store(workspace.store, plan, dataset, cases=entries, failures=tuple(failures))


def _split(outcomes: Iterable[Result | CaseFailure]) -> tuple[list[Result], list[CaseFailure]]:
    done, failures = [], []
    for outcome in outcomes:
        if isinstance(outcome, CaseFailure):
            failures.append(outcome)
        else:
            done.append(outcome)
    return done, failures


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
        directed=settings.directed,
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
