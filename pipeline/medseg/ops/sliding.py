"""Sliding-window inference: overlapping windows blended with a Gaussian."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from medseg.core.geometry import Box, Shape

_SIGMA = 1 / 8
_FLOOR = 1e-3
_NNUNET_FLOOR = 6e-9  # the smallest number of half precision, of a peak of 10
# What the processor's cache holds of a window's answer in float32.
_CACHE_BYTES = 2 * 2**20
# From so many channels on it pays on a CPU to keep those of a voxel side by side, as convolutions give them.
_MANY_CHANNELS = 16

Blending = Literal["even", "nnunet"]
_Slices = tuple[slice, ...]


@dataclass(frozen=True)
class WindowGrid:
    """Where windows lie over an image, and which part of it they are to answer.

    Attributes:
        shape: Of the image.
        size: Of a window; an image that is smaller is padded with zeros around.
        starts: First voxels of the windows along each axis, in the padded image.
        box: First voxel and one past the last, in the image; every window that touches it is there.
    """

    shape: Shape
    size: Shape
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    box: Box

    @classmethod
    def over(cls, shape: Sequence[int], size: Shape, overlap: float) -> WindowGrid:
        """The fewest windows that cover an image and overlap enough, evenly spread.

        Args:
            shape: Of the image.
            size: Of a window.
            overlap: Share of a window that its neighbour repeats, in [0, 1).
        """
        i, j, k = (
            _starts(max(length, side), side, max(1, int(side * (1 - overlap))))
            for length, side in zip(shape, size, strict=True)
        )
        whole = (int(shape[0]), int(shape[1]), int(shape[2]))
        return cls(whole, size, (i, j, k), ((0, 0, 0), whole))

    @property
    def count(self) -> int:
        return math.prod(map(len, self.starts))

    @property
    def padding(self) -> Shape:
        """Voxels before the first of the image along each axis."""
        i, j, k = (max(side - length, 0) // 2 for side, length in zip(self.size, self.shape, strict=True))
        return i, j, k

    def touching(self, box: Box) -> WindowGrid:
        """Of these windows those that overlap a box: inside it the answers are those of all windows."""
        i, j, k = (
            tuple(first for first in line if first < stop + pad and first + side > start + pad)
            for line, side, pad, start, stop in zip(self.starts, self.size, self.padding, *box, strict=True)
        )
        return replace(self, starts=(i, j, k), box=box)

    def led_by(self, axis: int) -> WindowGrid:
        """The same windows with one axis brought to the front, the others in their order."""
        i, j, k = (axis, *(other for other in range(3) if other != axis))

        def turned(triple: Sequence[Any]) -> tuple[Any, Any, Any]:
            return triple[i], triple[j], triple[k]

        start, stop = self.box
        return WindowGrid(turned(self.shape), turned(self.size), turned(self.starts), (turned(start), turned(stop)))


def sliding_slabs(
    image: Tensor,
    predict: Callable[[Tensor], Tensor],
    *,
    grid: WindowGrid,
    num_outputs: int,
    blending: Blending = "even",
    window_batch: int = 1,
    stitch_on: torch.device | None = None,
) -> Iterator[Tensor]:
    """Run `predict` over overlapping windows and blend the answers, from the first row of the grid's box to the last.

    Only the rows that a window still touches are held, and of them what lies in the grid's box: memory depends on the
    window, not on the length of the image.

    Args:
        image: (C, I, J, K) on the device where the windows run.
        predict: (B, C, *window) to (B, num_outputs, *window).
        grid: Where the windows lie.
        num_outputs: Channels of the result.
        blending: Weights of overlapping windows, as `gaussian`.
        window_batch: Windows per call of `predict`.
        stitch_on: Where the answers are blended; the image's device when None.

    Yields:
        Consecutive (num_outputs, rows, J, K) of the box, float32, where they were blended: the mean of the windows'
        answers weighted with a Gaussian of sigma 1/8 of the window (Isensee et al. 2021).
    """
    window = grid.size
    reached = [(line[0], line[-1] + side) for line, side in zip(grid.starts, window, strict=True)]
    outer = _reached(image, grid, reached)
    first_rows, *others = ([first - low for first in line] for line, (low, _) in zip(grid.starts, reached, strict=True))
    (top, left, front), (bottom, right, back) = (
        [voxel + pad - low for voxel, pad, (low, _) in zip(corner, grid.padding, reached, strict=True)]
        for corner in grid.box
    )
    starts = list(product(*others))
    stitch_on = stitch_on or image.device
    weight = gaussian(window, blending).to(stitch_on)
    cuts = [_cut(start, window[1:], (left, front), (right, back)) for start in starts]
    layer = _layer(weight, cuts, (right - left, back - front))
    edges = [*first_rows, first_rows[-1] + window[0]]
    waiting = list(pairwise(edges))
    held: list[_Part] = []
    side_by_side = False
    for row, following in pairwise(edges):
        rows = slice(row, row + window[0])
        for first in range(0, len(starts), window_batch):
            boxes = [_box(start, window[1:]) for start in starts[first : first + window_batch]]
            answers = predict(torch.stack([outer[(slice(None), rows, *box)] for box in boxes])).to(stitch_on)
            if answers.stride(-1):  # one number for a whole window shows nothing of how others lie
                side_by_side = answers.stride(1) == 1
            while waiting and waiting[0][0] < row + window[0]:
                start, stop = waiting.pop(0)
                shape = (num_outputs, stop - start, right - left, back - front)
                held.append(_Part.empty(start, shape, stitch_on, side_by_side=side_by_side))
            for (here, there), answer in zip(cuts[first : first + window_batch], answers, strict=True):
                for part in held:
                    inside = (slice(part.start - row, None), *here)
                    part.add(answer[(slice(None), *inside)], weight[inside], there)
            del answers, answer
        wanted = slice(max(top - row, 0), min(bottom, following) - row)
        if wanted.stop > wanted.start:
            shares = _rows_of(layer, first_rows, row, following)
            # Bound to no name here: whoever takes it decides how long it is held.
            yield held.pop(0).total.div_(shares)[:, wanted]
        else:
            held.pop(0)


@dataclass(frozen=True, eq=False)
class _Part:
    """The rows between the starts of two windows, while they are blended.

    Attributes:
        start: Its first row.
        total: (num_outputs, rows, J, K) weighted sum of answers.
    """

    start: int
    total: Tensor

    @classmethod
    def empty(cls, start: int, shape: tuple[int, ...], device: torch.device, *, side_by_side: bool) -> _Part:
        """Many channels of a voxel lie side by side where they do in the answers, which would be strided through else.

        Args:
            start: Its first row.
            shape: (num_outputs, rows, J, K).
            device: Where it is blended.
            side_by_side: Whether the channels of a voxel are neighbours in the answers.
        """
        channels, *place = shape
        if side_by_side and device.type == "cpu" and channels >= _MANY_CHANNELS:
            total = torch.zeros((*place, channels), device=device).movedim(-1, 0)
        else:
            total = torch.zeros(shape, device=device)
        return cls(start, total)

    def add(self, answer: Tensor, weight: Tensor, box: _Slices) -> None:
        """Blend what of a window lies here; (num_outputs, rows, ...) and (rows, ...) from the first row on."""
        length = min(self.total.shape[1], len(weight))
        step = max(1, _CACHE_BYTES // (4 * answer[:, 0].numel())) if answer.device.type == "cpu" else length
        for first in range(0, length, step):
            rows = slice(first, min(first + step, length))
            self.total[(slice(None), rows, *box)].addcmul_(answer[:, rows].to(torch.float32), weight[rows])


def _layer(weight: Tensor, cuts: Sequence[tuple[_Slices, _Slices]], shape: Sequence[int]) -> Tensor:
    """(rows of a window, J, K): the sum of the weights of all windows that begin at one row, the same for every row."""
    total = torch.zeros((len(weight), *shape), device=weight.device)
    for here, there in cuts:
        total[(slice(None), *there)] += weight[(slice(None), *here)]
    return total


def _rows_of(layer: Tensor, first_rows: Sequence[int], start: int, stop: int) -> Tensor:
    """(rows, J, K): the sum of the weights of all windows over the rows from `start` to `stop`."""
    total = torch.zeros((stop - start, *layer.shape[1:]), device=layer.device)
    for first in first_rows:
        low, high = max(start, first), min(stop, first + len(layer))
        if low < high:
            total[low - start : high - start] += layer[low - first : high - first]
    return total


def sliding_window(
    image: Tensor, predict: Callable[[Tensor], Tensor], *, window: Shape, overlap: float = 0.5, **options: Any
) -> Tensor:
    """(num_outputs, I, J, K): the slabs of `sliding_slabs`, which has the same options, in one piece."""
    grid = WindowGrid.over(image.shape[1:], window, overlap)
    return torch.cat(list(sliding_slabs(image, predict, grid=grid, **options)), dim=1)


def _reached(image: Tensor, grid: WindowGrid, reached: Sequence[tuple[int, int]]) -> Tensor:
    """The part of the image that the windows see, padded with zeros where they are larger."""
    boxes, padding = [], []
    for (low, high), pad, length in zip(reached, grid.padding, grid.shape, strict=True):
        boxes.append(slice(max(low - pad, 0), min(high - pad, length)))
        padding.append((max(pad - low, 0), max(high - pad - length, 0)))
    part = image[(slice(None), *boxes)]
    flat = [number for pair in reversed(padding) for number in pair]
    return functional.pad(part, flat) if any(flat) else part


def gaussian(window: Shape, blending: Blending = "even") -> Tensor:
    """(I, J, K) float32: separable, 1 at the centre, never below a floor.

    `even`: about the middle of the window, at least a thousandth. `nnunet`: about the voxel at half the size, which is
    half a voxel farther on where the size is even, and down to what half precision resolves, as nnU-Net blends.
    """
    shift, floor = (0.0, _FLOOR) if blending == "even" else (0.5, _NNUNET_FLOOR)
    centres = [(size - 1) / 2 + (shift if size % 2 == 0 else 0.0) for size in window]
    lines = [
        torch.exp(-0.5 * ((torch.arange(size) - centre) / max(size * _SIGMA, 1e-3)) ** 2)
        for size, centre in zip(window, centres, strict=True)
    ]
    weight = lines[0][:, None, None] * lines[1][None, :, None] * lines[2][None, None, :]
    return weight.clamp(min=floor)


def _starts(length: int, side: int, step: int) -> tuple[int, ...]:
    """First voxels of the windows along an axis."""
    count = -(-(length - side) // step) + 1
    return tuple(round(n * (length - side) / max(count - 1, 1)) for n in range(count))


def _box(start: Sequence[int], size: Sequence[int]) -> _Slices:
    return tuple(slice(first, first + length) for first, length in zip(start, size, strict=True))


def _cut(start: Sequence[int], size: Sequence[int], low: Sequence[int], high: Sequence[int]) -> tuple[_Slices, _Slices]:
    """What of a window is wanted, between two corners: its voxels, and where they lie from the first corner on."""
    ends = [
        (max(first, bottom), min(first + length, top))
        for first, length, bottom, top in zip(start, size, low, high, strict=True)
    ]
    here = tuple(slice(a - first, b - first) for (a, b), first in zip(ends, start, strict=True))
    return here, tuple(slice(a - bottom, b - bottom) for (a, b), bottom in zip(ends, low, strict=True))
