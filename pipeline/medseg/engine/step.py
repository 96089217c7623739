"""One step of a training, from top to bottom: augment, forward, loss, backward, guard, update, average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medseg.core.errors import MedsegError, ResourceError
from medseg.engine.devices import autocast
from medseg.nn.losses import class_loss, segmentation_loss
from medseg.nn.ranks import average_gradients, everybodys, gathered, total
from medseg.ops.augment import augment

if TYPE_CHECKING:
    from medseg.core.settings import TrainSettings
    from medseg.data.patches import Batch
    from medseg.engine.clock import Clock
    from medseg.engine.machine import Machine

_RAMP = (0.02, 0.1)


@dataclass(frozen=True)
class Pace:
    """What the classification head is given while the segmentation is still learning.

    Attributes:
        class_weight: Of the classification loss.
        reference_share: Of the samples, those whose features are pooled under the reference instead of the prediction.
    """

    class_weight: float
    reference_share: float


def guarded_step(machine: Machine, batch: Batch, clock: Clock, settings: TrainSettings) -> dict[str, float]:
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


def train_step(
    machine: Machine, batch: Batch, *, seed: tuple[int, int], pace: Pace, settings: TrainSettings
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
    torch.manual_seed(hash(seed) % 2**63)
    generators = [torch.Generator().manual_seed(hash((*seed, slot)) % 2**63) for slot in batch.slots]
    shown = torch.stack([torch.rand((), generator=generator) for generator in generators]) < pace.reference_share
    batch = batch.to(machine.device)
    image, labels, known = batch.image, batch.labels, batch.known
    if settings.augment:
        image, labels, known = augment(image, labels, known, how=machine.how, generators=generators)
    machine.network.train()
    with autocast(machine.device, machine.dtype):
        output = machine.network(
            image.contiguous(memory_format=torch.channels_last_3d),
            views=batch.views(),
            reference=torch.where(shown.to(machine.device)[:, None, None, None], labels.short(), -1),
        )
    losses: dict[str, Tensor] = {}
    if output.logits and bool(total(known.any().float()) > 0):
        losses["segmentation"] = segmentation_loss(output.logits, labels, known)
    taught = {head: gathered(values) for head, values in batch.classes_of_views().items()}
    if output.classes and (classified := class_loss(output.classes, taught)) is not None:
        losses["classification"] = classified * (pace.class_weight if output.logits else 1.0)
    if not losses:
        return {}
    loss = torch.stack(list(losses.values())).sum()
    if not bool(torch.isfinite(loss)):
        raise MedsegError(
            f"the loss is not finite ({float(loss.detach())}) on cases {_named(batch)}",
            code="E-NUMERIC",
            remedy="Look at these cases with `medseg check`, lower --learning-rate, or train with --no-amp.",
        )
    machine.optimizer.zero_grad(set_to_none=True)
    machine.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    average_gradients(machine.network.parameters())
    machine.scaler.unscale_(machine.optimizer)
    norm = nn.utils.clip_grad_norm_(machine.network.parameters(), settings.gradient_clip)
    if not machine.scaler.is_enabled() and not bool(torch.isfinite(norm)):
        raise MedsegError(
            f"the gradient is not finite on cases {_named(batch)}",
            code="E-NUMERIC",
            remedy="Train with --no-amp; if it stays, lower --learning-rate.",
        )
    machine.scaler.step(machine.optimizer)
    machine.scaler.update()
    machine.average(min(settings.ema_decay, (1 + seed[1]) / (10 + seed[1])))
    return {**{name: float(value.detach()) for name, value in losses.items()}, "gradient_norm": float(norm)}


def _named(batch: Batch) -> str:
    return ", ".join(sorted(set(everybodys(batch.cases))))
