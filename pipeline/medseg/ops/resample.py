"""Resampling between grids whose axes are parallel, as one matrix product per axis.

A cubic spline along one axis is linear in the samples, so interpolating a volume is three matrix products: exact, fast,
on any device. Resized grids share their extent (outer voxel faces): output voxel n lies at (n + 1/2) * in / out - 1/2.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medseg.ops.limits import Limits
from medseg.ops.lines import LINEAR, NEAREST, Line, corners, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from medseg.core.geometry import Shape

CUBIC = 3  # beside the orders of `medseg.ops.lines`
# Shares closer than this are equal: half and half must not be decided by rounding.
_TIE = 1e-6
_NO_WEIGHT = 1e-7
_BAND_ROWS = 48
# What the processor's cache holds beside the rest.
_SLAB_BYTES = 4 * 2**20


def resample(
    image: Tensor,
    shape: Shape,
    *,
    orders: Sequence[int] = (CUBIC, CUBIC, CUBIC),
    change: Callable[[Tensor], Tensor] | None = None,
    within_range: bool = False,
) -> Tensor:
    """(C, I, J, K) to (C, *shape) float32, a few planes after the other as they lie in memory.

    Args:
        image: Numbers of any type; no copy of it as a whole is made.
        shape: Of the result.
        orders: Per axis: 0 nearest, 1 linear, 3 cubic spline.
        change: Voxel by voxel, before resampling: gets (C, rows, ..., ...) float32, which it may overwrite.
        within_range: Cut off what a spline overshoots the values of the channel by, or those of the slice where one
            axis takes the nearest.
    """
    if change is None and tuple(image.shape[1:]) == tuple(shape):
        return image.float()
    lead, *plane = _as_stored(image[0])
    inner = sorted(plane)
    slabs = image.movedim(lead + 1, 1)
    flat = image.new_empty([len(image), image.shape[lead + 1], *(shape[axis] for axis in inner)], dtype=torch.float32)
    rows = max(1, _SLAB_BYTES // (4 * len(image) * math.prod(slabs.shape[2:])))
    # The axis that shrinks most goes first: it leaves the least for the other.
    steps = sorted((shape[axis] / image.shape[axis + 1], inner.index(axis) + 2, axis) for axis in inner)
    sliced = orders.index(NEAREST) if NEAREST in orders else None
    limits = Limits(None if sliced is None else [lead, *inner].index(sliced) + 1) if within_range else None
    for first in range(0, flat.shape[1], rows):
        part = slabs[:, first : first + rows].to(torch.float32, copy=change is not None)
        part = part if change is None else change(part)
        if limits is not None:
            limits.see(part)
        for _, place, axis in steps:
            part = _resized(part, shape[axis], orders[axis], place)
        flat[:, first : first + rows] = part
    result = _resized(flat.movedim(1, lead + 1), shape[lead], orders[lead], lead + 1)
    if limits is None:
        return result
    ends = [end.movedim(1, lead + 1) for end in limits.ends()]
    low, high = ends if sliced is None else (_resized(end, shape[sliced], NEAREST, sliced + 1) for end in ends)
    return result.clamp_(low, high)


def resample_labels(labels: Tensor, shape: Shape) -> Tensor:
    """(I, J, K) uint8 to `shape`: the value whose linearly interpolated mask is largest; of equals, the lowest.

    Most voxels lie among eight of one value; only the others are decided by weights, whatever the number of values.
    """
    if tuple(labels.shape) == tuple(shape):
        return labels
    order = _as_stored(labels)
    source = labels.permute(order)
    lines = [Line.through(_centres(labels.shape[axis], shape[axis]), labels.shape[axis], LINEAR) for axis in order]
    result = labels.new_empty([shape[axis] for axis in order])
    rows = max(1, _SLAB_BYTES // (4 * result[0].numel()))
    for first in range(0, len(result), rows):
        part = slice(first, first + rows)
        result[part] = _vote(source, [lines[0].part(part), *lines[1:]])
    return result.permute([order.index(axis) for axis in range(3)])


def _vote(labels: Tensor, lines: Sequence[Line]) -> Tensor:
    """The value with the largest share among the eight samples around each position."""
    found, mixed = settled(labels, lines)
    at = mixed.nonzero()
    numbers, share = corners(lines, at, labels.shape)
    value = labels.flatten()[numbers]
    share = ((value[:, None] == value[:, :, None]) * share[:, None]).sum(2)
    found[tuple(at.T)] = value.masked_fill(share < share.amax(1, keepdim=True) - _TIE, 255).amin(1)
    return found


def _as_stored(array: Tensor) -> list[int]:
    """The axes from the one whose steps are longest in memory to the one whose neighbours lie side by side."""
    return sorted(range(array.ndim), key=array.stride, reverse=True)


def _centres(old: int, new: int) -> NDArray[np.float64]:
    """Where the voxels of a resized axis lie on the old one."""
    return np.asarray((np.arange(new) + 0.5) * old / new - 0.5)


def along_axis(array: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply `matrix` (out, in) onto one axis of `array`."""
    if axis == array.ndim - 1:
        return array @ matrix.T
    lines = array.reshape(*array.shape[: axis + 1], -1)
    return torch.matmul(matrix, lines).reshape(*array.shape[:axis], matrix.shape[0], *array.shape[axis + 1 :])


