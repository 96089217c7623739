"""Where the patient is in an image, coarsely: enough to see that a mask lies beside them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.volume import LabelMap, Volume
from medseg.data.contents import holds_air

_BODY_HU = -500
_COARSE = 96
_MOST_POINTS = 50_000
_BACKGROUND_SHARE = 0.2


def share_outside(image: Volume, labels: LabelMap) -> float:
    """Share of the labelled voxels that lie outside the patient; 0 when the image does not tell.

    In an image with air as in CT, the patient is what exceeds -500 HU, the air inside included. Elsewhere only a
    constant surrounding (one value in at least a fifth of the voxels) counts as outside.

    Args:
        image: Its first channel is looked at.
        labels: On its grid, with at least one label.
    """
    channel = image.array[0]
    steps = [math.ceil(size / _COARSE) for size in channel.shape]
    coarse = channel[tuple(slice(None, None, step) for step in steps)]
    points = np.argwhere(labels.array)[:: max(1, int(np.count_nonzero(labels.array)) // _MOST_POINTS)]
    if holds_air(channel):
        at = tuple((points // steps).T)
        return float(1 - _body(coarse, labels.geometry.canonical_axes()[0][2])[at].mean())
    values, counts = np.unique(coarse, return_counts=True)
    if counts.max() < _BACKGROUND_SHARE * coarse.size:
        return 0.0
    return float(np.mean(channel[tuple(points.T)] == values[counts.argmax()]))


def _body(coarse: NDArray[Any], axial: int) -> NDArray[np.bool_]:
    """The patient with lungs and bowel: holes are filled in every axial slice."""
    dense = np.moveaxis(coarse > _BODY_HU, axial, 0)
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in dense])
    return np.moveaxis(ndimage.binary_dilation(filled), 0, axial)
