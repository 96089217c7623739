"""Which class wins at every voxel of a finer grid, by weights only where it is in doubt.

Linear interpolation is the same mean of the samples around for every class. So the class that wins at all of them wins
between them too, and only among samples with different winners are classes interpolated and compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from medseg.ops.lines import corners, settled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.ops.lines import Line

# What the processor's cache holds beside the rest; other devices take so many times more at once.
_CHUNK_BYTES, _ELSEWHERE = 2 * 2**20, 64


class Winners:
    """Index of the largest interpolated logit, of equals the lowest; with a paint order the last region above zero.

    Slab after slab along the first axis: the samples that two slabs share are compared once.

    Args:
        paint_order: Index that each region paints.
    """

    def __init__(self, paint_order: Sequence[int] = ()) -> None:
        self._paints = torch.tensor([0, *paint_order], dtype=torch.uint8) if paint_order else None
        self._known = torch.empty(0, dtype=torch.uint8)
        self._stop = 0

    def between(self, logits: Tensor, lines: Sequence[Line], *, start: int = 0) -> Tensor:
        """uint8, as long as the lines.

        Args:
            logits: (K, I, J, K), background first, or one channel per region; no slab begins before the last one.
            lines: How each axis is interpolated.
            start: Row of the whole with which the slab begins.
        """
        chunk = _CHUNK_BYTES if logits.device.type == "cpu" else _ELSEWHERE * _CHUNK_BYTES
        many = max(1, chunk // (4 * len(logits)))
        voxels = _side_by_side(logits, many)
        at_samples = self._at_samples(voxels.view(*logits.shape[1:], -1), start, many)
        i, j, k = (len(line.near) for line in lines)
        result = torch.empty((i, j, k), dtype=torch.uint8, device=logits.device)
        rows = max(1, chunk // (4 * j * k))
        for first in range(0, i, rows):
            part = slice(first, first + rows)
            near = [lines[0].part(part), *lines[1:]]
            result[part], mixed = settled(at_samples, near)
            for at in torch.split(mixed.nonzero(), many):
                numbers, shares = corners(near, at, at_samples.shape)
                scores = functional.embedding_bag(numbers, voxels, per_sample_weights=shares, mode="sum")
                result[part][tuple(at.T)] = self._best(scores)
        return result

    def _at_samples(self, voxels: Tensor, start: int, many: int) -> Tensor:
        """(I, J, K) the winner at every sample, of which the last slab knew the first ones."""
        shared = max(self._stop - start, 0)
        found = [self._best(part) for part in torch.split(voxels[shared:].flatten(0, -2), many)]
        best = torch.cat(found).view(len(voxels) - shared, *voxels.shape[1:-1])
        self._known = torch.cat([self._known[len(self._known) - shared :], best]) if shared else best
        self._stop = start + len(voxels)
        return self._known

    def _best(self, scores: Tensor) -> Tensor:
        """Of (N, K)."""
        if self._paints is not None:
            ranks = torch.arange(1, len(self._paints), dtype=torch.uint8, device=scores.device)
            return self._paints.to(scores.device)[((scores > 0) * ranks).amax(1).long()]
        if scores.device.type == "cpu":
            return torch.from_numpy(scores.numpy().argmax(1)).to(torch.uint8)  # several times as fast as torch's
        return scores.argmax(1).to(torch.uint8)


def _side_by_side(logits: Tensor, many: int) -> Tensor:
    """(K, ...) as (voxels, K) float32, a view where those of a voxel are neighbours in memory."""
    flat = logits.flatten(1).T
    if flat.stride(1) == 1:
        return flat.float()
    result = flat.new_empty(flat.shape, dtype=torch.float32)
    for part, copy in zip(torch.split(flat, many), torch.split(result, many), strict=True):
        copy.copy_(part)  # all at once it would take twice as long
    return result
