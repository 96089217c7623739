"""What a verb would do, and what it would cost, without doing it (`--dry-run`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medseg.core.document import Document
from medseg.core.progress import Progress, silent
from medseg.data.splits import remarks_on_folds, split_cases, split_folds
from medseg.data.store import open_store
from medseg.engine.clock import require_time
from medseg.nn.build import build_network
from medseg.planning.memory import step_bytes
from medseg.workflows.evaluate_inputs import open_inputs
from medseg.workflows.preprocess import plan_dataset
from medseg.workflows.residency import residency_of
from medseg.workflows.train_warnings import short_warnings
from medseg.workflows.workspace import FOLDS

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.plan import Plan
    from medseg.core.settings import EvaluateSettings, PreprocessSettings, TrainSettings
    from medseg.workflows.workspace import Workspace

_MIB = 2**20


class Forecast(Document):
    """Lines of (what, value), in order."""

    rows: tuple[tuple[str, str], ...]


def forecast_check(workspace: Workspace, manifest: Path | None) -> Forecast:
    """How much there is to read."""
    dataset = workspace.dataset(manifest)
    files = [path for case in dataset.cases for path in (*case.images, case.label) if path is not None]
    size = sum(path.stat().st_size for path in files if path.is_file())
    return Forecast(
        rows=(
            ("dataset", dataset.name),
            ("cases", str(len(dataset.cases))),
            ("files", f"{len(files)}, {size / _MIB:,.0f} MiB as stored"),
            ("missing files", str(sum(not path.exists() for path in files))),
        )
    )


def forecast_demo(workspace: Workspace, budget: str) -> Forecast:
    """The steps of the demo and where their results go."""
    return Forecast(
        rows=(
            ("cohort", str(workspace.folder / "phantom")),
            ("check, preprocess", str(workspace.store)),
            (f"train for {budget}", str(workspace.runs / "demo")),
            ("infer the test cases", str(workspace.predictions / "demo")),
            ("evaluate", str(workspace.reports / "demo" / "index.html")),
        )
    )


def forecast_preprocess(
    workspace: Workspace, settings: PreprocessSettings, *, progress: Progress = silent
) -> tuple[Forecast, Plan]:
    """The plan that would be used, and the size of the store."""
    dataset = workspace.dataset(settings.manifest, progress=progress)
    fingerprint, plan, failures = plan_dataset(dataset, settings, progress=progress)
    rows = [("cases", str(len(dataset.cases))), ("cases that cannot be read", str(len(failures)))]
    if fingerprint is not None:
        ratio = np.prod(fingerprint.median_spacing_mm) / np.prod(plan.spacing_mm)
        voxels = float(np.prod(fingerprint.median_shape)) * float(ratio)
        mib = voxels * (2 * len(plan.channels) + 1) * len(dataset.cases) / _MIB
        rows.append(("size of the store", f"about {mib:,.0f} MiB"))
    rows.append(("store", str(workspace.store)))
    return Forecast(rows=tuple(rows)), plan


def forecast_train(workspace: Workspace, settings: TrainSettings) -> Forecast:
    """Cases, patches, network, memory and length of a training, from a few measured steps."""
    from medseg.engine.trial import seconds_per_step

    store = open_store(workspace.store)
    plan = store.plan.model_copy(update={"batch_size": settings.batch_size or store.plan.batch_size})
    split = split_cases(
        store.dataset, fold=settings.fold, num_folds=settings.num_folds, stratify_by=settings.stratify_by
    )
    weights = sum(value.numel() for value in build_network(plan).parameters())
    outputs = {"num_channels": len(plan.channels), "num_outputs": plan.num_outputs}
    # The parts of a batch follow one another; only one of them is kept for its backward pass.
    at_once = -(-plan.batch_size // settings.accumulate)
    memory = step_bytes(plan.network, plan.patch_size, at_once, **outputs)
    steps_per_epoch = -(-len(split.train) // plan.batch_size)
    require_time(settings)
    step_s = seconds_per_step(plan, settings)
    if settings.budget_s:
        num_steps = settings.budget_s / step_s
        length = f"{settings.budget}, at most {num_steps:,.0f} steps = {num_steps / steps_per_epoch:,.0f} epochs"
    else:
        num_steps = (settings.epochs or 0) * steps_per_epoch
        length = f"{settings.epochs} epochs = {num_steps} steps, about {num_steps * step_s / 60:,.1f} min + validations"
    short = short_warnings(settings, num_steps=int(num_steps), steps_per_epoch=steps_per_epoch, seconds_per_step=step_s)
    return Forecast(
        rows=(
            ("training cases", str(len(split.train))),
            ("validation cases", str(len(split.val))),
            ("patch", f"{'x'.join(map(str, plan.patch_size))} voxels, {plan.batch_size} a step"),
            ("network", f"{plan.network.kind}, {weights / 1e6:.1f} million weights"),
            ("memory", f"about {memory / _MIB:,.0f} MiB in fp32 by count, beside data and libraries"),
            ("data", residency_of(store, (*split.train, *split.val), plan, settings).words),
            ("time of a step", f"{step_s:.2f} s, {plan.batch_size / step_s:.1f} patches/s, measured here"),
            ("length", length),
            *(("warning", warning) for warning in short),
            ("bundle", str(workspace.runs)),
        )
    )


def forecast_folds(workspace: Workspace, settings: TrainSettings, *, name: str | None) -> Forecast:
    """The folds of a cross-validation, their cases and their length."""
    store = open_store(workspace.store)
    folds = split_folds(store.dataset, num_folds=settings.num_folds, stratify_by=settings.stratify_by)
    each = settings.budget or f"{settings.epochs} epochs"
    sizes = [(f"fold {n}", f"{len(one.train)} cases teach, {len(one.val)} judge") for n, one in enumerate(folds)]
    remarks = [("warning", remark) for remark in remarks_on_folds(store.dataset, folds)]
    length = f"{each} each, {len(folds)} times, and the prediction of every case that is held back"
    return Forecast(rows=(*sizes, *remarks, ("length", length), ("folder", str(workspace.runs / (name or FOLDS)))))


def forecast_evaluate(
    workspace: Workspace,
    predictions: Path,
    out: Path,
    settings: EvaluateSettings,
    *,
    manifest: Path | None = None,
    references: Path | None = None,
) -> Forecast:
    """How many cases have a reference and a prediction."""
    inputs = open_inputs(workspace, predictions, settings, manifest=manifest, references=references)
    cases = inputs.dataset.cases
    found = sum(case.id in inputs.masks or (predictions / f"{case.id}.json").is_file() for case in cases)
    return Forecast(
        rows=(
            ("cases with a reference", str(len(cases))),
            ("of these with a prediction", str(found)),
            ("predictions without a reference", str(len(set(inputs.masks) - inputs.ids))),
            ("labels", ", ".join(f"{name} = {value}" for name, value in inputs.dataset.labels.items()) or "none"),
            ("processes", str(inputs.processes(settings.jobs))),
            ("report", str(out / "index.html")),
        )
    )
