"""Training: `fit` is the loop; `engine/step.py` is one step of it, `engine/machine.py` what the steps change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medseg.data.patches import PatchSampler
from medseg.engine.checkpoint import TrainingProgress, TrainingState, load_checkpoint, save_checkpoint
from medseg.engine.clock import Clock
from medseg.engine.distributed import ALONE, Ranks
from medseg.engine.journal import Journal
from medseg.engine.machine import build_machine
from medseg.engine.step import guarded_step
from medseg.engine.stop import stop_requests
from medseg.engine.validate import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from medseg.core.plan import Plan
    from medseg.core.settings import TrainSettings
    from medseg.data.store import LoadedCase
    from medseg.engine.clock import Status

CHECKPOINT = "checkpoint.safetensors"
_WATCHED = 8


@dataclass(frozen=True)
class Run:
    """Where a training is kept and who watches it.

    Attributes:
        folder: Checkpoint, log and TensorBoard go here.
        identity: What must be equal for a checkpoint to be resumed.
        on_step: Called after every step.
        on_validation: Called with the averaged weights and their scores, so that a usable model exists early.
        ranks: This process among those of the training; only one writes and calls.
    """

    folder: Path
    identity: dict[str, str]
    on_step: Callable[[Status], None]
    on_validation: Callable[[dict[str, Tensor], dict[str, float]], None]
    ranks: Ranks = ALONE


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` leaves: the averaged weights, their scores, and whether the training came to its end."""

    weights: dict[str, Tensor]
    validation: dict[str, float]
    history: tuple[dict[str, float], ...]
    progress: TrainingProgress
    finished: bool


def fit(
    plan: Plan,
    cases: Sequence[LoadedCase],
    held_back: Sequence[LoadedCase],
    *,
    settings: TrainSettings,
    run: Run,
) -> Fitted:
    """Train a network, or go on with the training that the run's folder holds.

    Args:
        plan: What to build and how to sample.
        cases: To learn from.
        held_back: To validate on.
        settings: Length, optimiser, device.
        run: Where it is kept and who watches.

    Raises:
        MedsegError: E-NUMERIC when the loss is not finite; no weight has then been touched.
        ResourceError: E-MEMORY when the device's memory does not hold a step.
    """
    ranks = run.ranks
    slots = ranks.slots(plan.batch_size)
    machine = build_machine(plan, settings)
    progress, path = TrainingProgress(identity=run.identity), run.folder / CHECKPOINT
    state = TrainingState(machine.network, machine.averaged, machine.optimizer, machine.scaler)
    if path.exists():
        progress = load_checkpoint(path, run.identity, state)
    ranks.require_equal("state of the training", (run.identity, progress.step))
    sampler = PatchSampler(cases, plan, seed=settings.seed)
    watched = _some_of(held_back, seed=settings.seed)
    clock = Clock(
        settings,
        progress,
        steps_per_epoch=math.ceil(len(cases) / plan.batch_size),
        final_factor=len(held_back) / max(len(watched), 1),
        now=ranks.now,
    )
    history: list[dict[str, float]] = []
    running: dict[str, float] = {}
    where: Any = {"device": machine.device, "dtype": machine.dtype, "ranks": ranks}
    with Journal(run.folder if ranks.is_writer else None) as journal, stop_requests(run.folder) as stop_asked:
        while not (clock.over() or ranks.any(stop_asked())):
            losses = guarded_step(machine, sampler.batch(clock.step, slots), clock, settings)
            clock.step += 1
            running = {name: 0.9 * running.get(name, value) + 0.1 * value for name, value in losses.items()}
            if clock.validation_due() and held_back:
                scores = clock.timed_validation(lambda: validate(machine.averaged, watched, plan, **where))
                history.append({"step": float(clock.step), "seconds": clock.elapsed(), **scores})
                journal.record("validation", clock.step, scores)
                run.on_validation(machine.model(), scores)
            if clock.step % 10 == 0:
                journal.record("train", clock.step, {**losses, "learning_rate": machine.learning_rate()})
            if clock.checkpoint_due() and ranks.is_writer:
                save_checkpoint(path, clock.progress(), state)
            run.on_step(clock.status(running, history[-1] if history else {}))
        finished = clock.over()
        scores = validate(machine.averaged, held_back, plan, **where) if finished else {}
        if finished:
            journal.record("validation", clock.step, scores)
        if ranks.is_writer:
            save_checkpoint(path, clock.progress(), state)
    return Fitted(machine.model(), scores, tuple(history), clock.progress(), finished)


def _some_of(held_back: Sequence[LoadedCase], *, seed: int) -> list[LoadedCase]:
    """The cases that are looked at while training: drawn, since their order may follow their class."""
    order = torch.randperm(len(held_back), generator=torch.Generator().manual_seed(seed))
    return [held_back[int(number)] for number in order[:_WATCHED]]
