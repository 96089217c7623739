"""Lesion by lesion: connected components of two masks, which belong together, and how many were found.

Definitions, formulas and the rule for empty masks are printed in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medseg.core.detection import Criterion, LesionDetection, LesionMatch, LesionSummary
from medseg.core.errors import GeometryError, UsageError
from medseg.core.geometry import Geometry


@dataclass(frozen=True, eq=False)
class Components:
    """The 26-connected parts of a mask, numbered from 1 in array order.

    Attributes:
        array: (I, J, K) int32, 0 outside.
        sizes: (n,) voxels of each part.
        centres: (n, 3) centre of gravity, voxel indices.
    """

    array: NDArray[np.int32]
    sizes: NDArray[np.int64]
    centres: NDArray[np.float64]

    def moved(self, box: tuple[slice, ...]) -> Components:
        """Parts found inside a box, with their centres counted in the whole array."""
        return replace(self, centres=self.centres + [side.start for side in box])


def find_components(mask: NDArray[np.bool_], *, min_voxels: int = 1) -> Components:
    """Number the parts of `mask` that touch by a face, an edge or a corner; parts under `min_voxels` vanish."""
    array = np.zeros(mask.shape, np.int32)
    count = int(ndimage.label(mask, structure=np.ones((3, 3, 3)), output=array))
    inside = np.nonzero(array)
    part = array[inside]
    sizes = np.bincount(part, minlength=count + 1)[1:]
    sums = np.stack([np.bincount(part, weights=axis, minlength=count + 1)[1:] for axis in inside], axis=1)
    kept = sizes >= min_voxels
    numbers = np.zeros(count + 1, np.int32)
    numbers[1:][kept] = np.arange(1, int(kept.sum()) + 1)
    return Components(numbers[array], sizes[kept], sums[kept] / sizes[kept, None])


def detect_lesions(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    *,
    geometry: Geometry,
    label: str = "lesion",
    criterion: Criterion = "iou",
    threshold: float = 0.1,
    min_volume_ml: float = 0.0,
) -> LesionDetection:
    """Match the lesions of two masks one to one and count what was found.

    Args:
        prediction: (I, J, K).
        reference: The same shape.
        geometry: The masks' grid.
        label: Name for the result.
        criterion: What makes two lesions a pair: `iou`, the common volume over the volume of either; `overlap`, the
            common volume over the reference lesion's.
        threshold: The least criterion of a pair, above 0 to 1. Among all ways to pair lesions one to one the one
            with the largest sum of the criterion is taken.
        min_volume_ml: Smaller parts of either mask are no lesions.

    Raises:
        GeometryError: `E-GRID-MISMATCH`, masks that are not on the grid.
        UsageError: `E-METRIC-OPTION`, a threshold out of range.
    """
    if not prediction.shape == reference.shape == geometry.shape:
        message = f"both masks must be {geometry.shape}, got {prediction.shape} and {reference.shape}"
        raise GeometryError(message, code="E-GRID-MISMATCH", remedy="Resample one onto the other's grid.")
    if not 0 < threshold <= 1:
        message = f"the threshold must be above 0 and at most 1, got {threshold}"
        raise UsageError(message, code="E-METRIC-OPTION", remedy="Use 0.1 for detection, 0.5 for panoptic quality.")
    voxel_ml = geometry.voxel_volume_mm3 / 1000
    min_voxels = max(1, int(np.ceil(min_volume_ml / voxel_ml - 1e-9)))
    # Lesions fill little of an image: looking at their surroundings only saves most of the time.
    box = _box(prediction | reference)
    predicted = find_components(prediction[box], min_voxels=min_voxels).moved(box)
    referred = find_components(reference[box], min_voxels=min_voxels).moved(box)
    lesions = _matches(predicted, referred, criterion, threshold, geometry)
    matched = [lesion for lesion in lesions if lesion.status == "matched"]
    return LesionDetection(
        label=label,
        criterion=criterion,
        threshold=threshold,
        min_volume_ml=min_volume_ml,
        num_reference=len(referred.sizes),
        num_predicted=len(predicted.sizes),
        num_matched=len(matched),
        **_scores(len(referred.sizes), len(predicted.sizes), [lesion.iou for lesion in matched]),
        lesions=tuple(sorted(lesions, key=lambda lesion: -max(lesion.volume_ml, lesion.reference_volume_ml))),
    )


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    profiles = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(int(at[0]), int(at[-1]) + 1) if at.size else slice(0, 1) for at in profiles)


def summarise_lesions(detections: Sequence[LesionDetection]) -> LesionSummary:
    """One label over the cohort, the lesions of all cases counted together.

    Args:
        detections: One per case, all of one label; at least one.
    """
    matched = [lesion for case in detections for lesion in case.lesions if lesion.status == "matched"]
    num_reference = sum(case.num_reference for case in detections)
    num_predicted = sum(case.num_predicted for case in detections)
    return LesionSummary(
        label=detections[0].label,
        num_cases=len(detections),
        num_reference=num_reference,
        num_predicted=num_predicted,
        num_matched=len(matched),
        **_scores(num_reference, num_predicted, [lesion.iou for lesion in matched]),
        false_positives_per_case=(num_predicted - len(matched)) / len(detections),
        matched_dice=float(np.mean([lesion.dice for lesion in matched])) if matched else None,
    )


def _scores(num_reference: int, num_predicted: int, ious: Sequence[float]) -> dict[str, float]:
    """Detection rates and panoptic quality (Kirillov et al., CVPR 2019); no lesion on either side is a full score."""
    found = len(ious)
    if not num_reference and not num_predicted:
        return dict.fromkeys(("sensitivity", "precision", "f1", "panoptic_quality"), 1.0)
    pairs = (num_reference + num_predicted) / 2
    return {
        "sensitivity": found / num_reference if num_reference else 0.0,
        "precision": found / num_predicted if num_predicted else 0.0,
        "f1": found / pairs,
        "panoptic_quality": sum(ious) / pairs,
    }


def _matches(
    predicted: Components, referred: Components, criterion: Criterion, threshold: float, geometry: Geometry
) -> list[LesionMatch]:
    pairs: list[tuple[int | None, int | None, int]] = [*_pairs(predicted, referred, criterion, threshold)]
    found, hit = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    pairs += [(None, second, 0) for second in range(len(referred.sizes)) if second not in hit]
    pairs += [(first, None, 0) for first in range(len(predicted.sizes)) if first not in found]
    voxel_ml = geometry.voxel_volume_mm3 / 1000
    head_foot = geometry.canonical_axes()[0][2]
    matches = []
    for first, second, common in pairs:
        size = 0 if first is None else int(predicted.sizes[first])
        reference_size = 0 if second is None else int(referred.sizes[second])
        centre = predicted.centres[first] if second is None else referred.centres[second]
        right, anterior, superior = geometry.to_world(centre).tolist()
        matches.append(
            LesionMatch(
                status="invented" if second is None else "missed" if first is None else "matched",
                centre_mm=(right, anterior, superior),
                slice_number=int(np.floor(centre[head_foot] + 0.5)) + 1,
                volume_ml=size * voxel_ml,
                reference_volume_ml=reference_size * voxel_ml,
                dice=2 * common / (size + reference_size),
                iou=common / (size + reference_size - common),
            )
        )
    return matches


def _pairs(
    predicted: Components, referred: Components, criterion: Criterion, threshold: float
) -> list[tuple[int, int, int]]:
    """Predicted part, reference part (both from 0) and common voxels of each pair of the best one-to-one assignment."""
    both = (predicted.array > 0) & (referred.array > 0)
    num_predicted, num_reference = len(predicted.sizes), len(referred.sizes)
    together = (predicted.array[both].astype(np.int64) - 1) * num_reference + referred.array[both] - 1
    touching, commons = np.unique(together, return_counts=True)
    first, second = np.divmod(touching, max(1, num_reference))
    sizes, reference_sizes = predicted.sizes[first], referred.sizes[second]
    scores = commons / (reference_sizes if criterion == "overlap" else sizes + reference_sizes - commons)
    able = scores >= threshold
    first, second, commons, scores = first[able], second[able], commons[able], scores[able]
    # Lesions that share no partner cannot compete: assigning group by group keeps the cost matrices small.
    num_parts = num_predicted + num_reference
    graph = coo_array((scores, (first, second + num_predicted)), shape=(num_parts, num_parts))
    group = connected_components(graph, directed=False)[1][first] if first.size else first
    order = np.argsort(group, kind="stable")
    pairs = []
    for here in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        rows, row = np.unique(first[here], return_inverse=True)
        columns, column = np.unique(second[here], return_inverse=True)
        table, edge = np.zeros((rows.size, columns.size)), np.full((rows.size, columns.size), -1)
        table[row, column], edge[row, column] = scores[here], here
        chosen = edge[linear_sum_assignment(table, maximize=True)]
        pairs += [(int(first[at]), int(second[at]), int(commons[at])) for at in chosen if at >= 0]
    return sorted(pairs)
