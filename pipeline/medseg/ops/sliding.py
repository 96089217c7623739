"""Sliding-window inference: overlapping windows blended with a Gaussian."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from medseg.core.geometry import Shape

_SIGMA = 1 / 8
_FLOOR = 1e-3


def sliding_slabs(
    image: Tensor,
    predict: Callable[[Tensor], Tensor],
    *,
    window: Shape,
    num_outputs: int,
    overlap: float = 0.5,
    window_batch: int = 1,
    stitch_on: torch.device | None = None,
) -> Iterator[Tensor]:
    """Run `predict` over overlapping windows and blend the answers, from the first row of the image to the last.

    Only the rows that a window still touches are held: memory depends on the window, not on the length of the image.

    Args:
        image: (C, I, J, K) on the device where the windows run.
        predict: (B, C, *window) to (B, num_outputs, *window).
        window: Window size in voxels; smaller images are padded with zeros.
        num_outputs: Channels of the result.
        overlap: Share of a window that its neighbour repeats, in [0, 1).
        window_batch: Windows per call of `predict`.
        stitch_on: Where the answers are blended; the image's device when None.

    Yields:
        Consecutive (num_outputs, rows, J, K) float32 where they were blended: the mean of the windows' answers weighted
        with a Gaussian of sigma 1/8 of the window (Isensee et al. 2021).
    """
    shape = tuple(image.shape[1:])
    low = [max(size - length, 0) // 2 for size, length in zip(window, shape, strict=True)]
    high = [max(size - length, 0) - before for size, length, before in zip(window, shape, low, strict=True)]
    padded = functional.pad(image, (low[2], high[2], low[1], high[1], low[0], high[0])) if any(low + high) else image
    first_rows, *others = _starts(tuple(padded.shape[1:]), window, overlap)
    starts = list(product(*others))
    stitch_on = stitch_on or image.device
    weight = gaussian(window).to(stitch_on)
    crop = (slice(None), *_box(low, shape))
    total = torch.zeros((num_outputs, window[0], *padded.shape[2:]), dtype=torch.float32, device=stitch_on)
    weight_sum = torch.zeros((window[0], *padded.shape[2:]), dtype=torch.float32, device=stitch_on)
    for row, following in zip(first_rows, [*first_rows[1:], first_rows[-1] + window[0]], strict=True):
        rows = slice(row, row + window[0])
        for first in range(0, len(starts), window_batch):
            boxes = [_box((0, *start), window)[1:] for start in starts[first : first + window_batch]]
            answers = predict(torch.stack([padded[(slice(None), rows, *box)] for box in boxes]))
            for box, answer in zip(boxes, answers, strict=True):
                total[(slice(None), slice(None), *box)].addcmul_(answer.to(stitch_on, torch.float32), weight)
                weight_sum[(slice(None), *box)] += weight
        done = following - row
        finished = total[:, :done] / weight_sum[:done]
        yield finished[crop] if any(low + high) else finished
        for blended in (total.transpose(0, 1), weight_sum):
            kept = blended[done:].clone()
            blended[: window[0] - done] = kept
            blended[window[0] - done :] = 0


def sliding_window(image: Tensor, predict: Callable[[Tensor], Tensor], **options: Any) -> Tensor:
    """(num_outputs, I, J, K): the slabs of `sliding_slabs`, which has the same options, in one piece."""
    return torch.cat(list(sliding_slabs(image, predict, **options)), dim=1)


def count_windows(shape: Sequence[int], window: Shape, overlap: float) -> int:
    """How many windows `sliding_window` runs for an image of this shape."""
    padded = [max(size, length) for size, length in zip(window, shape, strict=True)]
    return len(list(product(*_starts(padded, window, overlap))))


def gaussian(window: Shape) -> Tensor:
    """(I, J, K) float32: separable, 1 at the centre, never below a thousandth."""
    lines = [
        torch.exp(-0.5 * ((torch.arange(size) - (size - 1) / 2) / max(size * _SIGMA, 1e-3)) ** 2) for size in window
    ]
    weight = lines[0][:, None, None] * lines[1][None, :, None] * lines[2][None, None, :]
    return weight.clamp(min=_FLOOR)


def _starts(shape: Sequence[int], window: Shape, overlap: float) -> list[list[int]]:
    """First voxels of the windows along each axis: the fewest that overlap enough, evenly spread."""
    result = []
    for length, size in zip(shape, window, strict=True):
        step = max(1, int(size * (1 - overlap)))
        count = -(-(length - size) // step) + 1
        result.append([round(n * (length - size) / max(count - 1, 1)) for n in range(count)])
    return result


def _box(start: Sequence[int], size: Sequence[int]) -> tuple[slice, slice, slice]:
    i, j, k = (slice(first, first + length) for first, length in zip(start, size, strict=True))
    return (i, j, k)
