"""Lesion-wise detection against hand-derived cases and SimpleITK."""

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from medseg.core.errors import GeometryError, UsageError
from medseg.core.geometry import Geometry
from medseg.ops.lesions import detect_lesions, find_components, summarise_lesions

SHAPE = (12, 10, 8)
# Oblique about k, anisotropic (1 x 2 x 4 mm), off the origin: 8 mm^3 a voxel.
COS, SIN = 0.8, 0.6
GRID = Geometry(
    SHAPE, np.array([[COS, -2 * SIN, 0, -30], [SIN, 2 * COS, 0, 12], [0, 0, 4, 7], [0, 0, 0, 1]], dtype=float)
)


def boxes(*corners):
    mask = np.zeros(SHAPE, bool)
    for (i, j, k), (ii, jj, kk) in corners:
        mask[i:ii, j:jj, k:kk] = True
    return mask


BIG = ((0, 0, 0), (4, 2, 2))  # 16 voxels
SHIFTED = ((1, 0, 0), (5, 2, 2))  # 16 voxels, 12 in common with BIG
SMALL = ((8, 6, 5), (10, 7, 6))  # 2 voxels
FAR = ((8, 0, 5), (9, 1, 8))  # 3 voxels


def test_one_found_one_missed_one_invented():
    """BIG is found by SHIFTED (12 common, 20 of either: IoU .6, Dice 24 / 32), SMALL missed, FAR invented.

    Sensitivity, precision and F1 are 1/2; panoptic quality .6 / (1 + 1/2 + 1/2). BIG's centre is voxel
    (1.5, .5, .5): RAS (.8 x 1.5 - 1.2 x .5 - 30, .6 x 1.5 + 1.6 x .5 + 12, 4 x .5 + 7) mm.
    """
    answer = detect_lesions(boxes(SHIFTED, FAR), boxes(BIG, SMALL), geometry=GRID, label="met")
    assert (answer.label, answer.num_reference, answer.num_predicted, answer.num_matched) == ("met", 2, 2, 1)
    assert (answer.sensitivity, answer.precision, answer.f1) == (0.5, 0.5, 0.5)
    assert answer.panoptic_quality == pytest.approx(0.3)
    found, invented, missed = answer.lesions
    assert (found.status, invented.status, missed.status) == ("matched", "invented", "missed")
    assert (found.iou, found.dice) == pytest.approx((0.6, 0.75))
    assert (found.volume_ml, found.reference_volume_ml) == pytest.approx((0.128, 0.128))
    assert found.centre_mm == pytest.approx((-29.4, 13.7, 9.0))
    assert (found.slice_number, missed.slice_number, invented.slice_number) == (2, 6, 7)
    assert (missed.volume_ml, missed.reference_volume_ml, missed.dice) == pytest.approx((0, 0.016, 0))
    assert (invented.volume_ml, invented.reference_volume_ml) == pytest.approx((0.024, 0))
    assert invented.centre_mm == pytest.approx(tuple(GRID.to_world((8, 0, 6))))


def test_the_slice_is_counted_along_the_axis_from_foot_to_head():
    """Array axis 0 runs from head to foot: the voxel at index 3 lies in the file's fourth slice."""
    grid = Geometry(SHAPE, np.array([[0, 1.0, 0, 0], [0, 0, 1, 0], [-2, 0, 0, 0], [0, 0, 0, 1]]))
    mask = boxes(((3, 5, 6), (4, 6, 7)))
    (lesion,) = detect_lesions(mask, mask, geometry=grid).lesions
    assert lesion.slice_number == 4


def test_voxels_that_touch_by_a_corner_are_one_lesion():
    mask = np.zeros(SHAPE, bool)
    mask[1, 1, 1] = mask[2, 2, 2] = mask[4, 4, 4] = True
    parts = find_components(mask)
    assert sorted(parts.sizes.tolist()) == [1, 2]
    assert parts.centres[parts.sizes == 2].tolist() == [[1.5, 1.5, 1.5]]


def test_components_equal_simpleitk():
    mask = np.random.default_rng(0).random(SHAPE) < 0.08
    theirs = SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(mask.astype(np.uint8)), True)
    sizes = np.bincount(SimpleITK.GetArrayFromImage(theirs).ravel())[1:]
    assert sorted(find_components(mask).sizes) == sorted(sizes)


