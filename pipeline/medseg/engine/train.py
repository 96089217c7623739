"""Training: `fit` is the loop, `train_step` is one step; both can be read from top to bottom."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medseg.core.errors import MedsegError, ResourceError
from medseg.data.patches import PatchSampler
from medseg.engine.checkpoint import TrainingProgress, TrainingState, load_checkpoint, save_checkpoint
from medseg.engine.clock import Clock
from medseg.engine.devices import amp_dtype, autocast, pick_device, place
from medseg.engine.journal import Journal
from medseg.engine.stop import stop_requests
from medseg.engine.validate import validate
from medseg.nn.build import build_network
from medseg.nn.losses import class_loss, segmentation_loss
from medseg.ops.augment import Augmentation, augment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from medseg.core.plan import Plan
    from medseg.core.settings import TrainSettings
    from medseg.data.patches import Batch
    from medseg.data.store import LoadedCase
    from medseg.engine.clock import Status
    from medseg.nn.network import Network

CHECKPOINT = "checkpoint.safetensors"
_WATCHED = 8
_RAMP = (0.02, 0.1)


@dataclass(frozen=True)
class Run:
    """Where a training is kept and who watches it.

    Attributes:
        folder: Checkpoint, log and TensorBoard go here.
        identity: What must be equal for a checkpoint to be resumed.
        on_step: Called after every step.
        on_validation: Called with the averaged weights and their scores, so that a usable model exists early.
    """

    folder: Path
    identity: dict[str, str]
    on_step: Callable[[Status], None]
    on_validation: Callable[[dict[str, Tensor], dict[str, float]], None]


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` leaves: the averaged weights, their scores, and whether the training came to its end."""

    weights: dict[str, Tensor]
    validation: dict[str, float]
    history: tuple[dict[str, float], ...]
    progress: TrainingProgress
    finished: bool


@dataclass(frozen=True)
class Pace:
    """What the classification head is given while the segmentation is still learning.

    Attributes:
        class_weight: Of the classification loss.
        reference_share: Of the samples, those whose features are pooled under the reference instead of the prediction.
    """

    class_weight: float
    reference_share: float


@dataclass(eq=False)
class _Machine:
    """What changes while training."""

    network: Network
    averaged: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    dtype: torch.dtype | None
    how: Augmentation


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
    machine = _build(plan, settings)
    progress, path = TrainingProgress(identity=run.identity), run.folder / CHECKPOINT
    state = TrainingState(machine.network, machine.averaged, machine.optimizer, machine.scaler)
    if path.exists():
        progress = load_checkpoint(path, run.identity, state)
    sampler = PatchSampler(cases, plan, seed=settings.seed)
    watched = _some_of(held_back, seed=settings.seed)
    clock = Clock(
        settings,
        progress,
        steps_per_epoch=math.ceil(len(cases) / plan.batch_size),
        final_factor=len(held_back) / max(len(watched), 1),
    )
    history: list[dict[str, float]] = []
    running: dict[str, float] = {}
    with Journal(run.folder) as journal, stop_requests(run.folder) as stop_asked:
        while not (clock.over() or stop_asked()):
            losses = _guarded_step(machine, sampler.batch(clock.step), clock, settings)
            clock.step += 1
            running = {name: 0.9 * running.get(name, value) + 0.1 * value for name, value in losses.items()}
            if clock.validation_due() and held_back:
                scores = clock.timed_validation(
                    lambda: validate(machine.averaged, watched, plan, device=machine.device, dtype=machine.dtype)
                )
                history.append({"step": float(clock.step), "seconds": clock.elapsed(), **scores})
                journal.record("validation", clock.step, scores)
                run.on_validation(_cpu_weights(machine.averaged), scores)
            if clock.step % 10 == 0:
                journal.record("train", clock.step, {**losses, "learning_rate": _learning_rate(machine)})
            if clock.checkpoint_due():
                save_checkpoint(path, clock.progress(), state)
            run.on_step(clock.status(running, history[-1] if history else {}))
        finished = clock.over()
        scores = (
            validate(machine.averaged, held_back, plan, device=machine.device, dtype=machine.dtype) if finished else {}
        )
        if finished:
            journal.record("validation", clock.step, scores)
        save_checkpoint(path, clock.progress(), state)
    return Fitted(_cpu_weights(machine.averaged), scores, tuple(history), clock.progress(), finished)


