"""Instance norm and leaky ReLU as inference on a CPU needs them: in place, and without another memory layout.

torch's instance norm copies channels-last features to channels-first and back, which there takes longer than the norm;
its batch norm knows the layout, but adds up in single precision, wrong in the third digit over a window of 128³.

Shape legend: B batch, F features, N voxels of a sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from torch import nn

# What stays in a processor's cache from one step to the next.
_CHUNK_BYTES = 2**20


def may_normalise_in_place(x: Tensor) -> bool:
    """Whether nobody needs these features as they are: no gradient, no tracing; and the layout is the one for it."""
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last_3d)
    )


def normalise_in_place(x: Tensor, norm: nn.InstanceNorm3d, *, slope: float = 1.0) -> Tensor:
    """Instance norm, then leaky ReLU, of channels-last features.

    Two passes over memory: mean and variance chunk by chunk, put together as Chan, Golub and LeVeque (1983) do; then
    scale, shift and ReLU while a chunk is in the cache.

    Args:
        x: (B, F, ...), overwritten; float32 or bfloat16, computed in float32.
        norm: Gives the features' weight and bias.
        slope: Of the leaky ReLU below 0; 1 is none.
    """
    for sample in x:
        voxels = sample.movedim(0, -1).view(-1, x.shape[1])
        chunks = voxels.split(max(1, _CHUNK_BYTES // (4 * x.shape[1])))
        mean, variance = _moments(chunks)
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        shift = norm.bias - mean * scale
        for chunk in chunks:
            wide = chunk.float()
            torch.addcmul(shift, wide, scale, out=wide)
            if slope != 1:
                functional.leaky_relu(wide, slope, inplace=True)
            if wide is not chunk:
                chunk.copy_(wide)
    return x


def _moments(chunks: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """(F,) mean and variance of (N, F) voxels that come in chunks."""
    means, squares = [], []
    for chunk in chunks:
        wide = chunk.float()
        means.append(wide.mean(0))
        squares.append((wide - means[-1]).square_().sum(0))
    counts = torch.tensor([[len(chunk)] for chunk in chunks], dtype=torch.float32)
    each = torch.stack(means)
    total = counts.sum()
    mean = (each * counts).sum(0) / total
    return mean, (torch.stack(squares).sum(0) + ((each - mean).square() * counts).sum(0)) / total
