"""Resampling between grids whose axes are parallel, as one matrix product per axis.

A cubic spline along one axis is linear in the samples, so interpolating a volume is three matrix products: exact, fast,
on any device. Resized grids share their extent (outer voxel faces): output voxel n lies at (n + 1/2) * in / out - 1/2.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medseg.core.geometry import Shape

NEAREST, LINEAR, CUBIC = 0, 1, 3


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
    """(I, J, K) uint8 to `shape`: the value whose linearly interpolated mask is largest, value by value."""
    if tuple(labels.shape) == tuple(shape):
        return labels
    best = torch.zeros(tuple(shape), dtype=torch.uint8, device=labels.device)
    score = torch.full(tuple(shape), -1.0, device=labels.device)
    for value in torch.unique(labels):
        share = resample((labels == value).unsqueeze(0), shape, orders=(LINEAR, LINEAR, LINEAR))[0]
        wins = share > score
        best[wins] = value
        score = torch.where(wins, share, score)
    return best


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
