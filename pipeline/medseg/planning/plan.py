"""Fingerprint to plan: one small rule per decision, each with its reason in the plan.

The rules start from nnU-Net's (Isensee et al., Nature Methods 2021) and differ where the plan says why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from medseg.core.plan import ClassificationPlan, Decision, NetworkPlan, Normalisation, Plan
from medseg.core.sides import left_right_pairs
from medseg.planning.sides import mirror_axes

if TYPE_CHECKING:
    from medseg.core.case import Dataset
    from medseg.core.geometry import Shape, Vector
    from medseg.core.plan import Fingerprint

Target = Literal["cpu", "gpu"]

_ANISOTROPY = 3.0
_MIN_EDGE = 4
_LESION = re.compile(
    r"(?<![a-z])(lesion|tumou?r|mass|nodule|cancer|carcinoma|cyst|metastas[ie]s|neoplasm|plaque)(?:s|es)?(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Capacity:
    """What one training step may cost on a kind of machine."""

    patch_voxels: int
    step_voxels: int
    base_features: int
    max_features: int
    kind: Literal["plain", "residual"]


CAPACITIES: dict[Target, Capacity] = {
    "cpu": Capacity(48**3, 4 * 48**3, base_features=16, max_features=160, kind="plain"),
    "gpu": Capacity(128**3, 2 * 128**3, base_features=32, max_features=320, kind="residual"),
}


@dataclass
class _Notes:
    """Collects the decisions as the rules are applied."""

    decisions: list[Decision] = field(default_factory=list)

    def add(self, what: str, value: object, reason: str) -> None:
        self.decisions.append(Decision(what=what, value=str(value), reason=reason))


@dataclass(frozen=True)
class Wishes:
    """What the user decided instead of the rules; None leaves a rule in charge."""

    target: Target = "cpu"
    spacing_mm: Vector | None = None
    patch_size: Shape | None = None
    window_hu: tuple[float, float] | None = None
    network: Literal["plain", "residual"] | None = None
    correct_bias_field: bool = False
    equalise: bool = False


def make_plan(dataset: Dataset, fingerprint: Fingerprint, wishes: Wishes) -> Plan:
    """Configure everything from the dataset's fingerprint."""
    notes = _Notes()
    capacity = CAPACITIES[wishes.target]
    whole = not dataset.labels and bool(dataset.heads)
    spacing = _spacing(fingerprint, wishes, notes)
    coarse_axis = _coarse_axis(spacing, notes)
    crop = _crop(fingerprint, notes, whole=whole)
    shape = _network_shape(fingerprint, spacing)
    patch = wishes.patch_size or _patch(shape, spacing, capacity, whole=whole, notes=notes)
    strides, kernels = _pooling(patch, spacing)
    network = _network(strides, kernels, capacity, wishes, notes)
    batch = max(2, min(capacity.step_voxels // int(np.prod(patch)), 32, max(2, fingerprint.num_cases)))
    notes.add(
        "batch size", batch, f"a step of about {capacity.step_voxels:,} voxels on a {wishes.target.upper()}, at least 2"
    )
    pairs = left_right_pairs(dataset.label_names)
    axes, reason = mirror_axes(fingerprint, pairs)
    notes.add("mirroring", list(axes) or "none", reason)
    return Plan(
        dataset=dataset.name,
        channels=dataset.channels,
        labels=dataset.labels,
        terms=dataset.terms,
        spacing_mm=spacing,
        crop=crop,
        normalisation=_normalisation(dataset, fingerprint, wishes, notes, cropped=crop == "nonzero"),
        coarse_axis=coarse_axis,
        patch_size=patch,
        batch_size=batch,
        mirror_axes=axes,
        left_right_pairs=pairs,
        network=network,
        classification=_classification(dataset, fingerprint, whole=whole, notes=notes),
        decisions=tuple(notes.decisions),
    )


def _spacing(fingerprint: Fingerprint, wishes: Wishes, notes: _Notes) -> Vector:
    if wishes.spacing_mm is not None:
        notes.add("spacing", wishes.spacing_mm, "given by the user")
        return wishes.spacing_mm
    spacing = list(fingerprint.median_spacing_mm)
    axis = int(np.argmax(spacing))
    finest = min(spacing)
    others = [size for other, size in enumerate(fingerprint.median_shape) if other != axis]
    reason = "median of the training cases along each axis"
    if spacing[axis] > _ANISOTROPY * finest and _ANISOTROPY * fingerprint.median_shape[axis] < min(others):
        spacing[axis] = max(fingerprint.coarse_spacing_mm[axis], finest)
        reason += f"; axis {'RAS'[axis]} is more than 3 x coarser and takes its 10th percentile to keep detail"
    value = (round(spacing[0], 4), round(spacing[1], 4), round(spacing[2], 4))
    notes.add("spacing", value, reason)
    return value


def _coarse_axis(spacing: Vector, notes: _Notes) -> int | None:
    axis = int(np.argmax(spacing))
    if spacing[axis] <= _ANISOTROPY * min(spacing):
        notes.add("interpolation", "cubic spline", "no axis is more than 3 x coarser than another")
        return None
    notes.add(
        "interpolation",
        f"linear along {'RAS'[axis]}, cubic spline in the plane",
        "across thick slices a spline overshoots",
    )
    return axis


def _crop(fingerprint: Fingerprint, notes: _Notes, *, whole: bool) -> Literal["nonzero", "none"]:
    if whole:
        notes.add("crop", "none", "the whole case is seen at once: cropped and resized, size would tell nothing")
        return "none"
    share = f"the box of nonzero voxels holds {fingerprint.crop_share:.0%} of the image"
    if fingerprint.crop_share < 0.9:
        notes.add("crop", "nonzero", f"{share}: the rest is padding")
        return "nonzero"
    notes.add("crop", "none", f"{share}: there is nothing to gain")
    return "none"


def _network_shape(fingerprint: Fingerprint, spacing: Vector) -> Shape:
    """Median size of a case on the network grid."""
    extent = fingerprint.median_extent_mm
    i, j, k = (max(1, round(mm / step)) for mm, step in zip(extent, spacing, strict=True))
    return (i, j, k)


def _patch(shape: Shape, spacing: Vector, capacity: Capacity, *, whole: bool, notes: _Notes) -> Shape:
    """Isotropic in mm, no larger than the median case, shrunk where it is largest relative to it until it fits."""
    if whole:
        size = [min(length, 64) for length in shape]
        notes.add(
            "patch", size, "a classification-only network sees the whole case, shrunk to at most 64 voxels a side"
        )
        return _triple(size)
    edge_mm = (capacity.patch_voxels * float(np.prod(spacing))) ** (1 / 3) * 2
    size = [min(length, max(_MIN_EDGE, round(edge_mm / step))) for length, step in zip(shape, spacing, strict=True)]
    while np.prod(size) > capacity.patch_voxels:
        axis = int(np.argmax([length / whole_length for length, whole_length in zip(size, shape, strict=True)]))
        size[axis] -= 1
    fitted = _fitted(_triple(size), spacing, shape, capacity.patch_voxels)
    notes.add(
        "patch",
        list(fitted),
        f"as much of the median case ({'x'.join(map(str, shape))} voxels) as {capacity.patch_voxels:,} voxels allow,"
        " in sizes that the pooling divides",
    )
    return fitted


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
        long = [length >= 2 * _MIN_EDGE for length in size]
        finest = min((step for step, enough in zip(current, long, strict=True) if enough), default=0.0)
        stride = [2 if enough and step <= 2 * finest else 1 for enough, step in zip(long, current, strict=True)]
        if (max(stride) == 1 and len(strides) > 1) or len(strides) == 6:
            return tuple(strides), tuple(kernels)
        strides.append(_triple(stride))
        size = [-(-length // factor) for length, factor in zip(size, stride, strict=True)]
        current = [step * factor for step, factor in zip(current, stride, strict=True)]


def _fitted(patch: Shape, spacing: Vector, shape: Shape, most_voxels: int) -> Shape:
    """Round up to what the pooling divides; shrink where the patch is largest relative to the case until that fits."""
    length = list(patch)
    while True:
        factors = np.prod(np.asarray(_pooling(_triple(length), spacing)[0]), axis=0)
        size = [int(-(-edge // factor) * factor) for edge, factor in zip(length, factors, strict=True)]
        if np.prod(size) <= most_voxels:
            return _triple(size)
        length[int(np.argmax([edge / whole for edge, whole in zip(size, shape, strict=True)]))] -= 1


def _network(
    strides: tuple[Shape, ...], kernels: tuple[Shape, ...], capacity: Capacity, wishes: Wishes, notes: _Notes
) -> NetworkPlan:
    kind = wishes.network or capacity.kind
    stages = len(strides)
    features = tuple(min(capacity.base_features * 2**stage, capacity.max_features) for stage in range(stages))
    blocks = ((1, 3, 4, 6, 6, 6) if kind == "residual" else (2,) * 6)[:stages]
    notes.add(
        "network",
        f"{kind}, {stages} stages, features {list(features)}",
        f"as deep as the patch allows with at least {_MIN_EDGE} voxels left; width for a {wishes.target.upper()}",
    )
    return NetworkPlan(kind=kind, features=features, strides=strides, kernels=kernels, blocks=blocks)


def _normalisation(
    dataset: Dataset, fingerprint: Fingerprint, wishes: Wishes, notes: _Notes, *, cropped: bool
) -> tuple[Normalisation, ...]:
    rules = []
    for channel, statistics in zip(dataset.channels, fingerprint.channels, strict=True):
        if wishes.window_hu is not None:
            low, high = wishes.window_hu
            rules.append(
                Normalisation(
                    scheme="fixed", lower=low, upper=high, mean=(low + high) / 2, std=max((high - low) / 4, 1e-3)
                )
            )
            notes.add(f"intensity of {channel}", f"window {low:g} to {high:g}", "given by the user")
        elif statistics.two_valued:
            low, high = statistics.minimum, statistics.maximum
            rules.append(Normalisation(scheme="fixed", mean=(low + high) / 2, std=max((high - low) / 2, 1e-3)))
            notes.add(f"intensity of {channel}", "-1 and 1", "two values alone: a shape, not an image")
        elif channel.upper() == "CT":
            low, high = statistics.percentile_00_5, statistics.percentile_99_5
            rules.append(
                Normalisation(
                    scheme="fixed", lower=low, upper=high, mean=statistics.mean, std=max(statistics.std, 1e-3)
                )
            )
            notes.add(
                f"intensity of {channel}",
                f"clip to {low:g} .. {high:g}, then mean {statistics.mean:.4g}, deviation {statistics.std:.4g}",
                "CT is calibrated: the 0.5 and 99.5 percentiles of the labelled voxels of the training set",
            )
        else:
            rules.append(
                Normalisation(
                    scheme="per_image",
                    nonzero=cropped,
                    correct_bias_field=wishes.correct_bias_field,
                    equalise=wishes.equalise,
                )
            )
            where = "its nonzero voxels" if cropped else "all its voxels"
            notes.add(f"intensity of {channel}", f"z-score over {where}", "not calibrated: each image by itself")
    return tuple(rules)


def _classification(
    dataset: Dataset, fingerprint: Fingerprint, *, whole: bool, notes: _Notes
) -> ClassificationPlan | None:
    if not dataset.heads:
        return None
    if whole:
        shapes = tuple(index for index, channel in enumerate(fingerprint.channels) if channel.two_valued)
        notes.add("diagnosis", "from the whole case", "there are no labels to look under")
        return ClassificationPlan(heads=dataset.heads, view="whole", pool_labels=(), shape_channels=shapes)
    lesions = tuple(name for name in dataset.label_names if _LESION.search(name))
    pooled = lesions or dataset.label_names
    reason = "in a patch centred on the foreground: patches without it do not show the class"
    if lesions:
        reason += "; these labels are lesions by name, and a class is told by the lesion, not by the organ around it"
    notes.add("diagnosis", f"features pooled under {', '.join(pooled)}", reason)
    return ClassificationPlan(heads=dataset.heads, view="foreground", pool_labels=pooled)


def _triple(values: list[int]) -> Shape:
    i, j, k = values
    return (i, j, k)
