"""How much memory a training step takes, counted without running it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks

from medseg.nn.build import build_segmenter

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.core.geometry import Shape
    from medseg.core.plan import NetworkPlan

_BYTES_PER_WEIGHT = 20  # the weight, its gradient, two moments, its average
_LOSS_COPIES = 5  # of the logits: their logarithm, exponent, truth, and two products


def step_bytes(
    network: NetworkPlan, patch: Shape, batch: int, *, num_channels: int, num_outputs: int, value_bytes: int = 4
) -> int:
    """What the tensors of one step hold: what it keeps for its backward pass, the loss, weights and optimiser.

    Args:
        network: Of the plan.
        patch: In voxels.
        batch: Patches that are in the network at once.
        num_channels: That go in.
        num_outputs: That come out, the background among them.
        value_bytes: Of what the network keeps: 4 in fp32, 2 in mixed precision, whose loss is in fp32 all the same.
    """
    features, loss, weights = _counted(network, patch, num_channels, num_outputs)
    return batch * (features * value_bytes // 4 + loss) + weights


@cache
def _counted(network: NetworkPlan, patch: Shape, num_channels: int, num_outputs: int) -> tuple[int, int, int]:
    """Bytes of one patch's features in fp32 and of its loss, and of the weights with all that goes with them.

    The network is built and run on torch's `meta` device, which has shapes and no values.
    """
    # MONAI's Swin UNETR reads values while it is built
    with torch.device("cpu" if network.kind == "swin-unetr" else "meta"):
        model = build_segmenter(network, num_channels, num_outputs).to("meta")
    image = torch.empty(1, num_channels, *patch, device="meta")
    weights = {id(value) for value in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        skips = model.encode(image)
        logits = model.decode(skips, all_scales=True) if model.decodes else []
    activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    loss = _LOSS_COPIES * sum(scale.numel() * scale.element_size() for scale in logits)
    peak = 2 * max(int(np.prod(skip.shape)) for skip in skips) * 4
    return activations + peak, loss, _BYTES_PER_WEIGHT * sum(value.numel() for value in model.parameters())
