"""Where a training finds room: its steps in memory, its cases beside them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from medseg.core.errors import ResourceError
from medseg.data.residency import GIB, Residency, choose
from medseg.engine.devices import amp_dtype, pick_device
from medseg.engine.distributed import processes, processes_here
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
# Of a process on a CPU for each byte that a step's tensors hold, with layouts, scratch and what the allocator keeps:
# 1.2 to 1.7 were measured.
_LEAST_TAKEN, _USUALLY_TAKEN = 1.2, 1.5


def require_room(plan: Plan, settings: TrainSettings) -> None:
    """Refuse a training on a CPU of which no step can fit: the system would end the process without a word.

    A GPU says itself what does not fit, and nothing is lost.

    Args:
        plan: With the batch that will be trained.
        settings: Device, and the parts of a batch.

    Raises:
        ResourceError: E-MEMORY, naming the batch that fits.
        UsageError: E-DEVICE.
    """
    device = pick_device(settings.device)
    if device.type != "cpu":
        return
    held, free = _step_bytes(plan, settings, _at_once(plan, settings)), _free_bytes()
    if _LEAST_TAKEN * held <= free:
        return
    one, two = (_step_bytes(plan, settings, few) for few in (1, 2))
    size, fits = plan.batch_size, processes() * (1 + math.floor((free / _USUALLY_TAKEN - one) / (two - one)))
    raise ResourceError(
        f"a step of {size} patches of {'x'.join(map(str, plan.patch_size))} voxels takes at least "
        f"{_LEAST_TAKEN * held / GIB:.2g} GiB of memory, and {free / GIB:.2g} GiB are free",
        code="E-MEMORY",
        remedy=f"Use --batch-size {fits}, or the whole batch in parts (--accumulate {math.ceil(size / fits)})."
        if fits >= 1
        else "Free some memory, or set a smaller patch_size in the store's plan.json and train with --restart.",
    )


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
    ram = _ram_room(plan, settings)
    largest = max((int(np.prod(case.shape)) for case in entries), default=0)
    return choose(data, ram_bytes=ram, gpu_bytes=_gpu_room(plan, settings, largest_voxels=largest))


def _ram_room(plan: Plan, settings: TrainSettings) -> float:
    """Bytes that cases may take in memory: as the user says, or half of what is free; on a CPU a step keeps its own."""
    if settings.ram_gib is not None:
        return settings.ram_gib * GIB / processes_here()
    free = _free_bytes()
    on_cpu = pick_device(settings.device).type == "cpu"
    beside = _USUALLY_TAKEN * _step_bytes(plan, settings, _at_once(plan, settings)) if on_cpu else 0.0
    return max(0.0, min(_RAM_SHARE * free, free - beside))


def _free_bytes() -> float:
    """For each of torchrun's processes, which hold all cases each."""
    return free_memory() / processes_here()


def _at_once(plan: Plan, settings: TrainSettings) -> int:
    """Patches that one process has in the network: a part of its share of the batch."""
    return math.ceil(plan.batch_size / (settings.accumulate * processes()))


def _step_bytes(plan: Plan, settings: TrainSettings, at_once: int) -> int:
    """What a step's tensors hold on a CPU."""
    half = amp_dtype(torch.device("cpu"), enabled=settings.amp) is not None
    sizes = {"num_channels": len(plan.channels), "num_outputs": plan.num_outputs, "value_bytes": 2 if half else 4}
    return step_bytes(plan.network, plan.patch_size, at_once, **sizes)


def _gpu_room(plan: Plan, settings: TrainSettings, *, largest_voxels: int) -> float:
    """Bytes that a GPU has left beside a step and the answer to the largest case; 0 without one.

    Cases that are seen as a whole stay off it: there they would be shrunk with another rounding.
    """
    device = pick_device(settings.device)
    if device.type != "cuda" or (plan.classification is not None and plan.classification.view == "whole"):
        return 0.0
    free, _ = torch.cuda.mem_get_info(device)
    sizes = {"num_channels": len(plan.channels), "num_outputs": plan.num_outputs}
    step = step_bytes(plan.network, plan.patch_size, _at_once(plan, settings), **sizes)
    answer = largest_voxels * _BYTES * (len(plan.channels) + 2 * plan.num_outputs)
    return max(0.0, _GPU_SHARE * free - step - answer)
