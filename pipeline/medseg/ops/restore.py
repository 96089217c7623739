"""The network's answer back onto the volume's grid: the inverse of `medseg.ops.prepare.to_network`.

It needs no record of what preparation did: both grids have parallel axes, so the affine between them holds the
permutation, the flips, the crop and the scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from medseg.core.errors import GeometryError
from medseg.ops.lines import LINEAR, NEAREST, Line, sample
from medseg.ops.prepare import slice_axis
from medseg.ops.winners import Winners

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from medseg.core.geometry import Shape
    from medseg.ops.prepare import Prepared

_SLAB_BYTES = 64 * 2**20
# Of the logits that one slab needs, all classes together.
_LOGIT_BYTES = 32 * 2**20
_LEAST_CHUNK_BYTES = 2 * 2**20


class ProbabilitySink(Protocol):
    """Takes the probabilities as they are made, one class of one slab at a time."""

    def begin(self, chunk: Shape) -> None:
        """Forget what came before; blocks of this shape follow, cut short at the far border."""

    def write(self, channel: int, start: Shape, block: NDArray[np.float16]) -> None:
        """Take (i, j, k) probabilities of one class from voxel `start` of the source on."""


def to_source(
    logits: Iterable[Tensor],
    prepared: Prepared,
    *,
    paint_order: Sequence[int] = (),
    probabilities: ProbabilitySink | None = None,
) -> NDArray[np.uint8]:
    """Logits on the network grid to network indices on the source's grid.

    Interpolated linearly and compared class by class, slab by slab, as the slabs arrive: neither grid ever holds all
    classes at once. Voxels outside the crop are background.

    Args:
        logits: Consecutive (K, rows, J, K) along the first axis of the network grid, together the whole of it; one
            channel per class, background first, or one per overlapping region.
        prepared: The case, as `to_network` made it.
        paint_order: `Plan.paint_order`: with regions, the index that each paints where its logit is above zero.
        probabilities: Takes the softmax of the interpolated logits, certain background outside the crop; of regions, a
            sigmoid each and no background.
    """
    arriving = _Arriving(logits)
    mapping = _GridMapping(prepared, arriving.bytes_per_row, everywhere=probabilities is not None)
    result = np.zeros(mapping.shape, dtype=np.uint8)
    if probabilities is not None:
        inside = mapping.inside()
        probabilities.begin(mapping.source_triple((mapping.rows_per_slab, *mapping.shape[1:])))
    winners = Winners(paint_order)
    for rows, support, lines in mapping.slabs():
        part = arriving.rows(support)
        result[(rows, *mapping.columns)] = winners.between(part, lines, start=support.start).cpu().numpy()
        if probabilities is not None:
            scores = _Scores(part.contiguous(), lines)
            start = mapping.source_triple((rows.start, 0, 0))
            for channel, share in enumerate(_sigmoids(scores) if paint_order else _softmax(scores)):
                block = share.half().numpy()
                block[~inside[rows]] = channel == 0 and not paint_order
                probabilities.write(channel, start, mapping.to_source_axes(block))
        del part  # else it would be held while the next is made
    arriving.finish()
    if probabilities is not None:
        result[~inside] = 0
    return mapping.to_source_axes(result)


def _softmax(scores: _Scores) -> Iterator[Tensor]:
    """Class by class, from two passes over the scores, so that they are never all in memory."""
    total = torch.tensor(-torch.inf)
    for score in scores:
        total = torch.logaddexp(total, score.float())
    for score in scores:
        yield torch.exp(score.float() - total)


def _sigmoids(scores: _Scores) -> Iterator[Tensor]:
    yield from (torch.sigmoid(score.float()) for score in scores)


class _Scores:
    """One slab of one class after the other, (rows, J, K), interpolated anew at each pass."""

    def __init__(self, logits: Tensor, lines: Sequence[Line]) -> None:
        self._logits, self._lines = logits, lines

    def __iter__(self) -> Iterator[Tensor]:
        for channel in self._logits:
            yield self._slab(channel, self._lines)

    @staticmethod
    def _slab(channel: Tensor, lines: Sequence[Line]) -> Tensor:
        return sample(channel.float(), lines).cpu()


class _Arriving:
    """Consecutive (K, rows, J, K) that arrive one after the other, of which some rows are wanted at a time.

    What lies in one part is a view of it; of a part that was left behind only the rows still wanted are kept.
    """

    def __init__(self, parts: Iterable[Tensor]) -> None:
        self._coming = iter(parts)
        self._held = [next(self._coming)]
        self._first = 0
        self.bytes_per_row = self._held[0][:, 0].numel() * self._held[0].element_size()

    def rows(self, wanted: slice) -> Tensor:
        """Rows of the whole; none before them is asked for later."""
        self._forget(wanted.start)
        while self._first + sum(part.shape[1] for part in self._held) < wanted.stop:
            if self._held and wanted.start > self._first:  # a copy, so that the rest of the part can go
                self._held[0] = _joined([self._held[0][:, wanted.start - self._first :]])
                self._first = wanted.start
            self._held.append(next(self._coming))
            self._forget(wanted.start)
        found, first = [], self._first
        for part in self._held:
            found.append(part[:, max(wanted.start - first, 0) : max(wanted.stop - first, 0)])
            first += part.shape[1]
        found = [part for part in found if part.shape[1]]
        return found[0] if len(found) == 1 else _joined(found)

    def _forget(self, start: int) -> None:
        """Let go of the parts that lie before a row."""
        while self._held and self._first + self._held[0].shape[1] <= start:
            self._first += self._held.pop(0).shape[1]

    def finish(self) -> None:
        """Ask for the rest: whoever makes the parts may count on being asked for all."""
        self._held.clear()
        for _ in self._coming:
            pass


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One after the other along the rows, laid out in memory as they are."""
    if parts[0].stride(0) == 1:
        return torch.cat([part.movedim(0, -1) for part in parts]).movedim(-1, 0)
    return torch.cat(list(parts), dim=1)


