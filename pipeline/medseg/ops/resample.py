"""Resampling between grids whose axes are parallel, as one matrix product per axis.

A cubic spline along one axis is linear in the samples, so interpolating a volume is three matrix products: exact, fast,
on any device. Resized grids share their extent (outer voxel faces): output voxel n lies at (n + 1/2) * in / out - 1/2.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medseg.core.geometry import Shape

NEAREST, LINEAR, CUBIC = 0, 1, 3
# Shares closer than this are equal: half and half must not be decided by rounding.
_TIE = 1e-6


def resample(image: Tensor, shape: Shape, *, orders: Sequence[int] = (CUBIC, CUBIC, CUBIC)) -> Tensor:
    """(C, I, J, K) to (C, *shape) float32; `orders` per axis: 0 nearest, 1 linear, 3 cubic spline."""
    result = image.float()
    # The axis that shrinks most goes first: it leaves the least for the others.
    for axis in sorted(range(3), key=lambda a: shape[a] / image.shape[a + 1]):
        if shape[axis] != image.shape[axis + 1]:
            matrix = _resizing_matrix(image.shape[axis + 1], shape[axis], orders[axis])
            result = along_axis(result, matrix.to(result.device), axis + 1)
    return result


def resample_labels(labels: Tensor, shape: Shape) -> Tensor:
    """(I, J, K) uint8 to `shape`: the value whose linearly interpolated mask is largest; of equals, the lowest.

    Each value is interpolated in its own bounding box only; background is what the others leave.
    """
    if tuple(labels.shape) == tuple(shape):
        return labels
    best = torch.zeros(tuple(shape), dtype=torch.uint8)
    score, rest = torch.zeros(tuple(shape)), torch.ones(tuple(shape))
    boxes: Sequence[tuple[slice, ...] | None] = ndimage.find_objects(labels.cpu().numpy())
    for value, box in enumerate(boxes, start=1):
        if box is None:
            continue
        share, where = _share(labels.cpu(), value, box, shape)
        wins = share > score[where] + _TIE
        best[where][wins] = value
        score[where] = torch.where(wins, share, score[where])
        rest[where] -= share
    best[score <= rest + _TIE] = 0
    return best.to(labels.device)


def _share(
    labels: Tensor, value: int, box: tuple[slice, ...], shape: Shape
) -> tuple[Tensor, tuple[slice, slice, slice]]:
    """The linearly interpolated mask of a value, and the box of the result outside which it is zero."""
    low = [max(part.start - 1, 0) for part in box]
    share = labels[tuple(slice(first, part.stop + 1) for first, part in zip(low, box, strict=True))] == value
    where = [slice(0, 0)] * 3
    # The axis that shrinks most goes first: it leaves the least for the others.
    for axis in sorted(range(3), key=lambda a: shape[a] / labels.shape[a]):
        old, new = labels.shape[axis], shape[axis]
        position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        first = np.clip(np.floor(position).astype(int), 0, max(old - 2, 0))
        touched = np.flatnonzero((first + 1 >= box[axis].start) & (first < box[axis].stop))
        near, far = (torch.from_numpy(np.minimum(first[touched] + step, old - 1) - low[axis]) for step in (0, 1))
        weight = torch.from_numpy(position - first)[touched].float().reshape([-1, *[1] * (2 - axis)])
        share = torch.lerp(share.index_select(axis, near).float(), share.index_select(axis, far).float(), weight)
        where[axis] = slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)
    i, j, k = where
    return share, (i, j, k)


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


@lru_cache(maxsize=64)
def _resizing_matrix(old: int, new: int, order: int) -> Tensor:
    positions = (np.arange(new) + 0.5) * old / new - 0.5
    return torch.from_numpy(interpolation_matrix(positions, old, order))


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
