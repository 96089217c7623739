"""A slice unlike its neighbours: what damage in compressed pixels looks like where no checksum tells."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FEWEST = 5
_EVERY = 4  # pixel, in both directions: enough to see a slice by
_BEYOND_NEIGHBOURS = 2.0
_BEYOND_USUAL = 4.0


def strange_slices(values: NDArray[Any]) -> tuple[str, ...]:
    """`W-SLICE` when a slice differs from the mean of its neighbours far more than they do from one another.

    The mean absolute difference must exceed twice that between the neighbours, and four times the usual one of the
    series: an organ's end changes a slice and both of its sides, damage or a foreign slice changes one alone.

    Args:
        values: (K, rows, columns).
    """
    if len(values) < _FEWEST:
        return ()
    seen = values[:, ::_EVERY, ::_EVERY].astype(np.float32)
    apart = np.abs(seen[1:-1] - (seen[:-2] + seen[2:]) / 2).mean(axis=(1, 2))
    between = np.abs(seen[2:] - seen[:-2]).mean(axis=(1, 2))
    is_strange = (apart > _BEYOND_NEIGHBOURS * between) & (apart > _BEYOND_USUAL * np.median(apart))
    return ("W-SLICE",) if is_strange.any() else ()
