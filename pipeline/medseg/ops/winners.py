"""Which class wins at every voxel of a finer grid, without interpolating what cannot win.

Linear interpolation never leaves the range of the values that it mixes. So a class can only win where one of the voxels
around is better than the background (a region: above zero): outside the box of these voxels it is not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medseg.ops.resample import sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medseg.ops.resample import Line

    Place = tuple[slice, slice, slice]

# What the processor's cache holds of one class.
_CHUNK_BYTES = 2 * 2**20


def winners(logits: Tensor, lines: Sequence[Line], *, paint_order: Sequence[int] = ()) -> Tensor:
    """Index of the largest interpolated logit, of equals the lowest; with `paint_order` the last region above zero.

    Args:
        logits: (K, I, J, K), background first, or one channel per region.
        lines: How each axis is interpolated.
        paint_order: Index that each region paints.

    Returns:
        uint8, as long as the lines.
    """
    i, j, k = (len(line.near) for line in lines)
    result = torch.zeros((i, j, k), dtype=torch.uint8, device=logits.device)
    indices, rivals = (paint_order, logits) if paint_order else (range(1, len(logits)), logits[1:])
    floor: Tensor | float = 0.0 if paint_order else logits[0]
    places = [
        (index, channel, place)
        for index, channel, place in zip(indices, rivals, _reaches(rivals, floor, lines), strict=True)
        if place
    ]
    rows = i if logits.is_cuda else max(1, _CHUNK_BYTES // (4 * j * k))
    for first in range(0, i, rows):
        near = [
            (index, channel, (slice(max(p[0].start, first), min(p[0].stop, first + rows)), *p[1:]))
            for index, channel, p in places
            if p[0].start < first + rows and p[0].stop > first
        ]
        if paint_order:
            for index, channel, place in near:
                result[place].masked_fill_(sample(channel, _cut(lines, place)) > 0, index)
        elif near:
            _compete(logits[0], near, lines, result)
    return result


def _compete(
    background: Tensor, rivals: Sequence[tuple[int, Tensor, Place]], lines: Sequence[Line], out: Tensor
) -> None:
    """Enter the winners of some rows."""
    around = [
        slice(min(place[axis].start for *_, place in rivals), max(place[axis].stop for *_, place in rivals))
        for axis in range(3)
    ]
    best = sample(background, _cut(lines, around)).clone()
    for index, channel, place in rivals:
        score = sample(channel, _cut(lines, place))
        inner = tuple(slice(p.start - a.start, p.stop - a.start) for p, a in zip(place, around, strict=True))
        out[place].masked_fill_(score > best[inner], index)
        torch.maximum(best[inner], score, out=best[inner])


def _reaches(rivals: Tensor, floor: Tensor | float, lines: Sequence[Line]) -> Iterator[Place | None]:
    """Where on the finer grid the voxels in which each (N, I, J, K) rival is above the floor have any weight."""
    if rivals.stride(0) != 1:
        for channel in rivals:
            found = channel > floor
            plane = found.any(2)
            yield _reach((plane.any(1), plane.any(0), found.any(0).any(0)), lines)
        return
    # The channels of a voxel lie side by side: all at once, as numbers, whose maximum is found faster than a truth.
    above = (rivals > floor).movedim(0, -1).view(torch.uint8)
    across = above.amax(0)
    hits = [line.T > 0 for line in (above.amax(1).amax(1), across.amax(1), across.amax(0))]
    for channel, is_somewhere in enumerate(hits[0].any(1).tolist()):
        yield _reach([line[channel] for line in hits], lines) if is_somewhere else None


def _reach(found: Sequence[Tensor], lines: Sequence[Line]) -> Place | None:
    """Where on the finer grid samples have any weight that were found (bool) along each axis."""
    place = []
    for line, hits in zip(lines, found, strict=True):
        where = hits.nonzero().flatten()
        part = line.touching(int(where[0]), int(where[-1])) if len(where) else slice(0, 0)
        if part.start == part.stop:
            return None
        place.append(part)
    i, j, k = place
    return i, j, k


def _cut(lines: Sequence[Line], place: Sequence[slice]) -> list[Line]:
    return [line.part(rows) for line, rows in zip(lines, place, strict=True)]
