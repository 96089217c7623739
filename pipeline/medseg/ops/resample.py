"""Resampling between grids whose axes are parallel, as one matrix product per axis.

A cubic spline along one axis is linear in the samples, so interpolating a volume is three matrix products: exact, fast,
on any device. Resized grids share their extent (outer voxel faces): output voxel n lies at (n + 1/2) * in / out - 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    lines, where = [], []
    for part, old, new in zip(box, labels.shape, shape, strict=True):
        line = Line.through((np.arange(new) + 0.5) * old / new - 0.5, old, LINEAR)
        where.append(line.touching(part.start, part.stop - 1))
        lines.append(line.part(where[-1]))
    i, j, k = where
    if min(len(line.near) for line in lines) == 0:
        return torch.zeros([len(line.near) for line in lines]), (i, j, k)
    # Only the box is turned into numbers; beside it there is nothing of this value.
    share = sample((labels[tuple(line.support for line in lines)] == value).float(), [line.based() for line in lines])
    return share, (i, j, k)


@dataclass(frozen=True, eq=False)
class Line:
    """How an axis is read between its samples: each position from two neighbours.

    Attributes:
        near: (N,) index of the sample before each position.
        far: (N,) of the one after.
        weight: (N,) float32, of the one after.
    """

    near: NDArray[np.int64]
    far: NDArray[np.int64]
    weight: NDArray[np.float32]

    @classmethod
    def through(cls, positions: NDArray[np.float64], size: int, order: int) -> Line:
        """Fractional positions on an axis of `size` samples; those beyond an end take the end; 0 nearest, 1 linear."""
        clamped = np.clip(positions, 0, size - 1)
        if order == NEAREST:
            near = np.floor(clamped + 0.5).astype(np.int64)
            return cls(near, near, np.zeros(len(near), np.float32))
        near = np.clip(np.floor(clamped).astype(np.int64), 0, max(size - 2, 0))
        return cls(near, np.minimum(near + 1, size - 1), (clamped - near).astype(np.float32))

    @property
    def support(self) -> slice:
        """The samples that are read."""
        return slice(int(self.near.min()), int(self.far.max()) + 1)

    def part(self, rows: slice) -> Line:
        """Some of the positions."""
        return Line(self.near[rows], self.far[rows], self.weight[rows])

    def based(self) -> Line:
        """The same positions on the samples of the support alone."""
        start = self.support.start
        return Line(self.near - start, self.far - start, self.weight)

    def touching(self, first: int, last: int) -> slice:
        """The positions that read any sample from `first` to `last`."""
        rows = np.flatnonzero((self.far >= first) & (self.near <= last))
        return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)


def sample(array: Tensor, lines: Sequence[Line]) -> Tensor:
    """(I, J, K) float32 interpolated along each axis; a view of it where nothing lies between the samples."""
    result = array[tuple(line.support for line in lines)]
    # The last axis, whose samples are the dearest to gather, while there are few; the middle one in whole lines.
    for axis in (0, 2, 1):
        result = _along_line(result, lines[axis].based(), axis)
    return result


def _along_line(array: Tensor, line: Line, axis: int) -> Tensor:
    near, far, weight = (torch.from_numpy(part).to(array.device) for part in (line.near, line.far, line.weight))
    if not line.weight.any():
        is_copy = len(line.near) == array.shape[axis] and np.array_equal(line.near, np.arange(len(line.near)))
        return array if is_copy else array.index_select(axis, near)
    return torch.lerp(
        array.index_select(axis, near), array.index_select(axis, far), weight.reshape([-1, *[1] * (2 - axis)])
    )


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
