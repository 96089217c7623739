"""Training: `fit` is the loop; `engine/step.py` is one step of it, `engine/machine.py` what the steps change."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medseg.core.errors import ModelError, ResourceError
from medseg.data.patches import PatchSampler
from medseg.data.residency import IN_MEMORY, Residency
from medseg.engine.ahead import Ahead
from medseg.engine.backends import torch_segment
from medseg.engine.checkpoint import (
    CHECKPOINT,
    TrainingProgress,
    TrainingState,
    load_checkpoint,
    load_progress,
    save_checkpoint,
)
from medseg.engine.clock import Clock
from medseg.engine.devices import freed_memory_kept
from medseg.engine.diagnosis import refit_cost, refit_heads
from medseg.engine.distributed import ALONE, Ranks
from medseg.engine.journal import Journal
from medseg.engine.machine import build_machine
from medseg.engine.mosaic import mosaic
from medseg.engine.step import as_seen, guarded_step
from medseg.engine.stop import Stopped, stop_requests
from medseg.engine.usage import Usage
from medseg.engine.validate import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from medseg.core.plan import Plan
    from medseg.core.settings import TrainSettings
    from medseg.data.batch import Batch
    from medseg.data.store import LoadedCase
    from medseg.engine.clock import Status
    from medseg.engine.machine import Machine

_WATCHED = 8


@dataclass(frozen=True)
class Run:
    """Where a training is kept and who watches it.

    Attributes:
        folder: Checkpoint, log and TensorBoard go here.
        identity: What must be equal for a checkpoint to be resumed.
        on_step: Called after every step.
        on_validation: Called with the averaged weights and their scores, so that a usable model exists early.
        ranks: This process among those of the training; only one writes.
        start: Weights to begin with; empty for fresh ones.
        residency: Where the cases are.
    """

    folder: Path
    identity: dict[str, str]
    on_step: Callable[[Status], None]
    on_validation: Callable[[dict[str, Tensor], dict[str, float]], None]
    ranks: Ranks = ALONE
    start: dict[str, Tensor] = field(default_factory=dict)
    residency: Residency = IN_MEMORY


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` leaves: the averaged weights, their scores, and whether the training came to its end."""

    weights: dict[str, Tensor]
    validation: dict[str, float]
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
    ranks, slots = run.ranks, run.ranks.slots(plan.batch_size)
    machine = build_machine(plan, settings)
    state = TrainingState(machine.network, machine.averaged, machine.optimizer, machine.scaler)
    progress = _resumed(run, state)
    sampler = PatchSampler(cases, plan, seed=settings.seed, channel_dropout=settings.channel_dropout)
    clock = _clock(plan, settings, progress, ranks.now, num_cases=len(cases), num_held_back=len(held_back))
    usage = Usage(machine.device)
    running: dict[str, float] = {}
    scores: dict[str, float] = {}
    with (
        Journal(run.folder if ranks.is_writer else None, step=clock.step) as journal,
        stop_requests(run.folder, aloud=ranks.is_writer) as stop_asked,
        _ahead(sampler, slots, machine, run.residency) as batches,
        freed_memory_kept(machine.device),
    ):
        journal.note("data", clock.step, run.residency.model_dump())

        def judged(chosen: Sequence[LoadedCase]) -> dict[str, float]:
            where: Any = {"device": machine.device, "dtype": machine.dtype, "ranks": ranks}
            with _kept_on_loss(run, clock, state):
                return validate(machine.averaged, chosen, plan, **where, stop_asked=stop_asked)

        try:
            while not clock.over():
                if ranks.any(stop_asked()):
                    raise Stopped  # noqa: TRY301 - the same way out as from the middle of a validation
                if clock.validation_due() and held_back:
                    scores = clock.timed_validation(lambda: judged(_some_of(held_back, seed=settings.seed)))
                    journal.record("validation", clock.step, {"seconds": clock.elapsed(), **scores})
                    _show_patches(journal, machine, sampler, clock.step, settings)
                    run.on_validation(machine.model(), scores)
                losses = guarded_step(machine, batches.batch(clock.step), clock, settings, folder=run.folder)
                clock.advance()
                running = {name: 0.9 * running.get(name, value) + 0.1 * value for name, value in losses.items()}
                if clock.telling_due():
                    _tell(journal, machine, clock, losses, usage)
                if clock.checkpoint_due():
                    _save(run, clock, state)
                run.on_step(clock.status(running, scores))
            # Before the heads are fitted once more: a training that is extended goes on with those it trained.
            _save(run, clock, state)
            refit_heads(
                machine.averaged,
                cases,
                plan,
                seed=settings.seed,
                stop_asked=lambda: ranks.any(stop_asked()),
                device=machine.device,
                dtype=machine.dtype,
            )
            scores, finished = judged(held_back), True
            journal.record("validation", clock.step, {"seconds": clock.elapsed(), **scores})
        except Stopped:
            scores, finished = {}, False
            if not clock.over():
                _save(run, clock, state)
    return Fitted(machine.model(), scores, clock.progress(), finished)


