"""What may happen to the intensities of a training patch; each works on the samples that drew it.

Shape legend: B batch, C channels, (I, J, K) voxels. Ranges follow nnU-Net (Isensee et al. 2021) except where said.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from medseg.ops.draw import Draw

_BIAS_ORDER = 3
_BIAS = 0.3


def noise(image: Tensor, draw: Draw) -> Tensor:
    return image + draw.normal_like(image) * draw.per_sample(0.0, 0.1).sqrt()


def blur(image: Tensor, draw: Draw) -> Tensor:
    sigma = draw.uniform(0.5, 1.0)
    offsets = torch.arange(-2, 3, device=image.device)
    kernels = torch.exp(-0.5 * (offsets[None] / sigma[:, None]) ** 2)
    kernels = kernels / kernels.sum(1, keepdim=True)
    batch, channels = image.shape[:2]
    flat = image.reshape(1, batch * channels, *image.shape[2:])
    weights = kernels.repeat_interleave(channels, 0)
    for axis in range(3):
        shape = [batch * channels, 1, 1, 1, 1]
        shape[axis + 2] = len(offsets)
        padding = [0, 0, 0, 0, 0, 0]
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = 2
        flat = functional.conv3d(
            functional.pad(flat, padding, mode="replicate"), weights.reshape(shape), groups=batch * channels
        )
    return flat.reshape(image.shape)


def brightness(image: Tensor, draw: Draw) -> Tensor:
    return image * draw.per_sample(0.75, 1.25)


def contrast(image: Tensor, draw: Draw) -> Tensor:
    low, high, mean = image.amin((2, 3, 4), True), image.amax((2, 3, 4), True), image.mean((2, 3, 4), True)
    stretched = (image - mean) * draw.per_sample(0.75, 1.25) + mean
    return torch.minimum(torch.maximum(stretched, low), high)


def low_resolution(image: Tensor, draw: Draw) -> Tensor:
    return torch.cat(
        [_coarsened(sample[None], float(zoom)) for sample, zoom in zip(image, draw.uniform(0.5, 1.0), strict=True)]
    )


def _coarsened(image: Tensor, zoom: float) -> Tensor:
    coarse = [max(1, round(size * zoom)) for size in image.shape[2:]]
    small = functional.interpolate(image, size=coarse, mode="nearest-exact")
    return functional.interpolate(small, size=image.shape[2:], mode="trilinear", align_corners=False)


def gamma(image: Tensor, draw: Draw) -> Tensor:
    low, high = image.amin((2, 3, 4), True), image.amax((2, 3, 4), True)
    span = (high - low).clamp(min=1e-6)
    unit = (image - low) / span
    # A third of the samples are inverted around the power, which acts on the bright end.
    inverted = draw.per_sample(0.0, 1.0) < 1 / 3
    power = torch.exp(draw.per_sample(math.log(0.7), math.log(1.5)))
    unit = torch.where(inverted, 1 - (1 - unit).pow(power), unit.pow(power))
    return unit * span + low


def bias_field(image: Tensor, draw: Draw) -> Tensor:
    """The shading of an MRI coil: the exponential of a polynomial of third order over the patch.

    It multiplies what lies above the patch's minimum, since normalised intensities have lost their zero. The model is
    that of Van Leemput et al., IEEE Transactions on Medical Imaging 1999.
    """
    count = _BIAS_ORDER + 1
    weights = draw.uniform(-_BIAS, _BIAS, image.shape[1], count, count, count)
    orders = torch.arange(count, device=image.device)
    total = orders[:, None, None] + orders[:, None] + orders
    weights = weights * ((total > 0) & (total <= _BIAS_ORDER))
    powers = [torch.linspace(-1, 1, size, device=image.device)[:, None] ** orders for size in image.shape[2:]]
    field = torch.einsum("bcxyz,ix,jy,kz->bcijk", weights, *powers).exp()
    low = image.amin((2, 3, 4), True)
    return (image - low) * field + low


CHANGES: tuple[tuple[float, Callable[[Tensor, Draw], Tensor]], ...] = (
    (0.10, noise),
    (0.10, blur),
    (0.15, brightness),
    (0.15, contrast),
    (0.15, low_resolution),
    (0.25, gamma),
)
