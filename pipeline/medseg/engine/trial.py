"""How long a step of a training takes here, measured on noise before anything is trained."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from medseg.core.clinical import encoded_width
from medseg.data.batch import Batch
from medseg.engine.checkpoint import TrainingProgress
from medseg.engine.clock import Clock
from medseg.engine.devices import freed_memory_kept
from medseg.engine.machine import build_machine
from medseg.engine.step import guarded_step

if TYPE_CHECKING:
    from medseg.core.plan import Plan
    from medseg.core.settings import TrainSettings

_STEPS = 3


def seconds_per_step(plan: Plan, settings: TrainSettings) -> float:
    """Build the network, make a few steps and take the fastest; nothing is kept.

    Raises:
        ResourceError: E-MEMORY when a step does not fit.
        UsageError: E-DEVICE.
    """
    machine, batch = build_machine(plan, settings), _noise(plan)
    clock = Clock(settings, TrainingProgress(), num_cases=1, batch_size=plan.batch_size, final_factor=1.0)
    times = []
    with tempfile.TemporaryDirectory() as folder, freed_memory_kept(machine.device):
        for slot in range(_STEPS):
            moved = replace(batch, slots=tuple(slot * len(batch.slots) + n for n in batch.slots))
            start = time.perf_counter()
            guarded_step(machine, moved, clock, settings, folder=Path(folder))
            times.append(time.perf_counter() - start)
    return min(times)


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
