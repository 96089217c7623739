"""One step of a training, from top to bottom: augment, forward, loss, backward, guard, update, average."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medseg.core.errors import MedsegError, ResourceError
from medseg.engine.devices import autocast, is_about_memory
from medseg.engine.evidence import keep_evidence, not_finite, suspects
from medseg.nn.losses import class_loss, segmentation_loss
from medseg.nn.ranks import average_gradients, gathered, how_many, least, total
from medseg.ops.augment import augment

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.settings import TrainSettings
    from medseg.data.batch import Batch
    from medseg.engine.clock import Clock
    from medseg.engine.machine import Machine
    from medseg.ops.augment import Augmentation

_RAMP = (0.02, 0.1)
# From 2^16 the scale has then been halved to nothing.
_MOST_SKIPPED = 20


@dataclass(frozen=True)
class Pace:
    """What the classification head is given while the segmentation is still learning.

    Attributes:
        class_weight: Of the classification loss.
        reference_share: Of the samples, those whose features are pooled under the reference instead of the prediction.
    """

    class_weight: float
    reference_share: float


def guarded_step(
    machine: Machine, batch: Batch, clock: Clock, settings: TrainSettings, *, folder: Path
) -> dict[str, float]:
    """`train_step` at the clock's learning rate and class weight.

    Args:
        machine: Network, optimiser, precision.
        batch: On the CPU.
        clock: Where the training stands.
        settings: Of the training.
        folder: Where the batch is kept when the step has no finite result.

    Raises:
        MedsegError: E-NUMERIC, naming the file in which the batch is.
        ResourceError: E-MEMORY, with what to do.
    """
    share = clock.share()
    for group in machine.optimizer.param_groups:
        group["lr"] = machine.recipe.rate(clock.step, share, warmup_steps=settings.warmup_steps)
    if settings.freeze_encoder:
        machine.freeze_encoder(frozen=share < settings.freeze_encoder)
    ramp = min(max((share - _RAMP[0]) / (_RAMP[1] - _RAMP[0]), 0.0), 1.0)
    pace = Pace(class_weight=settings.class_weight * ramp, reference_share=1 - share)
    seed = (settings.seed, clock.step)
    try:
        return train_step(machine, batch, seed=seed, pace=pace, settings=settings)
    except MedsegError as error:
        if error.code != "E-NUMERIC":
            raise
        seen, _ = as_seen(batch.to(machine.device), machine.how, seed=seed, augmented=settings.augment)
        keep_evidence(error, folder, batch, seen, seed)
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_about_memory(error):
            raise
        size = len(batch.cases) * how_many()
        raise ResourceError(
            f"a step of {size} patches does not fit into the memory of {machine.device}",
            code="E-MEMORY",
            remedy=f"Run the command again with --batch-size {size // 2}, or with the whole batch in parts "
            f"(--set train.accumulate={2 * settings.accumulate}): it goes on from the last checkpoint."
            if size > 1
            else "Set a smaller patch_size in the store's plan.json and train with --restart.",
        ) from error


def as_seen(batch: Batch, how: Augmentation, *, seed: tuple[int, int], augmented: bool) -> tuple[Batch, Tensor]:
    """The batch as the network sees it, and a number in [0, 1) for each sample.

    Args:
        batch: As drawn, on any device.
        how: What may happen to it.
        seed: (seed, step); the same seed varies the batch alike.
        augmented: Whether it is varied at all.
    """
    generators = [torch.Generator().manual_seed(hash((*seed, slot)) % 2**63) for slot in batch.slots]
    draws = torch.stack([torch.rand((), generator=generator) for generator in generators]).to(batch.image.device)
    if not augmented:
        return batch, draws
    image, labels, known = augment(
        batch.image, batch.labels, batch.known, how=how, generators=generators, sized=batch.sized()
    )
    return replace(batch, image=image, labels=labels, known=known), draws


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

    Raises:
        MedsegError: E-NUMERIC before any weight changes.
    """
    torch.manual_seed(hash(seed) % 2**63)
    batch, draws = as_seen(batch.to(machine.device), machine.how, seed=seed, augmented=settings.augment)
    shown = draws < pace.reference_share
    machine.network.train()
    machine.optimizer.zero_grad(set_to_none=True)
    told: dict[str, float] = {}
    num_parts = min(settings.accumulate, least(len(shown)))
    for rows in torch.tensor_split(torch.arange(len(shown), device=machine.device), num_parts):
        part = batch.part(rows) if num_parts > 1 else batch
        losses = _losses(machine, part, shown[rows], pace)
        sizes = total(torch.tensor([len(rows), len(shown), len(part.views()), len(batch.views())])).tolist()
        shares = {"segmentation": sizes[0] / sizes[1], "classification": sizes[2] / max(sizes[3], 1)}
        weighted = {name: value * shares[name] for name, value in losses.items()}
        if weighted:
            machine.scaler.scale(torch.stack(list(weighted.values())).sum()).backward()  # type: ignore[no-untyped-call]
        for name, value in weighted.items():
            told[name] = told.get(name, 0.0) + float(value.detach())
    if not told:
        return {}
    average_gradients(machine.network.parameters())
    machine.scaler.unscale_(machine.optimizer)
    norm = nn.utils.clip_grad_norm_(machine.network.parameters(), machine.recipe.gradient_clip)
    is_finite = bool(torch.isfinite(norm))
    machine.num_skipped = 0 if is_finite else machine.num_skipped + 1
    if machine.num_skipped > (_MOST_SKIPPED if machine.scaler.is_enabled() else 0):
        raise not_finite("the gradient is not finite", batch)
    machine.scaler.step(machine.optimizer)
    machine.scaler.update()
    machine.average(min(settings.ema_decay, (1 + seed[1]) / (10 + seed[1])))
    # A scaler answers a gradient that is not finite with a smaller scale, and makes no step.
    return {**told, "gradient_norm": float(norm)} if is_finite else {**told, "skipped": 1.0}


def _losses(machine: Machine, batch: Batch, shown: Tensor, pace: Pace) -> dict[str, Tensor]:
    """Forward pass and losses by name; empty when there is nothing to learn from.

    Raises:
        MedsegError: E-NUMERIC.
    """
    with autocast(machine.device, machine.dtype):
        output = machine.network(
            batch.image.contiguous(memory_format=torch.channels_last_3d),
            views=batch.views(),
            reference=torch.where(shown[:, None, None, None], batch.labels.short(), -1),
            clinical=batch.clinical,
            bags=batch.pairs(),
        )
    losses: dict[str, Tensor] = {}
    if output.logits and bool(total(batch.known.any().float()) > 0):
        losses["segmentation"] = segmentation_loss(output.logits, batch.labels, batch.known)
    taught = {head: gathered(values) for head, values in batch.classes_of_views().items()}
    values = {name: gathered(wanted) for name, wanted in batch.values_of_views().items()}
    if output.classes and (classified := class_loss(output.classes, taught, values)) is not None:
        losses["classification"] = classified * (pace.class_weight if output.logits else 1.0)
    if losses and not bool(torch.isfinite(loss := torch.stack(list(losses.values())).sum())):
        raise not_finite(f"the loss is not finite ({float(loss.detach())})", batch, suspects(batch, output))
    return losses
