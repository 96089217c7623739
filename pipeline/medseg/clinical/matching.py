"""Which lesion of one examination is which of another: overlap, distance and size in one cost, the best assignment.

Lesions are clouds of voxel centres in millimetres, in the baseline's space: nothing is resampled, so that a small
lesion cannot get lost between two grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from medseg.core.document import Document
from medseg.ops.alignment import Points

_MOST_POINTS = 3000
_LEAST_SETTLING_PAIRS = 3
_SETTLING_ROUNDS = 3
_SETTLING_OUTLIER = 2.5


class MatchingRules(Document):
    """Section `matching` of configs/follow_up.yaml, where each number is explained."""

    reach_mm: float = Field(gt=0)
    settled_reach_mm: float = Field(gt=0)
    dilation_mm: float = Field(ge=0)
    overlap_weight: float = Field(ge=0)
    distance_weight: float = Field(ge=0)
    size_weight: float = Field(ge=0)
    size_factor: float = Field(gt=1)
    most_cost: float = Field(gt=0)
    part_share: float = Field(gt=0, le=1)


@dataclass(frozen=True, eq=False)
class LesionShape:
    """One lesion in the baseline's space.

    Attributes:
        label: Lesions of different labels are never the same.
        points_mm: (N, 3) centres of its voxels.
        volume_ml: Measured on its own grid.
        voxel_mm: The longest edge of a voxel.
    """

    label: str
    points_mm: Points
    volume_ml: float
    voxel_mm: float

    @cached_property
    def tree(self) -> cKDTree:
        return cKDTree(self.points_mm)

    @cached_property
    def centre_mm(self) -> Points:
        return np.asarray(self.points_mm.mean(axis=0))

    @property
    def radius_mm(self) -> float:
        """Of the ball of the same volume."""
        return float((3000 * self.volume_ml / (4 * np.pi)) ** (1 / 3))

    @property
    def thinned_mm(self) -> Points:
        """At most 3000 of the points, evenly."""
        return self.points_mm[:: -(-len(self.points_mm) // _MOST_POINTS)]

    def share_within(self, other: LesionShape, margin_mm: float) -> float:
        """Share of this lesion inside the other one dilated by the margin and by half a voxel."""
        reach = margin_mm + max(self.voxel_mm, other.voxel_mm) / 2
        return float(np.isfinite(self._distances(other, reach)).mean())

    def touches(self, other: LesionShape, reach_mm: float) -> bool:
        """Whether the surfaces come within the reach of each other."""
        reach = reach_mm + (self.voxel_mm + other.voxel_mm) / 2
        gap = np.maximum(self._box_mm[0] - other._box_mm[1], other._box_mm[0] - self._box_mm[1])
        return float(np.maximum(gap, 0).max()) <= reach and bool(np.isfinite(self._distances(other, reach)).any())

    def _distances(self, other: LesionShape, reach_mm: float) -> NDArray[np.float64]:
        found = other.tree.query(self.thinned_mm, distance_upper_bound=reach_mm + 1e-9)[0]
        return np.asarray(found, dtype=np.float64)

    @cached_property
    def _box_mm(self) -> tuple[Points, Points]:
        return self.points_mm.min(axis=0), self.points_mm.max(axis=0)


@dataclass(frozen=True)
class Matching:
    """Positions in the two sequences that were matched.

    Attributes:
        pairs: (earlier, later), one to one.
        parts: Later lesion to the earlier one it came off from (a split).
        swallowed: Earlier lesion to the later one it went into (a merger).
    """

    pairs: tuple[tuple[int, int], ...]
    parts: dict[int, int]
    swallowed: dict[int, int]


def match_lesions(earlier: Sequence[LesionShape], later: Sequence[LesionShape], *, rules: MatchingRules) -> Matching:
    """Find which lesions are the same, and which split or merged.

    Where three lesions or more can be paired, the rigid motion that brings these pairs together settles what the
    alignment of the images left over, and the rest is decided within a shorter reach.
    """
    reach_mm = rules.reach_mm
    pairs = _assign(earlier, later, rules, reach_mm)
    for _ in range(_SETTLING_ROUNDS):
        motion = _motion([(later[b].centre_mm, earlier[a].centre_mm) for a, b in pairs])
        if motion is None:
            break
        turn, shift = motion
        reach_mm = rules.settled_reach_mm
        later = [replace(lesion, points_mm=lesion.points_mm @ turn.T + shift) for lesion in later]
        pairs = _assign(earlier, later, rules, reach_mm)
    matched_earlier, matched_later = {a for a, _ in pairs}, {b for _, b in pairs}
    parts = _contained(later, matched_later, earlier, matched_earlier, rules)
    swallowed = _contained(earlier, matched_earlier, later, matched_later, rules)
    return Matching(tuple(pairs), parts, swallowed)


def _assign(
    earlier: Sequence[LesionShape], later: Sequence[LesionShape], rules: MatchingRules, reach_mm: float
) -> list[tuple[int, int]]:
    """The one-to-one pairs that save most against leaving lesions alone."""
    savings = np.zeros((len(earlier), len(later)))
    for a, before in enumerate(earlier):
        for b, after in enumerate(later):
            if before.label == after.label and before.touches(after, reach_mm):
                savings[a, b] = max(0.0, rules.most_cost - _cost(before, after, rules, reach_mm))
    rows, columns = linear_sum_assignment(savings, maximize=True)
    return [(int(a), int(b)) for a, b in zip(rows, columns, strict=True) if savings[a, b] > 0]


def _cost(before: LesionShape, after: LesionShape, rules: MatchingRules, reach_mm: float) -> float:
    shares = before.share_within(after, rules.dilation_mm), after.share_within(before, rules.dilation_mm)
    room_mm = reach_mm + max(before.radius_mm, after.radius_mm)
    distance = float(np.linalg.norm(before.centre_mm - after.centre_mm)) / room_mm
    size = abs(np.log(after.volume_ml / before.volume_ml)) / np.log(rules.size_factor)
    return float(
        rules.overlap_weight * (1 - max(shares))
        + rules.distance_weight * min(1.0, distance)
        + rules.size_weight * min(1.0, size)
    )


def _contained(
    shapes: Sequence[LesionShape],
    matched: set[int],
    others: Sequence[LesionShape],
    wholes: set[int],
    rules: MatchingRules,
) -> dict[int, int]:
    """Each lesion without a partner to the larger, matched one of the other examination that holds it, if one does."""
    found = {}
    for n, shape in enumerate(shapes):
        if n in matched:
            continue
        able = [m for m in sorted(wholes) if others[m].label == shape.label and others[m].volume_ml > shape.volume_ml]
        shares = {m: shape.share_within(others[m], rules.dilation_mm) for m in able}
        best = max(shares, key=shares.__getitem__, default=None)
        if best is not None and shares[best] >= rules.part_share:
            found[n] = best
    return found


def _motion(pairs: Sequence[tuple[Points, Points]]) -> tuple[NDArray[np.float64], Points] | None:
    """The rigid motion from the first points to the second, outliers left out once; None for fewer than three pairs.

    Least squares by singular values (Arun et al., IEEE Transactions on Pattern Analysis and Machine Intelligence 1987).
    """
    if len(pairs) < _LEAST_SETTLING_PAIRS:
        return None
    source, target = (np.array(points) for points in zip(*pairs, strict=True))
    turn, shift = _fit(source, target)
    residuals = np.linalg.norm(source @ turn.T + shift - target, axis=1)
    kept = residuals <= max(1.0, _SETTLING_OUTLIER * float(np.median(residuals)))
    if _LEAST_SETTLING_PAIRS <= kept.sum() < len(pairs):
        return _fit(source[kept], target[kept])
    return turn, shift


def _fit(source: Points, target: Points) -> tuple[NDArray[np.float64], Points]:
    middle, aim = source.mean(axis=0), target.mean(axis=0)
    left, _, right = np.linalg.svd((source - middle).T @ (target - aim))
    mirror = np.diag([1.0, 1.0, np.sign(np.linalg.det(right.T @ left.T))])
    turn = right.T @ mirror @ left.T
    return turn, aim - turn @ middle
