"""Where a structure lies: what it touches, and on which side of the patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.sides import left_right_pairs

if TYPE_CHECKING:
    from medseg.core.geometry import Geometry
    from medseg.core.measurements import Side, SideBasis

_AIR_HU = -300.0
_MOSTLY = 2 / 3
_SAMPLES_PER_AXIS = 64


@dataclass(frozen=True)
class Midline:
    """The sagittal plane between the patient's left and right.

    Attributes:
        x_mm: Where it runs, RAS+.
        basis: What told it.
    """

    x_mm: float
    basis: SideBasis

    def side_of(self, points_mm: NDArray[np.float64]) -> Side:
        """The side that holds at least two thirds of (N, 3) points; `midline` when neither does."""
        right = float(np.mean(points_mm[:, 0] > self.x_mm))
        return "right" if right >= _MOSTLY else "left" if right <= 1 - _MOSTLY else "midline"


def find_midline(
    centres_mm: Mapping[str, NDArray[np.float64]], image: NDArray[Any] | None, geometry: Geometry
) -> Midline | None:
    """Halfway between paired labels; without any, the middle of the body in the image; None when nothing tells.

    Args:
        centres_mm: Label to its centre of gravity, RAS+; absent labels left out.
        image: (I, J, K) or None. The body is what is brighter than -300 where the image holds values below it (CT in
            HU), and brighter than a tenth of the 99th percentile otherwise.
        geometry: The image's grid.
    """
    pairs = left_right_pairs(list(centres_mm))
    if pairs:
        middles = [(centres_mm[left][0] + centres_mm[right][0]) / 2 for left, right in pairs]
        return Midline(float(np.median(middles)), "paired labels")
    if image is None:
        return None
    steps = [max(1, size // _SAMPLES_PER_AXIS) for size in geometry.shape]
    sample = image[tuple(slice(None, None, step) for step in steps)].astype(np.float64)
    threshold = _AIR_HU if sample.min() < _AIR_HU else 0.1 * float(np.percentile(sample, 99))
    body = np.argwhere(sample > threshold)
    if not 0 < len(body) < sample.size:
        return None
    return Midline(float(geometry.to_world(body * steps)[:, 0].mean()), "image")


def contacts_mm2(labels: NDArray[Any], part: NDArray[np.bool_], geometry: Geometry) -> dict[int, float]:
    """Label value to the area of voxel faces that it shares with a part of the mask, the largest first.

    Args:
        labels: (I, J, K), 0 is background.
        part: The same shape.
        geometry: Their grid.
    """
    areas: dict[int, float] = {}
    before, after = slice(None, -1), slice(1, None)
    for axis in range(3):
        one, other = np.delete(geometry.affine[:3, :3], axis, axis=1).T
        face_mm2 = float(np.linalg.norm(np.cross(one, other)))
        turned, inside = np.moveaxis(labels, axis, 0), np.moveaxis(part, axis, 0)
        for here, there in ((before, after), (after, before)):
            neighbours = turned[there][inside[here] & ~inside[there]]
            for value, count in zip(*np.unique(neighbours, return_counts=True), strict=True):
                areas[int(value)] = areas.get(int(value), 0.0) + float(count) * face_mm2
    areas.pop(0, None)
    return dict(sorted(areas.items(), key=lambda item: -item[1]))
