"""A region in numbers: how large it is, how ragged, how thick, and how thick and long it is in each direction.

Shape legend: B batch, R regions, (I, J, K) voxels of the network grid, RAS order.
"""

from __future__ import annotations

from functools import reduce
from itertools import combinations, product
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from medseg.core.geometry import Shape

_WIDTHS = (3, 5, 7)  # voxels
_MOVE = 1 / 14  # of the view's edges
_DEPTH = 1 / 28
_NUM_DEPTHS = 4
# One of each opposite pair, which say the same.
_DIRECTIONS = tuple(step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0))


def num_measures(*, directed: bool, thickness: bool) -> int:
    """Of each region in `measure_shape`."""
    return 1 + 2 * len(_WIDTHS) + len(_DIRECTIONS) * directed + _NUM_DEPTHS * thickness


def measure_shape(regions: Tensor, *, directed: bool = False, thickness: bool = False) -> Tensor:
    """(B, R, I, J, K) to (B, M R): log of each region's size, then how ragged it is at three widths.

    What an average over 3, 5 and 7 voxels takes away from a region is its rim: a thin spicule is lost to the smallest
    average, a lobe to the largest only. Rims count in relation to the size and to the surface of a ball of that size.

    Args:
        regions: Probabilities, or 0 and 1.
        directed: Also its set covariance (Serra, Image Analysis and Mathematical Morphology, 1982) in 13 directions:
            the share of the region that still lies in it when moved by a fourteenth of the view along the axes and
            diagonals of the grid. A thin limb loses itself when moved across, not along: thickness, length and tilt.
        thickness: Also the share of the region that is left when its surface is worn away (erosion, the same book) by a
            twenty-eighth of the view: along the axes, in the planes, in all directions of the grid, and along the axes
            twice. Nothing is left of a thin limb, the core of a thick one.
    """
    size = regions.sum((2, 3, 4))
    measures = [torch.log1p(size) / 10]
    for width in _WIDTHS:
        rim = (regions * (1 - _smooth(regions, width))).sum((2, 3, 4))
        measures += [rim / (size + 1), rim / (size + 1) ** (2 / 3)]
    if directed:
        i, j, k = (max(1, round(edge * _MOVE)) for edge in grid_of(regions))
        moves = ((a * i, b * j, c * k) for a, b, c in _DIRECTIONS)
        measures += [_overlap(regions, move) / (size + 1) for move in moves]
    if thickness:
        measures += [left.sum((2, 3, 4)) / (size + 1) for left in _worn(regions)]
    return torch.cat(measures, dim=1)


def grid_of(voxels: Tensor) -> Shape:
    """(I, J, K) of the last three axes: plain numbers, and so constants of a graph that is traced."""
    i, j, k = map(int, voxels.shape[-3:])
    return i, j, k


def _overlap(regions: Tensor, move: Shape) -> Tensor:
    """(B, R) voxels that a region has in common with itself moved; nothing of it lies beyond the view."""
    sides = [(max(step, 0), size + min(step, 0), step) for step, size in zip(move, grid_of(regions), strict=True)]
    ahead = regions[:, :, *(slice(first, end) for first, end, _ in sides)]
    behind = regions[:, :, *(slice(first - step, end - step) for first, end, step in sides)]
    return (ahead * behind).sum((2, 3, 4))


def _worn(regions: Tensor) -> list[Tensor]:
    """What is left of regions as `thickness` says; beyond the view there is nothing of them."""
    reach = [max(1, round(edge * _DEPTH)) for edge in grid_of(regions)]
    planes = combinations(range(3), 2)
    once = _least([_least_along(regions, axis, reach) for axis in range(3)])
    flat = _least([_least_along(_least_along(regions, first, reach), second, reach) for first, second in planes])
    full = _least_along(_least_along(_least_along(regions, 0, reach), 1, reach), 2, reach)
    twice = _least([_least_along(once, axis, reach) for axis in range(3)])
    return [once, flat, full, twice]


def _least(parts: list[Tensor]) -> Tensor:
    return torch.minimum(torch.minimum(parts[0], parts[1]), parts[2])


def _least_along(regions: Tensor, axis: int, reach: list[int]) -> Tensor:
    """The least value within reach along one axis."""
    return reduce(torch.minimum, _shifted(regions, axis, reach[axis]))


def _smooth(regions: Tensor, width: int) -> Tensor:
    """Averages over a cube; axis by axis, which is several times faster on a CPU than pooling."""
    for axis in range(3):
        regions = reduce(torch.add, _shifted(regions, axis, width // 2)) / width
    return regions


def _shifted(regions: Tensor, axis: int, reach: int) -> list[Tensor]:
    """The regions, moved along one axis by all steps within reach; there is nothing of them beyond the view."""
    padding = [0] * 6
    padding[4 - 2 * axis] = padding[5 - 2 * axis] = reach
    padded = functional.pad(regions, padding)
    return [padded.narrow(axis + 2, start, regions.shape[axis + 2]) for start in range(2 * reach + 1)]
