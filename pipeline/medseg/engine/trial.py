"""What a step of a training takes here, in time and in memory, measured on noise before anything is trained."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from medseg.core.clinical import encoded_width
from medseg.data.batch import Batch
from medseg.engine.backends import torch_segment
from medseg.engine.checkpoint import TrainingProgress, TrainingState, packed_checkpoint
from medseg.engine.clock import Clock
from medseg.engine.devices import freed_memory_kept, is_about_memory, pick_device
from medseg.engine.journal import Journal
from medseg.engine.machine import build_machine
from medseg.engine.step import guarded_step
from medseg.engine.usage import forget_peak, peak_bytes
from medseg.engine.validate import windows_at_once

if TYPE_CHECKING:
    from medseg.core.geometry import Shape
    from medseg.core.plan import Plan
    from medseg.core.settings import TrainSettings
    from medseg.engine.machine import Machine

_STEPS = 3


@dataclass(frozen=True)
class Trial:
    """What was measured.

    Attributes:
        seconds: Of the fastest step.
        peak_bytes: The most that the process took, or on CUDA the most that it took of the GPU, from the building of
            the network on; None where the system does not tell.
        before_bytes: The same before the network was built.
        num_weights: Of the network.
        device: `cpu`, `cuda` or `mps`.
    """

    seconds: float
    peak_bytes: int | None
    before_bytes: int | None
    num_weights: int
    device: str


def try_steps(plan: Plan, settings: TrainSettings, *, judged: Shape | None = None) -> Trial:
    """Build what a training builds, make a few steps and pack a checkpoint after each; nothing is kept.

    Args:
        plan: Of the network.
        settings: Of the training.
        judged: Of the largest case that is validated on, whose first windows are then answered, too.

    Raises:
        ResourceError: E-MEMORY when a step does not fit.
        UsageError: E-DEVICE.
    """
    device = pick_device(settings.device)
    forget_peak(device)
    before = peak_bytes(device)
    machine, batch = build_machine(plan, settings), _noise(plan)
    clock = Clock(settings, TrainingProgress(), num_cases=1, batch_size=plan.batch_size, final_factor=1.0)
    state = TrainingState(machine.network, machine.averaged, machine.optimizer, machine.scaler)
    times = []
    with tempfile.TemporaryDirectory() as name, Journal(folder := Path(name)), freed_memory_kept(device):
        for slot in range(_STEPS):
            moved = replace(batch, slots=tuple(slot * len(batch.slots) + n for n in batch.slots))
            start = time.perf_counter()
            guarded_step(machine, moved, clock, settings, folder=folder)
            times.append(time.perf_counter() - start)
            packed_checkpoint(TrainingProgress(), state)  # what it takes has to find room between what steps left
        if judged is not None:
            _answer_windows(machine, plan, judged)
    return Trial(
        seconds=min(times),
        peak_bytes=peak_bytes(device),
        before_bytes=before,
        num_weights=sum(value.numel() for value in machine.network.parameters()),
        device=device.type,
    )


def _answer_windows(machine: Machine, plan: Plan, judged: Shape) -> None:
    """As many windows of a case as a validation answers together; where they do not fit, it will answer fewer."""
    num_windows = windows_at_once(judged, plan, machine.device)
    if not num_windows:
        return
    segment = torch_segment(machine.averaged, machine.dtype)
    try:
        segment(torch.zeros((num_windows, len(plan.channels), *plan.patch_size), device=machine.device))
    except (RuntimeError, MemoryError) as error:
        if not is_about_memory(error):
            raise


def _noise(plan: Plan) -> Batch:
    random = torch.Generator().manual_seed(0)
    size = plan.batch_size
    labels = torch.randint(max(plan.num_outputs, 1), (size, *plan.patch_size), generator=random, dtype=torch.uint8)
    heads = plan.classification.heads if plan.classification else {}
    return Batch(
        torch.randn((size, len(plan.channels), *plan.patch_size), generator=random),
        labels,
        torch.ones((size, max(plan.num_outputs, 1)), dtype=torch.bool),
        {head: torch.zeros(size, dtype=torch.int64) for head in heads},
        ("noise",) * size,
        tuple(range(size)),
        torch.zeros(size, encoded_width(plan.clinical)),
        {name: torch.zeros(size) for name in (plan.classification.targets if plan.classification else {})},
    )
