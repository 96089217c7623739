"""The segmentation half of a network, and where it may be parted: before its last layer.

That layer is linear in every voxel, and so is the weighted mean of windows. So what the layer reads can be blended in
the place of what it answers, and the layer applied once, to the blend: the same logits but for rounding. With more
classes than features this is less to blend and to hold, and the cost of a case hardly follows the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.network import UNet
from medseg.nn.two_parts import reading_two_parts, two_parts

if TYPE_CHECKING:
    from medseg.core.plan import NetworkPlan
    from medseg.nn.segmenter import Segmenter

Segment = Callable[[Tensor], Tensor]


class Finest(nn.Module):
    """Windows to logits at the finest scale."""

    def __init__(self, unet: Segmenter) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, windows: Tensor) -> Tensor:
        return self.unet.decode(self.unet.encode(windows), all_scales=False)[0]


class FinestFeatures(nn.Module):
    """Windows to what the last layer reads."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, windows: Tensor) -> Tensor:
        return self.unet.finest(self.unet.encode(windows))


def shown_by(module: nn.Module, example: Tensor) -> Tensor:
    """As much of an input as shows every step of a module.

    Of our own network, which takes any size, that is what leaves two voxels per axis of its coarsest map: to trace it
    there is little work. Of others it is all, because some of their steps follow the size.
    """
    if not isinstance(module, Finest | FinestFeatures) or not isinstance(module.unet, UNet):
        return example
    i, j, k = module.unet.factors
    return example[..., : i + 1, : j + 1, : k + 1]


@dataclass(frozen=True, eq=False)
class PartedSegment:
    """A segment that is also known in two halves.

    Attributes:
        features: (B, C, *patch) to (B, F, *patch).
        num_features: F.
        read: (F, ...) features, blended or not, to (K, ...) float32 logits; linear but for a constant.
    """

    features: Segment
    num_features: int
    read: Callable[[Tensor], Tensor]

    def __call__(self, windows: Tensor) -> Tensor:
        return self.read(self.features(windows).movedim(1, 0)).movedim(0, 1)

    def knowing(self, known: Tensor) -> PartedSegment:
        """With one more feature: the share of the windows over a voxel that answer with `known` (K,) logits.

        It is zero where the network answers; a window that is all known has ones in it, and no other features.
        """

        def features(windows: Tensor) -> Tensor:
            return functional.pad(self.features(windows), (0, 0, 0, 0, 0, 0, 0, 1))

        def read(blended: Tensor) -> Tensor:
            logits = self.read(blended[:-1])
            constant = self.read(torch.zeros_like(blended[:-1, :1, :1, :1]))
            return logits.addcmul_(known.reshape(-1, 1, 1, 1).to(constant) - constant, blended[-1])

        return PartedSegment(features, self.num_features + 1, read)


def pays(num_features: int, num_outputs: int) -> bool:
    """Whether features are blended in the place of outputs."""
    return num_features < num_outputs


def as_read(unet: Segmenter, dtype: torch.dtype | None) -> tuple[Segmenter, Segment]:
    """A network, and what is done to windows before it reads them: in bf16 it reads them in two parts."""
    if dtype is torch.bfloat16 and isinstance(unet, UNet):
        return reading_two_parts(unet), two_parts
    return unet, lambda windows: windows


def parted(unet: Segmenter) -> tuple[FinestFeatures, nn.Conv3d] | None:
    """A network up to its last layer, and that layer, where it pays; None too of those without such a layer."""
    layer = unet.to_logits[-1] if isinstance(unet, UNet) and unet.decodes else None
    if not isinstance(unet, UNet) or not isinstance(layer, nn.Conv3d):
        return None
    return (FinestFeatures(unet), layer) if pays(layer.in_channels, layer.out_channels) else None


def num_blended(network: NetworkPlan, num_outputs: int) -> int:
    """Channels that are blended of a network that is not built yet; without mirroring."""
    is_ours, width = network.kind in {"plain", "residual"}, network.features[0]
    return width if is_ours and pays(width, num_outputs) else num_outputs


def reading(layer: nn.Conv3d) -> Callable[[Tensor], Tensor]:
    """A 1x1x1 convolution of (F, ...), on their device and in fp32, whatever precision the network has."""

    def read(features: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(features.device.type, enabled=False):
            weight = layer.weight.flatten(1).to(features.device)
            bias = None if layer.bias is None else layer.bias.to(features.device)
            return functional.linear(features.float().movedim(0, -1), weight, bias).movedim(-1, 0)

    return read
