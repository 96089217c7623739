"""How large a training step is: the network, its patches and how many of them, for a machine or a preset.

The presets' names and targets are those of nnU-Net's residual encoders (Isensee et al., MICCAI 2024); the sizes are
scaled from ours by memory: 8, 24 and 40 GB of a GPU, of which the patch takes what the data can fill.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from medseg.core.errors import UsageError
from medseg.core.plan import Decision, NetworkKind, NetworkPlan
from medseg.planning.memory import step_bytes

if TYPE_CHECKING:
    from medseg.core.geometry import Shape, Vector
    from medseg.core.settings import NetworkChoice

Target = Literal["cpu", "gpu"]

MIN_EDGE = 4
_GIB = 2**30
_USABLE = 0.85  # of a device's memory: the rest is the allocator's and the display's
_LARGEST_WHOLE = 64
_SWIN_FEATURES = (1, 1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Capacity:
    """What one training step may cost on a kind of machine."""

    patch_voxels: int
    step_voxels: int
    base_features: int
    max_features: int
    kind: NetworkKind


CAPACITIES: dict[Target, Capacity] = {
    "cpu": Capacity(48**3, 4 * 48**3, base_features=16, max_features=160, kind="plain"),
    "gpu": Capacity(128**3, 2 * 128**3, base_features=32, max_features=320, kind="residual"),
}
PRESETS: dict[str, Capacity] = {
    "resenc-m": CAPACITIES["gpu"],
    "resenc-l": replace(CAPACITIES["gpu"], patch_voxels=3 * 128**3, step_voxels=6 * 128**3),
    "resenc-xl": replace(CAPACITIES["gpu"], patch_voxels=5 * 128**3, step_voxels=10 * 128**3),
}


@dataclass
class Notes:
    """Collects the decisions as the rules are applied."""

    decisions: list[Decision] = field(default_factory=list)

    def add(self, what: str, value: object, reason: str) -> None:
        self.decisions.append(Decision(what=what, value=str(value), reason=reason))


@dataclass(frozen=True)
class Task:
    """What the network is for: the median case on the network grid, and what goes in and out."""

    shape: Shape
    spacing_mm: Vector
    num_channels: int
    num_outputs: int
    num_cases: int


@dataclass(frozen=True)
class Step:
    """The outcome: what a training step consists of, and why."""

    patch_size: Shape
    batch_size: int
    network: NetworkPlan
    decisions: list[Decision]


def plan_step(
    task: Task,
    choice: NetworkChoice | None,
    target: Target,
    *,
    patch_size: Shape | None = None,
    memory_gib: float | None = None,
) -> Step:
    """Size the step for the machine or the preset; smaller where the device's memory would not hold it.

    Args:
        task: What it is for.
        choice: A kind of network or a preset; None takes the machine's.
        target: Machine that it is sized for.
        patch_size: In voxels, instead of the rule.
        memory_gib: Of the device; None sets no limit.

    Raises:
        UsageError: `E-PATCH`, the given patch does not suit the network.
    """
    capacity = PRESETS.get(choice or "", CAPACITIES[target])
    kind: NetworkKind = capacity.kind if choice is None or choice in PRESETS else _kind(choice)
    while True:
        notes = Notes()
        patch = patch_size or _patch(task, kind, capacity, notes)
        network = _network(patch, task, kind, capacity, choice or target.upper(), notes)
        if patch_size is not None:
            _require_fit(patch, network)
        batch = max(2, min(capacity.step_voxels // int(np.prod(patch)), 32, max(2, task.num_cases)))
        reason = f"a step of about {capacity.step_voxels:,} voxels for {choice or 'a ' + target.upper()}, at least 2"
        fits = memory_gib is None
        if memory_gib is not None:
            sizes = {"num_channels": task.num_channels, "num_outputs": task.num_outputs}
            need = step_bytes(network, patch, batch, **sizes, value_bytes=4 if target == "cpu" else 2)
            reason += f"; it needs about {need / _GIB:.2g} of {memory_gib:.3g} GiB of memory"
            smallest = capacity.patch_voxels <= 2 * MIN_EDGE**3 or (patch_size is not None and batch == 2)
            fits = smallest or need <= _USABLE * memory_gib * _GIB
        if fits:
            notes.add("batch size", batch, reason)
            return Step(patch, batch, network, notes.decisions)
        capacity = replace(
            capacity, patch_voxels=int(0.8 * capacity.patch_voxels), step_voxels=int(0.8 * capacity.step_voxels)
        )


def _kind(choice: NetworkChoice) -> NetworkKind:
    kinds: dict[str, NetworkKind] = {
        "plain": "plain",
        "residual": "residual",
        "swin-unetr": "swin-unetr",
        "segresnet": "segresnet",
        "attention-unet": "attention-unet",
    }
    return kinds[choice]


def _patch(task: Task, kind: NetworkKind, capacity: Capacity, notes: Notes) -> Shape:
    """Isotropic in mm, no larger than the median case, shrunk where it is largest relative to it until it fits."""
    shape, spacing = task.shape, task.spacing_mm
    if not task.num_outputs:
        size = [min(length, _LARGEST_WHOLE) for length in shape]
        if kind not in {"plain", "residual"}:
            size = list(_fitted(_triple(size), task, kind, max(capacity.patch_voxels, _LARGEST_WHOLE**3)))
        notes.add(
            "patch", size, "a classification-only network sees the whole case, shrunk to at most 64 voxels a side"
        )
        return _triple(size)
    edge_mm = (capacity.patch_voxels * float(np.prod(spacing))) ** (1 / 3) * 2
    size = [min(length, max(MIN_EDGE, round(edge_mm / step))) for length, step in zip(shape, spacing, strict=True)]
    while np.prod(size) > capacity.patch_voxels:
        axis = int(np.argmax([length / whole_length for length, whole_length in zip(size, shape, strict=True)]))
        size[axis] -= 1
    fitted = _fitted(_triple(size), task, kind, capacity.patch_voxels)
    notes.add(
        "patch",
        list(fitted),
        f"as much of the median case ({'x'.join(map(str, shape))} voxels) as {capacity.patch_voxels:,} voxels allow,"
        " in sizes that the pooling divides",
    )
    return fitted


def _fitted(patch: Shape, task: Task, kind: NetworkKind, most_voxels: int) -> Shape:
    """Round up to what the pooling divides; shrink where the patch is largest relative to the case until that fits."""
    length = list(patch)
    while True:
        factors = np.prod(np.asarray(_stages(_triple(length), task.spacing_mm, kind)[0]), axis=0)
        size = [int(-(-edge // factor) * factor) for edge, factor in zip(length, factors, strict=True)]
        if kind not in {"plain", "residual"} and np.prod(size) == np.prod(factors):
            size[int(np.argmax(task.shape))] *= 2  # an instance norm of one voxel has nothing to compare it with
        if np.prod(size) <= most_voxels or max(length) == 1:
            return _triple(size)
        shares = [size[axis] / task.shape[axis] if length[axis] > 1 else 0.0 for axis in range(3)]
        length[int(np.argmax(shares))] -= 1


def _stages(patch: Shape, spacing: Vector, kind: NetworkKind) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    """Strides and kernels of the kind's stages."""
    if kind in {"plain", "residual"}:
        return _pooling(patch, spacing)
    num_stages = {"swin-unetr": 6, "segresnet": 4}.get(kind)
    strides = _pooling(patch, spacing)[0] if num_stages is None else ((1, 1, 1), *[(2, 2, 2)] * (num_stages - 1))
    return strides, ((3, 3, 3),) * len(strides)