def interpolation_matrix(positions: NDArray[np.float64], size: int, order: int) -> NDArray[np.float32]:
    """(len(positions), size) matrix that samples a line of `size` values at fractional `positions`.

    Positions beyond the first and last sample take that sample. The cubic spline interpolates the samples exactly and
    mirrors them at the ends (Unser, IEEE Signal Processing Magazine 1999).
    """
    clamped = np.clip(positions, 0, size - 1)
    weights: dict[int, NDArray[Any]]
    if size == 1 or order == NEAREST:
        weights = {0: np.ones(len(clamped))}
        first = np.floor(clamped + 0.5).astype(int)
    elif order == LINEAR:
        first = np.minimum(np.floor(clamped).astype(int), size - 2)
        part = clamped - first
        weights = {0: 1 - part, 1: part}
    else:
        first = np.floor(clamped).astype(int)
        part = clamped - first
        weights = {
            -1: (1 - part) ** 3 / 6,
            0: 2 / 3 - part**2 + part**3 / 2,
            1: 1 / 6 + part / 2 + part**2 / 2 - part**3 / 2,
            2: part**3 / 6,
        }
    matrix: NDArray[Any] = np.zeros((len(clamped), size))
    rows = np.arange(len(clamped))
    for offset, weight in weights.items():
        np.add.at(matrix, (rows, _mirror(first + offset, size)), weight)
    if order == CUBIC and size > 1:
        matrix = np.linalg.solve(_spline_samples(size).T, matrix.T).T
    return matrix.astype(np.float32)


def _resized(array: Tensor, size: int, order: int, axis: int) -> Tensor:
    if array.shape[axis] == size:
        return array
    result = array.new_empty([*array.shape[:axis], size, *array.shape[axis + 1 :]])
    first = 0
    for support, block in _bands(array.shape[axis], size, order):
        part = array.narrow(axis, support.start, support.stop - support.start)
        result.narrow(axis, first, len(block)).copy_(along_axis(part, block.to(array.device), axis))
        first += len(block)
    return result


@lru_cache(maxsize=64)
def _bands(old: int, new: int, order: int) -> tuple[tuple[slice, Tensor], ...]:
    """The matrix that resizes an axis, some rows at a time, each with the samples that have any weight in them.

    A spline's weights shrink to a quarter from sample to sample: a dozen away they are lost in the rounding.
    """
    matrix = torch.from_numpy(interpolation_matrix(_centres(old, new), old, order))
    bands = []
    for first in range(0, new, _BAND_ROWS):
        block = matrix[first : first + _BAND_ROWS]
        read = (block.abs() > _NO_WEIGHT).any(0).nonzero().flatten()
        support = slice(int(read[0]), int(read[-1]) + 1)
        bands.append((support, block[:, support].contiguous()))
    return tuple(bands)


def _spline_samples(size: int) -> NDArray[np.float64]:
    """The matrix from cubic B-spline coefficients to samples, mirrored ends."""
    matrix = np.zeros((size, size))
    rows = np.arange(size)
    for offset, weight in {-1: 1 / 6, 0: 2 / 3, 1: 1 / 6}.items():
        np.add.at(matrix, (rows, _mirror(rows + offset, size)), weight)
    return matrix


def _mirror(index: NDArray[np.int_], size: int) -> NDArray[np.int_]:
    """Reflect indices about the centres of the end samples."""
    if size == 1:
        return np.zeros_like(index)
    period = 2 * (size - 1)
    folded = np.abs(index) % period
    return np.asarray(np.minimum(folded, period - folded))
