"""Region of interest first: one pass without overlap says where something is; the rest is background.

The coarse pass runs the network at the scale that it knows, not on a shrunken copy, which it was never taught.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medseg.core.prediction import Region

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from medseg.core.geometry import Box, Geometry, Shape
    from medseg.ops.prepare import Prepared
    from medseg.ops.sliding import WindowGrid

# In logits below the decision: a voxel counts from a probability of about 0.1 on, where the answer is unsure.
_BENEFIT_OF_DOUBT = 2.0


def foreground_box(slabs: Iterable[Tensor], *, lead: int, regions: bool) -> Box | None:
    """First and one past the last voxel where anything but background may be; None when there is none.

    Args:
        slabs: Consecutive (K, rows, J, K) of logits, from the first row on, with the leading axis first.
        lead: Which axis of the image that is.
        regions: Whether outputs are overlapping regions, without a background of their own.
    """
    row = 0
    starts, stops = np.full(3, np.iinfo(int).max), np.zeros(3, dtype=int)
    for logits in slabs:
        rival: Tensor | float = 0.0 if regions else logits[0]
        found = (logits if regions else logits[1:]).amax(0) > rival - _BENEFIT_OF_DOUBT
        if bool(found.any()):
            plane = found.any(2)
            for axis, line in enumerate((plane.any(1), plane.any(0), found.any(0).any(0))):
                hits = line.nonzero().flatten() + (row if axis == 0 else 0)
                starts[axis], stops[axis] = min(starts[axis], int(hits[0])), max(stops[axis], int(hits[-1]) + 1)
        row += logits.shape[1]
    if not stops.any():
        return None
    order = np.argsort([lead, *(axis for axis in range(3) if axis != lead)])
    return _triple(starts[order]), _triple(stops[order])


def widened(box: Box, geometry: Geometry, margin_mm: float) -> Box:
    """The box with a margin on all sides, inside the grid."""
    margin = np.ceil(margin_mm / np.asarray(geometry.spacing_mm)).astype(int)
    start, stop = np.asarray(box[0]) - margin, np.asarray(box[1]) + margin
    return _triple(np.maximum(start, 0)), _triple(np.minimum(stop, geometry.shape))


def region_of(
    prepared: Prepared, coarse: WindowGrid, full: WindowGrid, fine: WindowGrid, *, found: bool, members: int = 1
) -> Region:
    """What the record says of it.

    Args:
        prepared: The case.
        coarse: Windows of the first pass.
        full: Windows of a run without a region.
        fine: Those of them that touch the region.
        found: Whether the first pass found anything.
        members: Networks that run each window.
    """
    start, stop = (np.asarray(corner) for corner in fine.box)
    # Faces of the box, half a voxel before its first centre, to voxels of the source whose centre lies inside.
    faces = prepared.source.to_index(prepared.geometry.to_world([start - 0.5, stop - 0.5]))
    low, high = np.ceil(faces.min(axis=0) - 1e-3), np.ceil(faces.max(axis=0) - 1e-3)
    size = prepared.source.shape
    return Region(
        found=found,
        start=_triple(np.clip(low, 0, size)),
        stop=_triple(np.clip(high, 0, size)),
        coarse_windows=coarse.count * members,
        left_out_windows=(full.count - fine.count) * members,
    )


def _triple(values: Sequence[float] | np.ndarray) -> Shape:
    i, j, k = (int(value) for value in values)
    return i, j, k