def _ahead(sampler: PatchSampler, slots: Sequence[int], machine: Machine, residency: Residency) -> Ahead:
    """Drawn ahead where something waits: for a disk, or for a GPU to be given its patches."""
    feeds_gpu = machine.device.type == "cuda" and residency.place != "gpu"

    def draw(step: int) -> Batch:
        batch = sampler.batch(step, slots)
        return batch.pinned() if feeds_gpu else batch

    return Ahead(draw, threaded=feeds_gpu or residency.place == "files")


def _tell(journal: Journal, machine: Machine, clock: Clock, losses: dict[str, float], usage: Usage) -> None:
    journal.record("train", clock.step, {**losses, "learning_rate": machine.learning_rate()})
    journal.record("use", clock.step, {"patches_per_s": clock.samples_per_s(), **usage.read()})


def _show_patches(
    journal: Journal, machine: Machine, sampler: PatchSampler, step: int, settings: TrainSettings
) -> None:
    """Draw what the next step will see, with the reference and the averaged network's answer."""
    batch = sampler.batch(step).to(machine.device)
    seen, _ = as_seen(batch, machine.how, seed=(settings.seed, step), augmented=settings.augment)
    if seen.known.any():
        segment = torch_segment(machine.averaged, machine.dtype)
        # One by one: a batch that is trained in parts may not fit into the memory as a whole.
        answer = torch.cat([segment(image[None]).argmax(1) for image in seen.image])
        journal.picture("patches", step, mosaic(seen.image, seen.labels, answer))


def _resumed(run: Run, state: TrainingState) -> TrainingProgress:
    """Where the folder's checkpoint left off, or the start; the same in every process."""
    progress, path = TrainingProgress(identity=run.identity), run.folder / CHECKPOINT
    if path.exists():
        progress = load_checkpoint(path, run.identity, state)
    elif run.start:
        state.network.load_state_dict(run.start)
        state.averaged.load_state_dict(run.start)
        # How good it is before the first step is worth knowing.
        progress = progress.model_copy(update={"next_validation": -1.0})
    run.ranks.require_equal("state of the training", (run.identity, progress.step))
    return progress


def _save(run: Run, clock: Clock, state: TrainingState) -> None:
    if run.ranks.is_writer:
        save_checkpoint(run.folder / CHECKPOINT, clock.progress(), state)


@contextmanager
def _kept_on_loss(run: Run, clock: Clock, state: TrainingState) -> Iterator[None]:
    """Around a validation: what runs out of memory or loses a process in it does not take the training with it."""
    try:
        yield
    except ResourceError as error:
        if not clock.over():  # else it was saved before the heads were fitted
            _save(run, clock, state)
        if error.code == "E-MEMORY":
            error.remedy += " What was trained is kept: the same command goes on from here."
        raise
    except ModelError as error:
        if error.code == "E-NUMERIC":
            error.remedy = (
                "The training has diverged. With --no-amp or a lower rate (--set train.learning_rate=1e-4) the same "
                "command goes on from the last checkpoint; if it says this again, add --restart."
            )
        raise


def has_ended(run: Path, identity: dict[str, str], plan: Plan, settings: TrainSettings, **sizes: int) -> int | None:
    """The step at which the training in a folder came to the end that these settings ask for; None when it has not.

    Args:
        run: Its folder, with a checkpoint.
        identity: What must be equal.
        plan: The store's.
        settings: The length.
        **sizes: `num_cases` to learn from and `num_held_back`.

    Raises:
        UsageError: E-RESUME when it was another training.
    """
    progress = load_progress(run / CHECKPOINT, identity)
    return progress.step if _clock(plan, settings, progress, time.monotonic, **sizes).over() else None


def _clock(
    plan: Plan,
    settings: TrainSettings,
    progress: TrainingProgress,
    now: Callable[[], float],
    *,
    num_cases: int,
    num_held_back: int,
) -> Clock:
    return Clock(
        settings,
        progress,
        num_cases=num_cases,
        batch_size=plan.batch_size,
        now=now,
        final_factor=(num_held_back + refit_cost(plan, num_cases)) / max(min(num_held_back, _WATCHED), 1),
    )


def _some_of(held_back: Sequence[LoadedCase], *, seed: int) -> list[LoadedCase]:
    """The cases that are looked at while training: drawn, since their order may follow their class."""
    order = torch.randperm(len(held_back), generator=torch.Generator().manual_seed(seed))
    return [held_back[int(number)] for number in order[:_WATCHED]]