def test_parts_that_are_too_small_are_no_lesions():
    """SMALL is 2 voxels of .008 ml: a limit of .016 ml keeps it, a little more does not."""
    mask = boxes(BIG, SMALL)
    assert detect_lesions(mask, mask, geometry=GRID, min_volume_ml=0.016).num_reference == 2
    assert detect_lesions(mask, mask, geometry=GRID, min_volume_ml=0.0161).num_reference == 1
    np.testing.assert_array_equal(find_components(mask, min_voxels=3).array > 0, boxes(BIG))


def test_the_assignment_is_optimal_not_greedy():
    """Along one line: reference A = 2-9 and B = 11-15, predicted P = 0-3 and Q = 5-13.

    IoU: Q-A 5 / 12, Q-B 3 / 11, P-A 2 / 10, P-B 0. Taking the best pair first leaves P and B alone; the largest sum is
    3 / 11 + 2 / 10 > 5 / 12.
    """
    reference, prediction = np.zeros((2, 20, 1, 1), bool)
    reference[2:10] = reference[11:16] = True
    prediction[0:4] = prediction[5:14] = True
    answer = detect_lesions(prediction, reference, geometry=Geometry((20, 1, 1), np.eye(4)))
    assert [lesion.status for lesion in answer.lesions] == ["matched", "matched"]
    assert sorted(lesion.iou for lesion in answer.lesions) == pytest.approx([2 / 10, 3 / 11])


def test_overlap_counts_the_reference_lesion_only():
    """A prediction of 96 voxels over SMALL: IoU 2 / 96, but all of SMALL is covered."""
    prediction = boxes(((6, 4, 4), (12, 8, 8)))
    assert detect_lesions(prediction, boxes(SMALL), geometry=GRID).num_matched == 0
    answer = detect_lesions(prediction, boxes(SMALL), geometry=GRID, criterion="overlap", threshold=1.0)
    assert answer.num_matched == 1
    assert answer.lesions[0].iou == pytest.approx(2 / 96)


def test_empty_masks_follow_the_table():
    empty, mask = boxes(), boxes(BIG, SMALL)
    clean, missed, invented = (
        detect_lesions(*pair, geometry=GRID) for pair in ((empty, empty), (empty, mask), (mask, empty))
    )
    assert (clean.sensitivity, clean.precision, clean.f1, clean.panoptic_quality) == (1, 1, 1, 1)
    for answer in (missed, invented):
        assert (answer.sensitivity, answer.precision, answer.f1, answer.panoptic_quality) == (0, 0, 0, 0)
    assert (missed.num_reference, invented.num_predicted) == (2, 2)


def test_noise_is_matched_to_itself():
    mask = np.random.default_rng(1).random(SHAPE) < 0.05
    answer = detect_lesions(mask, mask, geometry=GRID)
    assert answer.num_matched == answer.num_reference == ndimage.label(mask, np.ones((3, 3, 3)))[1]
    assert answer.panoptic_quality == 1


def test_the_cohort_counts_lesions_not_cases():
    """Three cases: 1 of 2 found with 1 false positive; clean; 2 false positives. So 1 / 2, 1 / 4, 3 false over 3 cases.

    F1 = 1 / ((2 + 4) / 2), panoptic quality .6 / 3.
    """
    cases = [
        detect_lesions(boxes(SHIFTED, FAR), boxes(BIG, SMALL), geometry=GRID),
        detect_lesions(boxes(), boxes(), geometry=GRID),
        detect_lesions(boxes(SMALL, FAR), boxes(), geometry=GRID),
    ]
    summary = summarise_lesions(cases)
    assert (summary.num_cases, summary.num_reference, summary.num_predicted, summary.num_matched) == (3, 2, 4, 1)
    assert (summary.sensitivity, summary.precision) == (0.5, 0.25)
    assert (summary.f1, summary.panoptic_quality) == pytest.approx((1 / 3, 0.2))
    assert summary.false_positives_per_case == 1
    assert summary.matched_dice == pytest.approx(0.75)
    assert summarise_lesions(cases[1:]).matched_dice is None


def test_refusals():
    with pytest.raises(GeometryError, match="E-GRID-MISMATCH"):
        detect_lesions(np.zeros((2, 2, 2), bool), boxes(), geometry=GRID)
    for threshold in (0, 1.1):
        with pytest.raises(UsageError, match="E-METRIC-OPTION"):
            detect_lesions(boxes(), boxes(), geometry=GRID, threshold=threshold)
