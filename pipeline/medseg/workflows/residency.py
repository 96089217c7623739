"""Where the cases of a training find room."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import torch

from medseg.data.residency import GIB, Residency, choose
from medseg.engine.devices import pick_device
from medseg.io.free_memory import free_memory
from medseg.planning.memory import step_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.core.plan import Plan
    from medseg.core.settings import TrainSettings
    from medseg.data.store import Store

_RAM_SHARE = 0.5
_GPU_SHARE = 0.85
_BYTES = 4


def residency_of(store: Store, chosen: Sequence[str], plan: Plan, settings: TrainSettings) -> Residency:
    """The fastest place that holds all chosen cases; they are counted by the size of their files.

    Args:
        store: That holds them.
        chosen: Ids of cases to learn from and to validate on.
        plan: With the batch that will be trained.
        settings: Device, and the memory that the cases may take.

    Raises:
        UsageError: E-DEVICE.
    """
    entries = [case for case in store.index.cases if case.id in set(chosen)]
    paths = [store.folder / case.file for case in entries]
    data = sum(path.stat().st_size for path in paths if path.is_file())  # a missing one is named when it is loaded
    ram = free_memory() * _RAM_SHARE if settings.ram_gib is None else settings.ram_gib * GIB
    # torchrun's processes each hold all cases.
    ram /= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    largest = max((int(np.prod(case.shape)) for case in entries), default=0)
    return choose(data, ram_bytes=ram, gpu_bytes=_gpu_room(plan, settings, largest_voxels=largest))


def _gpu_room(plan: Plan, settings: TrainSettings, *, largest_voxels: int) -> float:
    """Bytes that a GPU has left beside a step and the answer to the largest case; 0 without one.

    Cases that are seen as a whole stay off it: there they would be shrunk with another rounding.
    """
    device = pick_device(settings.device)
    if device.type != "cuda" or (plan.classification is not None and plan.classification.view == "whole"):
        return 0.0
    free, _ = torch.cuda.mem_get_info(device)
    batch = -(-plan.batch_size // settings.accumulate)
    sizes = {"num_channels": len(plan.channels), "num_outputs": plan.num_outputs}
    answer = largest_voxels * _BYTES * (len(plan.channels) + 2 * plan.num_outputs)
    return max(0.0, _GPU_SHARE * free - step_bytes(plan.network, plan.patch_size, batch, **sizes) - answer)