def train_step(
    machine: _Machine, batch: Batch, *, seed: tuple[int, int], pace: Pace, settings: TrainSettings
) -> dict[str, float]:
    """One step: augment, forward, loss, backward, clip, update, average.

    Args:
        machine: Network, optimiser, precision.
        batch: On the CPU.
        seed: (seed, step): every random number of the step follows from it.
        pace: What the classification head is given at this point of the training.
        settings: Clipping and averaging.

    Returns:
        The losses and the gradient's norm.
    """
    generator = torch.Generator().manual_seed(hash(seed) % 2**63)
    torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
    batch = batch.to(machine.device)
    image, labels, known = batch.image, batch.labels, batch.known
    if settings.augment:
        image, labels, known = augment(image, labels, known, how=machine.how, generator=generator)
    shown = torch.rand(len(labels), generator=generator).to(machine.device) < pace.reference_share
    machine.network.train()
    with autocast(machine.device, machine.dtype):
        output = machine.network(
            image.contiguous(memory_format=torch.channels_last_3d),
            views=batch.views(),
            reference=torch.where(shown[:, None, None, None], labels.short(), -1),
        )
    losses: dict[str, Tensor] = {}
    if output.logits and bool(known.any()):
        losses["segmentation"] = segmentation_loss(output.logits, labels, known)
    if output.classes and (classified := class_loss(output.classes, batch.classes_of_views())) is not None:
        losses["classification"] = classified * (pace.class_weight if output.logits else 1.0)
    if not losses:
        return {}
    total = torch.stack(list(losses.values())).sum()
    if not bool(torch.isfinite(total)):
        raise MedsegError(
            f"the loss is not finite ({float(total.detach())}) on cases {', '.join(sorted(set(batch.cases)))}",
            code="E-NUMERIC",
            remedy="Look at these cases with `medseg check`, lower --learning-rate, or train with --no-amp.",
        )
    machine.optimizer.zero_grad(set_to_none=True)
    machine.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
    machine.scaler.unscale_(machine.optimizer)
    norm = nn.utils.clip_grad_norm_(machine.network.parameters(), settings.gradient_clip)
    if not machine.scaler.is_enabled() and not bool(torch.isfinite(norm)):
        raise MedsegError(
            f"the gradient is not finite on cases {', '.join(sorted(set(batch.cases)))}",
            code="E-NUMERIC",
            remedy="Train with --no-amp; if it stays, lower --learning-rate.",
        )
    machine.scaler.step(machine.optimizer)
    machine.scaler.update()
    _average(machine.averaged, machine.network, min(settings.ema_decay, (1 + seed[1]) / (10 + seed[1])))
    return {**{name: float(value.detach()) for name, value in losses.items()}, "gradient_norm": float(norm)}


def _guarded_step(machine: _Machine, batch: Batch, clock: Clock, settings: TrainSettings) -> dict[str, float]:
    """`train_step` at the clock's learning rate and class weight; out of memory becomes advice."""
    share = clock.share()
    warm = min(1.0, (clock.step + 1) / (settings.warmup_steps + 1))
    for group in machine.optimizer.param_groups:
        group["lr"] = settings.learning_rate * warm * max(1 - share, 1e-3) ** 0.9
    ramp = min(max((share - _RAMP[0]) / (_RAMP[1] - _RAMP[0]), 0.0), 1.0)
    pace = Pace(class_weight=settings.class_weight * ramp, reference_share=1 - share)
    try:
        return train_step(
            machine,
            batch,
            seed=(settings.seed, clock.step),
            pace=pace,
            settings=settings,
        )
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"a step of {len(batch.cases)} patches does not fit into the memory of {machine.device}",
            code="E-MEMORY",
            remedy=f"Set batch_size below {len(batch.cases)} (or a smaller patch_size) in the store's plan.json.",
        ) from error


def _build(plan: Plan, settings: TrainSettings) -> _Machine:
    device = pick_device(settings.device)
    if settings.deterministic:
        torch.use_deterministic_algorithms(mode=True)
    network = place(build_network(plan, seed=settings.seed), device)
    dtype = amp_dtype(device, enabled=settings.amp)
    return _Machine(
        network=network,
        averaged=copy.deepcopy(network).eval().requires_grad_(requires_grad=False),
        optimizer=torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.99)
        ),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        device=device,
        dtype=dtype,
        how=Augmentation.from_plan(plan),
    )


def _some_of(held_back: Sequence[LoadedCase], *, seed: int) -> list[LoadedCase]:
    """The cases that are looked at while training: drawn, since their order may follow their class."""
    order = torch.randperm(len(held_back), generator=torch.Generator().manual_seed(seed))
    return [held_back[int(number)] for number in order[:_WATCHED]]


def _average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - decay)
        for kept, current in zip(averaged.buffers(), network.buffers(), strict=True):
            kept.copy_(current)


def _learning_rate(machine: _Machine) -> float:
    return float(machine.optimizer.param_groups[0]["lr"])


def _cpu_weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
