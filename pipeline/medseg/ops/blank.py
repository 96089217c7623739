"""Windows that hold nothing: when they may be left out, and which they are.

A window is blank when every voxel of it has the value that normalisation gives to air (or to what lies outside the
body). Leaving blank windows out is safe for a labelled voxel when no window that contains it can be blank. Any window
of at least 2 voxels a side contains one of the eight 2x2x2 blocks around each of its voxels (at the border of the
image, what of it lies inside), so it is enough that none of a labelled voxel's eight blocks is blank.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medseg.core.plan import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medseg.core.plan import Normalisation
    from medseg.ops.sliding import WindowGrid

# In deviations: resampling leaves ripples about a constant.
_TOLERANCE = 1e-3
# Voxels beside a window that a cubic spline carries into it.
_REACH = 4


def blank_values(rules: Sequence[Normalisation]) -> tuple[float, ...] | None:
    """What normalisation makes of air, channel by channel; None where that is not one value for all images."""
    values = []
    for rule in rules:
        if rule.scheme == "fixed" and rule.lower is not None:
            values.append((rule.lower - rule.mean) / rule.std)
        elif rule.scheme == "per_image" and rule.nonzero:
            values.append(0.0)
        else:
            return None
    return tuple(values)


def is_blank(windows: Tensor, values: Sequence[float]) -> Tensor:
    """(B, C, I, J, K) to (B,) bool."""
    return ~_differs(windows, values).flatten(1).any(1)


def blank_windows(image: NDArray[Any], grid: WindowGrid, rules: Sequence[Normalisation]) -> int:
    """About how many windows hold nothing, counted on the image before it is normalised and resampled.

    Args:
        image: (C, I, J, K), source units, axes as those of the network grid, of the same extent.
        grid: Windows on the network grid.
        rules: One per channel, of which `blank_values` knows the value of air.
    """
    differs = np.zeros(image.shape[1:], dtype=bool)
    for channel, rule in zip(image, rules, strict=True):
        differs |= channel != 0 if rule.lower is None else channel > rule.lower + _TOLERANCE * rule.std
    for axis, (starts, side, pad, length) in enumerate(
        zip(grid.starts, grid.size, grid.padding, grid.shape, strict=True)
    ):
        scale = image.shape[axis + 1] / length
        ends = [
            (max(math.floor((first - pad) * scale) - _REACH, 0), math.ceil((first - pad + side) * scale) + _REACH)
            for first in starts
        ]
        seen = [differs.take(range(low, min(high, differs.shape[axis])), axis).any(axis) for low, high in ends]
        differs = np.stack(seen, axis)
    return int((~differs).sum())


def may_skip(image: Tensor, labels: Tensor, values: Sequence[float]) -> bool:
    """Whether no labelled voxel of a prepared case can lie in a blank window of at least 2 voxels a side.

    Args:
        image: (C, I, J, K), network units.
        labels: (I, J, K) network indices; background and ignored voxels may be lost.
        values: From `blank_values`.
    """
    differs = _differs(image[None], values).any(1, keepdim=True).float()
    blocks = functional.max_pool3d(functional.pad(differs, (1,) * 6), 2, 1)
    kept = -functional.max_pool3d(-blocks, 2, 1)[0, 0] > 0
    return not bool(((labels > 0) & (labels != IGNORE_INDEX) & ~kept).any())


def _differs(images: Tensor, values: Sequence[float]) -> Tensor:
    expected = torch.tensor(values, device=images.device, dtype=torch.float32).reshape(1, -1, 1, 1, 1)
    return (images.float() - expected).abs() > _TOLERANCE
