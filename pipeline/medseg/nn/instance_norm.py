"""Instance norm and leaky ReLU in one, on a CPU in the layout in which its convolutions run fastest.

torch's own instance norm first copies a channels-last map into the other layout, and the next convolution copies it
back, in both directions: a fifth of a training step. A single sample's instance norm is its batch norm, which torch
computes in either layout; where nothing is learnt, `in_place` does it more exactly, without memory of its own.

Shape legend: B batch, C channels, (I, J, K) voxels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from medseg.nn.in_place import may_normalise_in_place, normalise_in_place

if TYPE_CHECKING:
    from torch import nn

_aten = torch.ops.aten
_LAYOUT = torch.channels_last_3d


def instance_norm(norm: nn.InstanceNorm3d, x: Tensor, *, slope: float = 1.0) -> Tensor:
    """`norm`, then a leaky ReLU.

    Args:
        norm: With weight and bias.
        x: (B, C, I, J, K); it may be overwritten where no gradient is kept.
        slope: Of the leaky ReLU below 0; 1 is none.
    """
    learns = norm.training and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if learns and x.device.type == "cpu" and x.shape[2:].numel() > 1:
        y: Tensor = _SampleBySample.apply(  # type: ignore[no-untyped-call]
            x.contiguous(memory_format=_LAYOUT), norm.weight, norm.bias, norm.eps, slope
        )
        return y
    if may_normalise_in_place(x):
        return normalise_in_place(x, norm, slope=slope)
    y = norm(x)
    return y if slope == 1 else functional.leaky_relu(y, slope, inplace=True)


class _SampleBySample(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
        y = torch.empty_like(x)
        moments = []
        for sample, into in zip(torch.split(x, 1), torch.split(y, 1), strict=True):
            mean, deviation = weight.new_empty(0), weight.new_empty(0)
            _aten.native_batch_norm.out(
                sample, weight, bias, None, None, True, 0.0, eps, out=into, save_mean=mean, save_invstd=deviation
            )
            moments += [mean, deviation]
        if slope != 1:
            functional.leaky_relu_(y, slope)
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
            mean, deviation = moments[2 * number : 2 * number + 2]
            made, for_weight, for_bias = _aten.native_batch_norm_backward(
                given, sample, weight, None, None, mean, deviation, True, context.eps, [True, True, True]
            )
            into.copy_(made)
            of_weight += for_weight
            of_bias += for_bias
        return of_x, of_weight, of_bias, None, None
