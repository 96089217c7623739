"""The network's answer back onto the volume's grid: the inverse of `medseg.ops.prepare.to_network`.

It needs no record of what preparation did: both grids have parallel axes, so the affine between them holds the
permutation, the flips, the crop and the scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medseg.core.errors import GeometryError
from medseg.ops.prepare import slice_axis
from medseg.ops.resample import LINEAR, NEAREST, along_axis, interpolation_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from medseg.ops.prepare import Prepared

_SLAB_BYTES = 64 * 2**20


def to_source(logits: Iterable[Tensor], prepared: Prepared, *, paint_order: Sequence[int] = ()) -> NDArray[np.uint8]:
    """Logits on the network grid to network indices on the source's grid.

    Interpolated linearly and compared class by class, slab by slab, as the slabs arrive: neither grid ever holds all
    classes at once. Voxels outside the crop are background.

    Args:
        logits: Consecutive (K, rows, J, K) along the first axis of the network grid, together the whole of it; one
            channel per class, background first, or one per overlapping region.
        prepared: The case, as `to_network` made it.
        paint_order: `Plan.paint_order`: with regions, the index that each paints where its logit is above zero.
    """
    mapping = _GridMapping(prepared)
    result = np.zeros(mapping.shape, dtype=np.uint8)
    for slab, scores in mapping.slabs(logits):
        result[slab] = (_painted(scores, paint_order) if paint_order else _winner(scores)).numpy()
    result[~mapping.inside] = 0
    return mapping.to_source_axes(result)


def probabilities_to_source(
    logits: Iterable[Tensor], prepared: Prepared, *, num_outputs: int, regions: bool = False
) -> NDArray[np.float16]:
    """Softmax of the interpolated logits, (K, I, J, K) on the source's grid; certain background outside the crop.

    Overlapping regions have a sigmoid each, and no background.
    """
    mapping = _GridMapping(prepared)
    result = np.zeros((num_outputs, *mapping.shape), dtype=np.float16)
    for slab, scores in mapping.slabs(logits):
        stacked = torch.stack(list(scores))
        shares = torch.sigmoid(stacked) if regions else torch.softmax(stacked, dim=0)
        result[(slice(None), *slab)] = shares.half().numpy()
    result[:, ~mapping.inside] = 0
    if not regions:
        result[0][~mapping.inside] = 1
    return np.stack([mapping.to_source_axes(channel) for channel in result])


def _winner(scores: Iterator[Tensor]) -> Tensor:
    best = next(scores)
    winner = torch.zeros(best.shape, dtype=torch.uint8)
    for index, score in enumerate(scores, start=1):
        wins = score > best
        winner[wins] = index
        best = torch.maximum(best, score)
    return winner


def _painted(scores: Iterator[Tensor], paint_order: Sequence[int]) -> Tensor:
    painted = torch.zeros((), dtype=torch.uint8)
    for index, score in zip(paint_order, scores, strict=True):
        painted = torch.where(score > 0, torch.tensor(index, dtype=torch.uint8), painted)
    return painted


class _GridMapping:
    """Interpolation from the network grid to a source grid with parallel axes, in slabs: linear, or nearest slices.

    Work happens on the source grid with its axes in network order; `to_source_axes` puts them back.
    """

    def __init__(self, prepared: Prepared) -> None:
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
        self.matrices = [
            torch.from_numpy(interpolation_matrix(line, size, NEAREST if axis == nearest else LINEAR))
            for axis, (line, size) in enumerate(zip(positions, network.shape, strict=True))
        ]
        # Half a voxel beyond the last centre is still inside the network grid.
        covered = [
            (line > -0.5 - 1e-3) & (line < size - 0.5 + 1e-3)
            for line, size in zip(positions, network.shape, strict=True)
        ]
        self.inside = covered[0][:, None, None] & covered[1][None, :, None] & covered[2][None, None, :]

    def slabs(self, parts: Iterable[Tensor]) -> Iterator[tuple[tuple[slice], Iterator[Tensor]]]:
        """Yield (slab of the first axis, iterator of one (rows, J, K) float32 per class) as soon as it can be made."""
        arriving = iter(parts)
        held = next(arriving)
        first = 0
        matrices = [matrix.to(held.device) for matrix in self.matrices]
        for rows, support in self._slabs_by_support():
            while first + held.shape[1] < support.stop:
                keep = max(support.start - first, 0)
                held = torch.cat([held[:, keep:], next(arriving)], dim=1)
                first += keep
            needed = slice(support.start - first, support.stop - first)
            yield (rows,), (self._slab(channel[needed], rows, support, matrices) for channel in held)

    def _slabs_by_support(self) -> list[tuple[slice, slice]]:
        """Rows of the source, and the rows of the network grid that they need, in the order in which these arrive."""
        rows_per_slab = max(1, _SLAB_BYTES // (4 * self.shape[1] * self.shape[2]))
        found = []
        for start in range(0, self.shape[0], rows_per_slab):
            rows = slice(start, min(start + rows_per_slab, self.shape[0]))
            used = self.matrices[0][rows].any(dim=0).nonzero().flatten()
            found.append((rows, slice(int(used[0]), int(used[-1]) + 1)))
        return sorted(found, key=lambda pair: pair[1].stop)

    @staticmethod
    def _slab(channel: Tensor, rows: slice, support: slice, matrices: list[Tensor]) -> Tensor:
        slab = along_axis(channel.float(), matrices[0][rows, support], 0)
        return along_axis(along_axis(slab, matrices[1], 1), matrices[2], 2).cpu()

    def to_source_axes(self, array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array.transpose(np.argsort(self.order)))