def _extent(line: NDArray[np.bool_]) -> slice:
    """From the first true to the last; empty when none is."""
    found = np.flatnonzero(line)
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


class _GridMapping:
    """Interpolation from the network grid to a source grid with parallel axes, in slabs: linear, or nearest slices.

    Work happens on the source grid with its axes in network order; `to_source_axes` puts them back. Only the part that
    the network grid covers is interpolated, unless `everywhere`.

    Args:
        prepared: The case.
        bytes_per_row: Of the logits, one row of the network grid.
        everywhere: All of the source is asked for, to be kept in chunks, which should not be tiny.
    """

    def __init__(self, prepared: Prepared, bytes_per_row: int, *, everywhere: bool) -> None:
        network, source = prepared.geometry, prepared.source
        matrix = np.linalg.inv(network.affine) @ source.affine
        self.order = [int(axis) for axis in np.abs(matrix[:3, :3]).argmax(axis=1)]
        scales = matrix[range(3), self.order]
        residue = np.abs(matrix[:3, :3]).sum(axis=1) - np.abs(scales)
        if sorted(self.order) != [0, 1, 2] or (residue * np.asarray(source.shape)[self.order]).max() > 0.01:
            raise GeometryError(
                f"the network grid ({network.describe()}) is not parallel to the source's ({source.describe()})",
                code="E-GRID-MISMATCH",
            )
        self.shape = tuple(source.shape[axis] for axis in self.order)
        positions = [
            scale * np.arange(size) + offset
            for scale, offset, size in zip(scales, matrix[:3, 3], self.shape, strict=True)
        ]
        i, j, k = (source.spacing_mm[axis] for axis in self.order)
        nearest = slice_axis(prepared.slices_mm, (i, j, k)) if prepared.slices_mm else None
        # Half a voxel beyond the last centre is still inside the network grid.
        self.covered = [
            (line > -0.5 - 1e-3) & (line < size - 0.5 + 1e-3)
            for line, size in zip(positions, network.shape, strict=True)
        ]
        self.rows, *self.columns = (slice(0, len(line)) if everywhere else _extent(line) for line in self.covered)
        self.lines = [
            Line.through(line[part], size, NEAREST if axis == nearest else LINEAR)
            for axis, (line, part, size) in enumerate(
                zip(positions, (self.rows, *self.columns), network.shape, strict=True)
            )
        ]
        area = self.shape[1] * self.shape[2]
        needed = self.lines[0].support
        per_row = bytes_per_row * (needed.stop - needed.start) / max(1, self.rows.stop - self.rows.start)
        least = _LEAST_CHUNK_BYTES // (2 * area) if everywhere else 1
        most = min(_SLAB_BYTES // (4 * area), max(int(_LOGIT_BYTES / per_row), least))
        self.rows_per_slab = min(self.shape[0], max(1, most))

    def inside(self) -> NDArray[np.bool_]:
        """Which voxels of the source the network grid covers."""
        i, j, k = self.covered
        return np.asarray(i[:, None, None] & j[None, :, None] & k[None, None, :])

    def slabs(self) -> list[tuple[slice, slice, list[Line]]]:
        """Rows of the source, the rows of the network grid that they need, and how these are interpolated.

        In the order in which these arrive.
        """
        found = []
        for start in range(self.rows.start, self.rows.stop, self.rows_per_slab):
            rows = slice(start, min(start + self.rows_per_slab, self.rows.stop))
            line = self.lines[0].part(slice(rows.start - self.rows.start, rows.stop - self.rows.start))
            found.append((rows, line.support, [line.based(), *self.lines[1:]]))
        return sorted(found, key=lambda slab: slab[1].stop)

    def source_triple(self, numbers: Sequence[int]) -> Shape:
        """Numbers along the axes of the network, in the order of the source's axes."""
        i, j, k = (int(numbers[axis]) for axis in np.argsort(self.order))
        return i, j, k

    def to_source_axes(self, array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array.transpose(np.argsort(self.order)))
