"""Small pictures of patches for TensorBoard, drawn with arrays alone: reference on the left, answer on the right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medseg.core.plan import IGNORE_INDEX

if TYPE_CHECKING:
    from torch import Tensor

_MOST = 4
_SIDE_PX = 192
_GAP_PX = 4
_COLOURS = np.array([(86, 180, 233), (230, 159, 0), (224, 127, 184), (44, 194, 160), (240, 228, 66), (242, 112, 63)])


def mosaic(image: Tensor, reference: Tensor, answer: Tensor) -> NDArray[np.uint8]:
    """(rows, columns, 3): a row for each of the first samples, one slice of it with the outlines of both masks.

    Args:
        image: (B, C, I, J, K); the first channel is shown, from its 0.5th to its 99.5th percentile.
        reference: (B, I, J, K) network indices.
        answer: (B, I, J, K) network indices.
    """
    rows = []
    for grey, truth, found in zip(image[:_MOST, 0], reference[:_MOST], answer[:_MOST], strict=True):
        values, masks = grey.float().cpu().numpy(), [mask.cpu().numpy().astype(np.int64) for mask in (truth, found)]
        masks[0] = np.where(masks[0] == IGNORE_INDEX, 0, masks[0])
        shown = _telling(masks)
        low, high = np.nanpercentile(values, (0.5, 99.5))
        unit = np.nan_to_num((values[..., shown] - low) / max(high - low, 1e-6)).clip(0, 1)
        tiles = [_tile(unit, mask[..., shown]) for mask in masks]
        gap = np.zeros((tiles[0].shape[0], _GAP_PX, 3), np.uint8)
        rows += [np.concatenate([tiles[0], gap, tiles[1]], axis=1)]
        rows += [np.zeros((_GAP_PX, rows[-1].shape[1], 3), np.uint8)]
    return np.concatenate(rows[:-1], axis=0)


def _telling(masks: list[NDArray[np.int64]]) -> int:
    """The slice along the last axis with most of any label; the middle without any."""
    counts = sum((mask > 0).sum((0, 1)) for mask in masks)
    return int(np.argmax(counts)) if np.any(counts) else masks[0].shape[2] // 2


def _tile(unit: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(I, J) in [0, 1] and labels to an enlarged picture: the patient's right on the left, front at the top."""
    times = max(1, _SIDE_PX // max(unit.shape))
    grey, labels = (np.kron(array.T[::-1], np.ones((times, times), array.dtype)) for array in (unit, mask))
    picture = np.repeat((grey * 255).astype(np.uint8)[..., None], 3, axis=2)
    padded = np.pad(labels, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    border = (labels > 0) & np.logical_or.reduce([labels != other for other in neighbours])
    picture[border] = _COLOURS[(labels[border] - 1) % len(_COLOURS)]
    return picture
