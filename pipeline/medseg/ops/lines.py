"""What lies between the samples of a grid: nearest, or a mean of the two neighbours along each axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NEAREST, LINEAR = 0, 1
_AT_SAMPLE = 1e-6  # of the way to the next: what rounding makes of none


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
        if order == NEAREST or (np.abs(clamped - np.rint(clamped)) < _AT_SAMPLE).all():
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


def sample(array: Tensor, lines: Sequence[Line]) -> Tensor:
    """(I, J, K) float32 interpolated along each axis; a view of it where nothing lies between the samples."""
    # Voxels that do not lie side by side are dear to gather again and again.
    result = array[tuple(line.support for line in lines)].contiguous()
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


def settled(labels: Tensor, lines: Sequence[Line]) -> tuple[Tensor, Tensor]:
    """At each position the lowest value of the samples around, and whether there are others (bool)."""
    low = high = labels[tuple(line.support for line in lines)]
    for axis, line in enumerate(lines):
        if line.weight.any():
            last = low.shape[axis] - 1
            low = torch.minimum(low.narrow(axis, 0, last), low.narrow(axis, 1, last))
            high = torch.maximum(high.narrow(axis, 0, last), high.narrow(axis, 1, last))
    value, mixed = low, low != high
    # The last axis, whose samples are the dearest to gather, while there are few; the middle one in whole lines.
    for axis in (0, 2, 1):
        near = torch.from_numpy(lines[axis].based().near).to(labels.device)
        value, mixed = value.index_select(axis, near), mixed.index_select(axis, near)
    return value, mixed


def corners(lines: Sequence[Line], at: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Numbers of the samples around some positions in a flattened (I, J, K), and their shares, both (N, up to 8).

    Args:
        lines: How each axis is read.
        at: (N, 3) which positions.
        shape: Of the samples.
    """
    numbers, shares = at.new_zeros((1, len(at))), torch.ones((1, len(at)), device=at.device)
    for line, size, where in zip(lines, shape, at.T, strict=True):
        near, far, weight = (torch.from_numpy(part).to(at.device)[where] for part in (line.near, line.far, line.weight))
        numbers = numbers * size
        if line.weight.any():
            numbers, shares = (
                torch.cat([numbers + near, numbers + far]),
                torch.cat([shares * (1 - weight), shares * weight]),
            )
        else:
            numbers = numbers + near
    return numbers.T, shares.T
