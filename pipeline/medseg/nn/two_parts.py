"""An image that goes into a bf16 network whole: rounded, and beside it what the rounding took away.

bf16 keeps 8 bits of an intensity, which blurs a CT's 12 before the network has seen it. The first convolution is
linear: of both parts, with its weights twice, it gives what it gives of the image, and one more input channel costs it
next to nothing.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from medseg.nn.network import UNet


def two_parts(image: Tensor) -> Tensor:
    """(B, C, ...) float32 to (B, 2 C, ...), whose parts bf16 holds: the first exactly, the second to 8 bits of its own.

    To be taken before the network: within bf16 there would be nothing left to part.
    """
    rounded = image.bfloat16().float()
    return torch.cat([rounded, image - rounded], dim=1)


def reading_two_parts(unet: UNet) -> UNet:
    """The same network for `two_parts` of its images; it shares every weight, also when they change or are moved."""
    twin = copy.deepcopy(unet, {id(parameter): parameter for parameter in unet.parameters()})
    parametrize.register_parametrization(twin.first.convolution, "weight", _Twice(), unsafe=True)  # of another shape
    return twin


class _Twice(nn.Module):
    """(F, C, ...) weights for both parts."""

    def forward(self, weight: Tensor) -> Tensor:
        return torch.cat([weight, weight], dim=1)
