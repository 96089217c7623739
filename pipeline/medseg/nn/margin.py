"""How the image changes across the edge of a region: what a mask too blunt for its detail still shows.

Shape legend: B batch, C channels, R regions, (I, J, K) voxels of the network grid, RAS order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

NUM_MEASURES = 8
"""Of each region and channel in `measure_margin`."""


def measure_margin(image: Tensor, regions: Tensor) -> Tensor:
    """(B, C, I, J, K) and (B, R, I, J, K) of 0 and 1 to (B, 8 R C): brightness in four layers about the edge.

    Mean and deviation of each channel in the core, in its outermost voxels, and in the two layers of voxels around it:
    a sharp edge is a step between even layers, spicules and infiltration make the outer layers uneven and like the
    region itself, whether or not the mask follows them (sharpness of a margin and its variation: Gilhuijs et al.,
    Medical Physics 1998, 25:1647). An empty layer gives 0 and 0.
    """
    told = []
    for region in regions.unbind(1):
        for layer in _layers(region[:, None].to(image.dtype)):
            size = layer.sum((2, 3, 4)).clamp(min=1)
            mean = (image * layer).sum((2, 3, 4)) / size
            away = (image - mean[..., None, None, None]) * layer
            told += [mean, (away.square().sum((2, 3, 4)) / size).sqrt()]
    return torch.cat(told, dim=1)


def _layers(inside: Tensor) -> Iterator[Tensor]:
    """(B, 1, I, J, K) of 0 and 1 to the core, its rim and the two layers around, the same each."""
    core, near = -_widened(-inside), _widened(inside)
    yield core
    yield inside - core
    yield near - inside
    yield _widened(near) - near


def _widened(inside: Tensor) -> Tensor:
    """By one voxel."""
    return functional.max_pool3d(inside, 3, 1, 1)
