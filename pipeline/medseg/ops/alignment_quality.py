"""How well an alignment brings two examinations together, and whether it can be right at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.followup import AlignmentQuality
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.ops.alignment import Alignment, Points, covers

WORKING_MM = 2.0
_MOST_POINTS = 60_000
_NUM_BINS = 32
_AIR_HU, _BODY_HU = -500.0, -300.0

# What two examinations of one patient can plausibly need; beyond it the optimiser was lost.
_MOST_ROTATION_DEGREES = 45.0
_MOST_STRETCH = 1.25
_MOST_SHIFT_MM = 40.0
_LEAST_BODY_DICE = 0.5
_MOST_LOSS = 0.02


@dataclass(frozen=True, eq=False)
class Reduced:
    """One examination at about 2 mm.

    Attributes:
        array: (I, J, K) grey values, clipped to those of the body.
        body: (I, J, K) where the patient is.
        geometry: Grid of both.
    """

    array: NDArray[np.float32]
    body: NDArray[np.bool_]
    geometry: Geometry

    @property
    def centre_mm(self) -> Points:
        """(3,) centre of gravity of the body."""
        return self.geometry.to_world(np.argwhere(self.body).mean(axis=0))

    def body_points(self) -> Points:
        """(N, 3) voxel centres of the body, evenly thinned to at most 60,000."""
        voxels = np.argwhere(self.body)
        return self.geometry.to_world(voxels[:: -(-len(voxels) // _MOST_POINTS)])


def reduce(volume: Volume) -> Reduced:
    """Average blocks of voxels to about 2 mm; what does not fill a block at the far end is left out."""
    size = volume.geometry.shape
    factors = [
        min(n, max(1, int(WORKING_MM / spacing + 1e-6)))
        for n, spacing in zip(size, volume.geometry.spacing_mm, strict=True)
    ]
    i, j, k = (n // factor for n, factor in zip(size, factors, strict=True))
    used = volume.array[0, : i * factors[0], : j * factors[1], : k * factors[2]]
    blocks = used.reshape(i, factors[0], j, factors[1], k, factors[2])
    array = blocks.mean(axis=(1, 3, 5), dtype=np.float64).astype(np.float32)
    body = body_mask(array)
    low, high = np.percentile(array[body], (0.5, 99.5))
    air = low if body.all() else min(low, float(np.median(array[~body])))
    geometry = volume.geometry.cropped((0, 0, 0), used.shape).resized((i, j, k))
    return Reduced(np.clip(array, air, high), body, geometry)


def body_mask(image: NDArray[Any]) -> NDArray[np.bool_]:
    """(I, J, K) the largest connected part that is no air, holes filled; everything where there is no air.

    Above -300 HU in CT; elsewhere above half of Otsu's threshold (IEEE Transactions on Systems, Man and Cybernetics
    1979), which alone would split bright from dark tissue in images that hold little air.
    """
    low, high = (float(limit) for limit in np.percentile(image, (0.5, 99.5)))
    threshold = _BODY_HU if low <= _AIR_HU < 0 < high else low + (_otsu(np.clip(image, low, high)) - low) / 2
    above = image > threshold
    parts, count = ndimage.label(ndimage.binary_opening(above) if min(image.shape) > 2 else above)
    if not count:
        return np.ones(image.shape, np.bool_)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(parts == sizes.argmax()))


def agreement(alignment: Alignment, fixed: Reduced, moving: Reduced) -> AlignmentQuality:
    """Correlation and mutual information of the grey values, and the overlap of the bodies."""
    points = fixed.body_points()
    there = alignment.to_moving(points)
    seen = covers(moving.geometry, there)
    here = fixed.geometry.to_index(points[seen]).T
    index = moving.geometry.to_index(there[seen]).T
    mine = ndimage.map_coordinates(fixed.array, here, order=1, mode="nearest")
    other = ndimage.map_coordinates(moving.array, index, order=1, mode="nearest")
    return AlignmentQuality(
        correlation=_correlation(mine, other),
        mutual_information=_mutual_information(mine, other),
        body_dice=_body_dice(alignment, fixed, moving, _share(moving.body, index)),
    )


def fault(alignment: Alignment, quality: AlignmentQuality, last: AlignmentQuality) -> str:
    """Why an alignment cannot be right, in words; empty when it can.

    Args:
        alignment: To judge.
        quality: What it reaches.
        last: What was reached before it.
    """
    turned, stretches = alignment.rotation_degrees, alignment.stretches
    field = alignment.displacement
    shift_mm = 0.0 if field is None else float(np.linalg.norm(field.shifts_mm, axis=0).max())
    if turned > _MOST_ROTATION_DEGREES:
        return f"turned by {turned:.0f} degrees, more than {_MOST_ROTATION_DEGREES:.0f}"
    if np.linalg.det(alignment.matrix[:3, :3]) <= 0 or max(stretches[0], 1 / stretches[-1]) > _MOST_STRETCH:
        return f"stretched by factors of {stretches[-1]:.2f} to {stretches[0]:.2f}"
    if shift_mm > _MOST_SHIFT_MM:
        return f"displaced by up to {shift_mm:.0f} mm, more than {_MOST_SHIFT_MM:.0f}"
    if quality.body_dice < _LEAST_BODY_DICE:
        return f"the bodies overlap by {quality.body_dice:.2f} (Dice), less than {_LEAST_BODY_DICE}"
    if quality.mutual_information < last.mutual_information * (1 - _MOST_LOSS):
        return f"mutual information fell from {last.mutual_information:.3f} to {quality.mutual_information:.3f}"
    return ""


def _otsu(values: NDArray[Any]) -> float:
    """The threshold that leaves the least variance within the two classes; 256 bins."""
    counts, edges = np.histogram(values, bins=256)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = values.size - below
    mass = np.cumsum(counts * middles)
    means = mass / np.maximum(below, 1), (mass[-1] - mass) / np.maximum(above, 1)
    between = below * above.astype(float) * (means[0] - means[1]) ** 2
    # Empty bins between the classes are all as good: the middle of them.
    return float(middles[between >= between.max() * (1 - 1e-9)].mean())


def _body_dice(alignment: Alignment, fixed: Reduced, moving: Reduced, went: float) -> float:
    """Dice of the two bodies, of the parts that both images cover; `went` is the common share of the fixed one."""
    back = alignment.to_fixed(moving.body_points())
    index = fixed.geometry.to_index(back[covers(fixed.geometry, back)]).T
    returned = _share(fixed.body, index)
    # Each share is the common volume over the volume of one body: Dice is their harmonic mean.
    return 2 * went * returned / (went + returned) if went + returned else 0.0


def _share(body: NDArray[np.bool_], index: NDArray[np.float64]) -> float:
    found = ndimage.map_coordinates(body.view(np.uint8), index, order=0, mode="nearest")
    return float(found.mean()) if found.size else 0.0


def _correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    if first.size < 2 or first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _mutual_information(first: NDArray[Any], second: NDArray[Any]) -> float:
    if first.size < 2:
        return 0.0
    joint = np.histogram2d(first, second, bins=_NUM_BINS)[0] / first.size
    alone = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    known = joint > 0
    return float((joint[known] * np.log(joint[known] / alone[known])).sum())
