"""Taking stray parts out of a mask: what the network invents far from an organ, or too small to be one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.answering import Cleanup

_TOUCHING = np.ones((3, 3, 3))  # by a face, an edge or a corner


def cleaned(
    mask: NDArray[Any], labels: Mapping[str, int], rules: Mapping[str, Cleanup], *, voxel_volume_mm3: float
) -> NDArray[Any]:
    """The mask without the parts that the rules take away; the same array when there are none.

    Args:
        mask: (I, J, K) label values on the image's grid.
        labels: Name to value.
        rules: By name; the largest of several equal parts is the first in array order.
        voxel_volume_mm3: Of that grid.
    """
    wanted = {labels[name]: rule for name, rule in rules.items() if name in labels and rule != Cleanup()}
    if not wanted:
        return mask
    result = mask
    boxes: list[tuple[slice, ...] | None] = [*ndimage.find_objects(mask, max_label=max(wanted))]
    for value, rule in wanted.items():
        box = boxes[value - 1]
        if box is None:
            continue
        stray = _stray(mask[box] == value, rule, voxel_volume_mm3)
        if stray is not None:
            result = mask.copy() if result is mask else result
            result[box][stray] = 0
    return result


def _stray(part: NDArray[np.bool_], rule: Cleanup, voxel_volume_mm3: float) -> NDArray[np.bool_] | None:
    """Voxels to take away; None when there are none."""
    numbers = np.zeros(part.shape, np.int32)
    count = int(ndimage.label(part, structure=_TOUCHING, output=numbers))
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    # a volume that is a whole number of voxels must not be lost to rounding
    away = sizes < np.ceil(rule.min_volume_ml * 1000 / voxel_volume_mm3 - 1e-9)
    if rule.keep_largest:
        away |= np.arange(count + 1) != 1 + sizes[1:].argmax()
    away[0] = False
    return np.asarray(away[numbers], dtype=np.bool_) if away.any() else None
