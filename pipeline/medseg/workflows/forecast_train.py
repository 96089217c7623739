"""What `medseg train` would do, and what it would cost (`--dry-run`); it loads no more of medseg than a training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from medseg.core.forecast import Forecast
from medseg.data.residency import GIB
from medseg.data.splits import remarks_on_folds, split_folds
from medseg.data.store import open_store
from medseg.engine.clock import require_time
from medseg.engine.trial import try_steps
from medseg.io.free_memory import free_memory
from medseg.workflows.residency import require_room, residency_of
from medseg.workflows.train import usable_split
from medseg.workflows.train_warnings import short_warnings
from medseg.workflows.workspace import FOLDS

if TYPE_CHECKING:
    from medseg.core.geometry import Shape
    from medseg.core.plan import Plan
    from medseg.core.settings import TrainSettings
    from medseg.data.residency import Residency
    from medseg.engine.trial import Trial
    from medseg.workflows.workspace import Workspace

_MIB = 2**20
# What pictures and the reading of masks load, and what hundreds of steps leave behind, for each byte a few steps took.
_LOADED_LATER, _GROWTH = 32 * _MIB, 0.05


def forecast_train(workspace: Workspace, settings: TrainSettings) -> Forecast:
    """Cases, patches, network, memory and length of a training, from a few measured steps.

    Raises:
        ResourceError: E-MEMORY when a step does not fit.
    """
    store = open_store(workspace.store)
    plan = store.plan.model_copy(update={"batch_size": settings.batch_size or store.plan.batch_size})
    split = usable_split(store, settings)
    require_time(settings)
    require_room(plan, settings)
    residency = residency_of(store, (*split.train, *split.val), plan, settings)
    free = free_memory()
    shapes = {case.id: case.shape for case in store.index.cases}
    judged = max((shapes[name] for name in split.val), key=math.prod, default=None)
    trial = try_steps(plan, settings, judged=judged)
    steps_per_epoch = math.ceil(len(split.train) / plan.batch_size)
    if settings.budget_s:
        num_steps = settings.budget_s / trial.seconds
        length = f"{settings.budget}, at most {num_steps:,.0f} steps = {num_steps / steps_per_epoch:,.0f} epochs"
    else:
        num_steps = (settings.epochs or 0) * steps_per_epoch
        minutes = num_steps * trial.seconds / 60
        length = f"{settings.epochs} epochs = {num_steps} steps, about {minutes:,.1f} min + validations"
    counts = {"num_steps": int(num_steps), "steps_per_epoch": steps_per_epoch}
    short = short_warnings(settings, **counts, seconds_per_step=trial.seconds)
    pace = f"{trial.seconds:.2f} s, {plan.batch_size / trial.seconds:.1f} patches/s, measured here"
    return Forecast(
        rows=(
            ("training cases", str(len(split.train))),
            ("validation cases", str(len(split.val))),
            ("patch", f"{'x'.join(map(str, plan.patch_size))} voxels, {plan.batch_size} a step"),
            ("network", f"{plan.network.kind}, {trial.num_weights / 1e6:.1f} million weights"),
            *_memory(trial, residency, answer_bytes=_answer_bytes(plan, judged), free=free),
            ("data", residency.words),
            ("time of a step", pace),
            ("length", length),
            *(("warning", warning) for warning in short),
            ("bundle", str(workspace.runs)),
        )
    )


def _answer_bytes(plan: Plan, judged: Shape | None) -> int:
    """Of a case that is validated on: its image and the answer in float32, and the winner of each voxel."""
    if judged is None or not plan.num_outputs:
        return 0
    return math.prod(judged) * (4 * len(plan.channels) + 4 * plan.num_outputs + 8)


def _memory(trial: Trial, residency: Residency, *, answer_bytes: int, free: int) -> list[tuple[str, str]]:
    """Rows on the memory of the process, or of the GPU on which it trains.

    Args:
        trial: The measured steps.
        residency: Where the cases are.
        answer_bytes: Of the largest case that is validated on.
        free: Bytes of memory that were free before the steps.
    """
    on_gpu = trial.device == "cuda"
    if trial.peak_bytes is None or trial.before_bytes is None:
        return [("memory", "this system does not tell")]
    cases = residency.data_gib * GIB if residency.place == ("gpu" if on_gpu else "ram") else 0.0
    steps = trial.peak_bytes + _GROWTH * (trial.peak_bytes - trial.before_bytes) + _LOADED_LATER * (not on_gpu)
    total = steps + cases + answer_bytes
    parts = (
        f"{steps / _MIB:,.0f} MiB by a few steps measured here, {cases / _MIB:,.0f} MiB of cases, "
        f"{answer_bytes / _MIB:,.0f} MiB of the largest validation case's answer"
    )
    rows = [("memory", f"about {total / _MIB:,.0f} MiB of the {'GPU' if on_gpu else 'process'}: {parts}")]
    if not on_gpu and (needed := total - trial.before_bytes) > free:
        rows.append(
            (
                "warning",
                f"W-MEMORY-SHORT: {needed / _MIB:,.0f} MiB will be needed beside what this process holds before it "
                f"trains, and {free / _MIB:,.0f} MiB are free: take a smaller --batch-size, or --accumulate 2",
            )
        )
    return rows


def forecast_folds(workspace: Workspace, settings: TrainSettings, *, name: str | None) -> Forecast:
    """The folds of a cross-validation, their cases and their length."""
    store = open_store(workspace.store)
    folds = split_folds(store.dataset, num_folds=settings.num_folds, stratify_by=settings.stratify_by)
    each = settings.budget or f"{settings.epochs} epochs"
    sizes = [(f"fold {n}", f"{len(one.train)} cases teach, {len(one.val)} judge") for n, one in enumerate(folds)]
    remarks = [("warning", remark) for remark in remarks_on_folds(store.dataset, folds)]
    length = f"{each} each, {len(folds)} times, and the prediction of every case that is held back"
    return Forecast(rows=(*sizes, *remarks, ("length", length), ("folder", str(workspace.runs / (name or FOLDS)))))
