"""Weights of one network for another: by name and shape; inputs by channel, outputs by label, heads by class.

Shape legend: C input channels, K segmentation outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medseg.core.transfer import Layer

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from medseg.core.plan import Plan

_ENCODERS = (
    "unet.stem.",
    "unet.encoder.",
    "unet.net.convInit.",
    "unet.net.down_layers.",
    "unet.net.swinViT.",
    "unet.net.encoder",
)
_OUTPUTS = ("unet.to_logits.", "unet.net.conv_final.2.", "unet.net.out.")
_HEAD, _HEADS = "head.", "head.heads."
_CONVOLUTION = 5


def is_encoder(name: str) -> bool:
    """Whether a parameter of this name is on the way down, in any of our networks."""
    return name.startswith(_ENCODERS)


def take_over(
    fresh: Mapping[str, Tensor], source: Mapping[str, Tensor], plan: Plan, source_plan: Plan
) -> tuple[dict[str, Tensor], tuple[Layer, ...]]:
    """A network's weights, as many of them as fit taken from another one.

    Args:
        fresh: Of the new network, by name.
        source: Of the other.
        plan: The new network's.
        source_plan: The other's.

    Returns:
        The new network's weights, and for each whether it was loaded.
    """
    weights, layers = dict(fresh), []
    for name, own in fresh.items():
        if name not in source:
            layers.append(Layer(name=name, state="fresh", why="the source has none"))
            continue
        dimension, pairs = _pairs(name, own, source[name], plan, source_plan)
        if not _fits(own, source[name], dimension):
            shapes = f"{tuple(source[name].shape)} there, {tuple(own.shape)} here"
            layers.append(Layer(name=name, state="fresh", why=f"another shape: {shapes}"))
        elif not pairs:
            layers.append(Layer(name=name, state="fresh", why="nothing of the same name"))
        else:
            weights[name] = _laid_over(own, source[name], dimension, pairs)
            missing = own.shape[dimension] - len(pairs) if dimension is not None else 0
            why = f"{missing} of {own.shape[dimension or 0]} are new" if missing else ""
            layers.append(Layer(name=name, state="partly" if missing else "loaded", why=why))
    return weights, tuple(layers)


def _pairs(
    name: str, own: Tensor, source: Tensor, plan: Plan, source_plan: Plan
) -> tuple[int | None, list[tuple[int, int]]]:
    """The dimension whose places have names, None where none has, and which place there belongs to which here."""
    if name.startswith(_HEAD):
        return _head_pairs(name, plan, source_plan)
    if name.startswith(_OUTPUTS):
        return 0, _same(_outputs(source_plan), _outputs(plan))
    channels = len(source_plan.channels), len(plan.channels)
    reads_image = is_encoder(name) and own.ndim == _CONVOLUTION and (source.shape[1], own.shape[1]) == channels
    if reads_image and min(plan.network.features) > max(channels):
        pairs = _same(_numbered(source_plan.channels), _numbered(plan.channels))
        if not pairs and len(source_plan.channels) == len(plan.channels):
            return None, [(0, 0)]  # other names in the same number: by their order
        return 1, pairs
    return None, [(0, 0)]


def _head_pairs(name: str, plan: Plan, source_plan: Plan) -> tuple[int | None, list[tuple[int, int]]]:
    """What a head reads must mean the same before its classes are compared."""
    here, there = plan.classification, source_plan.classification
    if here is None or there is None or plan.channels != source_plan.channels:
        return None, []
    reads = ("view", "pool_labels", "shape_channels", "directed", "thickness", "margin")
    if any(getattr(here, what) != getattr(there, what) for what in reads):
        return None, []
    if not name.startswith(_HEADS):
        return None, [(0, 0)]
    head = name.removeprefix(_HEADS).rsplit(".", 1)[0]
    if head in here.targets:  # a number means the same in the same unit and on the same scale alone
        return None, [(0, 0)] if there.targets.get(head) == here.targets[head] else []
    if head not in here.heads or head not in there.heads:
        return None, []
    return 0, _same(there.heads[head], here.heads[head])


def _outputs(plan: Plan) -> list[Hashable]:
    """What each output of the segmentation stands for; regions are no labels, since they overlap."""
    if plan.regions:
        return [("region", name) for name in plan.regions]
    return ["background", *(("label", name) for name in plan.label_names)]


def _numbered(names: Sequence[str]) -> list[Hashable]:
    """Names made different where they repeat: the first MRI, the second MRI."""
    return [(name, names[:place].count(name)) for place, name in enumerate(names)]


def _same(there: Sequence[Hashable], here: Sequence[Hashable]) -> list[tuple[int, int]]:
    return [(there.index(name), place) for place, name in enumerate(here) if name in there]


def _fits(own: Tensor, source: Tensor, dimension: int | None) -> bool:
    shapes = [list(own.shape), list(source.shape)]
    if dimension is not None and own.ndim == source.ndim:
        for shape in shapes:
            shape[dimension] = 0
    return shapes[0] == shapes[1]


def _laid_over(own: Tensor, source: Tensor, dimension: int | None, pairs: Sequence[tuple[int, int]]) -> Tensor:
    if dimension is None:
        return source.to(own.dtype).clone()
    laid = own.clone()
    there, here = (torch.tensor(places) for places in zip(*pairs, strict=True))
    return laid.index_copy_(dimension, here, source.to(own.dtype).index_select(dimension, there))