def _pooling(patch: Shape, spacing: Vector) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    """Strides and kernels per stage: halve each axis while at least 4 voxels remain and it is not far coarser.

    Far coarser is more than twice the finest axis, of those that can still be halved. A kernel is 3 wide along the axes
    halved so far and those not far coarser than any other. There are at least two stages.
    """
    strides: list[Shape] = [(1, 1, 1)]
    kernels: list[Shape] = []
    size, current, kernel = list(patch), list(spacing), [1, 1, 1]
    while True:
        wide = [step <= 2 * min(current) or factor > 1 for step, factor in zip(current, strides[-1], strict=True)]
        kernel = [3 if needed else width for needed, width in zip(wide, kernel, strict=True)]
        kernels.append(_triple(kernel))
        long = [length >= 2 * MIN_EDGE for length in size]
        finest = min((step for step, enough in zip(current, long, strict=True) if enough), default=0.0)
        stride = [2 if enough and step <= 2 * finest else 1 for enough, step in zip(long, current, strict=True)]
        if (max(stride) == 1 and len(strides) > 1) or len(strides) == 6:
            return tuple(strides), tuple(kernels)
        strides.append(_triple(stride))
        size = [-(-length // factor) for length, factor in zip(size, stride, strict=True)]
        current = [step * factor for step, factor in zip(current, stride, strict=True)]


def _network(
    patch: Shape, task: Task, kind: NetworkKind, capacity: Capacity, machine: str, notes: Notes
) -> NetworkPlan:
    strides, kernels = _stages(patch, task.spacing_mm, kind)
    stages, base = len(strides), capacity.base_features
    if kind == "swin-unetr":
        base = 12 * max(1, round(base / 21))
        features = tuple(base * ratio for ratio in _SWIN_FEATURES)
    else:
        most = capacity.max_features if kind != "segresnet" else base * 2**stages
        features = tuple(min(base * 2**stage, most) for stage in range(stages))
    blocks = {"residual": (1, 3, 4, 6, 6, 6), "swin-unetr": (1, 1, 2, 2, 2, 2), "segresnet": (1, 2, 2, 4)}
    notes.add(
        "network",
        f"{kind}, {stages} stages, features {list(features)}",
        f"as deep as the patch allows with at least {MIN_EDGE} voxels left; width for {machine}"
        if kind in {"plain", "residual", "attention-unet"}
        else f"as its authors built it; width for {machine}",
    )
    return NetworkPlan(
        kind=kind,
        features=features,
        strides=strides,
        kernels=kernels,
        blocks=blocks.get(kind, (2,) * 6)[:stages],
        decoder_blocks=1 if kind == "segresnet" else 2,
        deep_supervision=kind in {"plain", "residual"},
    )


def _require_fit(patch: Shape, network: NetworkPlan) -> None:
    """A patch that the user gave suits MONAI's networks only in multiples of what they shrink it by."""
    if network.any_patch:
        return
    factors = network.factors
    if all(edge % factor == 0 for edge, factor in zip(patch, factors, strict=True)) and np.prod(patch) > np.prod(
        factors
    ):
        return
    near = [max(1, round(edge / factor)) * factor for edge, factor in zip(patch, factors, strict=True)]
    if np.prod(near) == np.prod(factors):
        near[int(np.argmax(patch))] *= 2
    raise UsageError(
        f"{network.kind} takes patches in multiples of {'x'.join(map(str, factors))} voxels, and more than one of them;"
        f" got {'x'.join(map(str, patch))}",
        code="E-PATCH",
        remedy=f"Use patch_size [{', '.join(map(str, near))}], or leave it out.",
    )


def _triple(values: list[int]) -> Shape:
    i, j, k = values
    return (i, j, k)
