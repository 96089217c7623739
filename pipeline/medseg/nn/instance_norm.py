"""Instance norm and leaky ReLU in one, on a CPU in the layout in which its convolutions run fastest.

torch's own instance norm first copies a channels-last map into the other layout, and the next convolution copies it
back, in both directions: a fifth of a training step, a quarter of a window at inference. Its batch norm knows the
layout, but adds up in single precision, wrong in the third digit over a window of 128³. Here mean and variance are
taken chunk by chunk and put together as Chan, Golub and LeVeque (1983) do; then a chunk is scaled, shifted and
rectified while it is in the cache, in place where nobody needs what was there.

Shape legend: B batch, C channels, (I, J, K) voxels, N voxels of a sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from torch import nn

_aten = torch.ops.aten
_LAYOUT = torch.channels_last_3d
# What stays in a processor's cache from one step to the next.
_CHUNK_BYTES = 2**20


def instance_norm(norm: nn.InstanceNorm3d, x: Tensor, *, slope: float = 1.0) -> Tensor:
    """`norm`, then a leaky ReLU; computed in float32 from float32 or bfloat16.

    Args:
        norm: With weight and bias.
        x: (B, C, I, J, K); it may be overwritten where no gradient is kept.
        slope: Of the leaky ReLU below 0; 1 is none.
    """
    ours = x.device.type == "cpu" and not _is_recorded() and x.shape[2:].numel() > 1
    if ours and norm.training and torch.is_grad_enabled():
        answer: Tensor = _Learning.apply(  # type: ignore[no-untyped-call]
            x.contiguous(memory_format=_LAYOUT), norm.weight, norm.bias, norm.eps, slope
        )
        return answer
    if ours and not torch.is_grad_enabled() and not x.is_contiguous() and x.is_contiguous(memory_format=_LAYOUT):
        for sample in x:
            _normalise(_voxels(sample), _voxels(sample), norm.weight, norm.bias, eps=norm.eps, slope=slope)
        return x
    y = norm(x)
    return y if slope == 1 else functional.leaky_relu(y, slope, inplace=True)


def _is_recorded() -> bool:
    """Whether a graph is made of what runs: it knows the whole norm, and not its chunks."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


class _Learning(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
        y = torch.empty_like(x)
        moments: list[Tensor] = []
        for sample, into in zip(x, y, strict=True):
            moments += _normalise(_voxels(sample), _voxels(into), weight, bias, eps=eps, slope=slope)
        context.save_for_backward(x, y, weight, *moments)
        context.eps, context.slope = eps, slope
        return y

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, *moments = context.saved_tensors
        of_y = gradients[0].contiguous(memory_format=_LAYOUT)
        of_x, of_weight, of_bias = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        samples = zip(*(torch.split(part, 1) for part in (x, y, of_y, of_x)), strict=True)
        for number, (sample, answer, given, into) in enumerate(samples):
            if context.slope != 1:
                given = _aten.leaky_relu_backward(given, answer, context.slope, True)
            mean, scale = moments[2 * number : 2 * number + 2]
            # the instance norm of one sample is its batch norm
            made, for_weight, for_bias = _aten.native_batch_norm_backward(
                given, sample, weight, None, None, mean, scale, True, context.eps, [True, True, True]
            )
            into.copy_(made)
            of_weight += for_weight
            of_bias += for_bias
        return of_x, of_weight, of_bias, None, None


def _voxels(sample: Tensor) -> Tensor:
    """(C, I, J, K), channels last, as (N, C)."""
    return sample.movedim(0, -1).view(-1, len(sample))


def _normalise(
    voxels: Tensor, into: Tensor, weight: Tensor, bias: Tensor, *, eps: float, slope: float
) -> tuple[Tensor, Tensor]:
    """Write the answer for one sample, (N, C) both; the mean and 1 / deviation (C,) that it was made with."""
    size = max(1, _CHUNK_BYTES // (4 * voxels.shape[1]))
    chunks = torch.split(voxels, size)
    mean, variance = _moments(chunks)
    narrowed = torch.rsqrt(variance + eps)
    scale = weight * narrowed
    shift = bias - mean * scale
    for chunk, target in zip(chunks, torch.split(into, size), strict=True):
        wide = target if target.dtype == torch.float32 else torch.empty_like(target, dtype=torch.float32)
        torch.addcmul(shift, chunk.float(), scale, out=wide)
        if slope != 1:
            functional.leaky_relu(wide, slope, inplace=True)
        if wide is not target:
            target.copy_(wide)
    return mean, narrowed


def _moments(chunks: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """(C,) mean and variance of (N, C) voxels that come in chunks."""
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
