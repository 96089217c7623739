"""Plan to network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from medseg.nn.diagnosis import ClassificationHead
from medseg.nn.network import Network, UNet

if TYPE_CHECKING:
    from medseg.core.plan import NetworkPlan, Plan
    from medseg.nn.segmenter import Segmenter

# More regions than this are pooled as one: the head's width would grow past what a few hundred cases can teach.
_MAX_REGIONS = 4


def build_network(plan: Plan, *, seed: int | None = None) -> Network:
    """Build the plan's network with fresh weights.

    Args:
        plan: Its network, channels, labels and classification sections are read.
        seed: Makes the initial weights repeatable without touching the global random state.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        unet = build_segmenter(plan.network, len(plan.channels), plan.num_outputs)
        if plan.classification is None:
            return Network(unet, None)
        groups = region_groups(plan)
        scales = head_scales(len(plan.network.features), pooled=bool(groups))
        shapes = plan.classification.shape_channels
        head = ClassificationHead(
            [len(plan.channels), *(plan.network.features[s] for s in scales)],
            len(groups),
            plan.classification,
            num_outlines=len(shapes),
        )
        return Network(
            unet,
            head,
            head_scales=scales,
            region_groups=groups,
            shape_channels=shapes,
            head_teaches=plan.classification.teaches_encoder,
        )


def build_segmenter(network: NetworkPlan, num_channels: int, num_outputs: int) -> Segmenter:
    """The segmentation network with fresh weights; its encoder alone where there is nothing to segment."""
    if network.kind in {"plain", "residual"}:
        return UNet(num_channels, num_outputs, network)
    # importing monai takes seconds
    from medseg.nn.monai_networks import AttentionUNet, SegResNet, SwinUnetr

    kinds: dict[str, type[SwinUnetr | SegResNet | AttentionUNet]] = {
        "swin-unetr": SwinUnetr,
        "segresnet": SegResNet,
        "attention-unet": AttentionUNet,
    }
    return kinds[network.kind](num_channels, num_outputs, network)


def head_scales(num_stages: int, *, pooled: bool) -> tuple[int, ...]:
    """Encoder stages that the head reads.

    Under a region the finest three, which show texture and outline; over a whole view the coarsest two, which alone
    have seen enough of it to say something as a mean.
    """
    return tuple(range(min(3, num_stages))) if pooled else (num_stages - 2, num_stages - 1)


def region_groups(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """Network indices per pooled region: one region per pooled label, or all of them together when there are many."""
    diagnosis = plan.classification
    if diagnosis is None or diagnosis.view == "whole" or diagnosis.pooling != "foreground" or not plan.labels:
        return ()
    indices = tuple(plan.label_names.index(name) + 1 for name in diagnosis.pool_labels)
    return tuple((index,) for index in indices) if len(indices) <= _MAX_REGIONS else (indices,)
