"""Segmentation metrics against hand-derived cases, the table for empty masks, and independent implementations."""

import warnings
from itertools import pairwise

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.spatial.distance import dice as dice_dissimilarity

from medseg.core.errors import GeometryError, InputError, UsageError
from medseg.ops.metrics import METRICS, compare_labels, segmentation_metrics, with_percentiles

SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.7, 2.5), (1.3, 0.9, 5.0), (3.1, 0.8, 0.8)]


def blobs(rng, shape):
    field = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    return field > np.quantile(field, rng.uniform(0.6, 0.9))


def pairs():
    """50 pairs of masks, half of them noise, half blobs of which one is bent into the other."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        shape = tuple(rng.integers(8, 24, size=3))
        if seed % 2:
            first, second = rng.random((2, *shape)) < rng.uniform(0.02, 0.6)
        else:
            first = blobs(rng, shape)
            second = np.roll(first, rng.integers(-2, 3, size=3), axis=(0, 1, 2)) | (rng.random(shape) < 0.001)
        yield first, second, SPACINGS[seed % 4]


def test_numbers_by_hand_on_an_anisotropic_grid():
    """Prediction: voxels k = 0, 1 of one column; reference: k = 1, 2; spacing 1 x 2 x 4 mm, 8 mm^3 a voxel.

    Common 1, either 3: Dice 2 / 4, IoU 1 / 3, precision and recall 1 / 2, volumes .016 ml. Surface elements lie at
    k = 0, 1, 2 and k = 1, 2, 3, four each; with a = sqrt(1.3125) at the ends and b = 2 sqrt(5) between (see the test
    of the surfaces) only one end of each is off, by one step of 4 mm: ASSD = 4 a / (2 a + b), NSD(1 mm) =
    1 - a / (2 a + b); the end is a / (2 a + b) = 17 % of the area, so that HD95 = HD = 4 mm.
    """
    prediction, reference = np.zeros((2, 3, 3, 5), np.uint8)
    prediction[1, 1, 0:2] = 1
    reference[1, 1, 1:3] = 1
    (row,) = segmentation_metrics(prediction, reference, spacing_mm=(1, 2, 4))
    corner, edge = np.sqrt(1.3125), 2 * np.sqrt(5)
    share = corner / (2 * corner + edge)
    expected = {
        "label": "1", "presence": "both", "dice": 0.5, "iou": 1 / 3, "precision": 0.5, "recall": 0.5, "hd_mm": 4,
        "hd95_mm": 4, "assd_mm": 4 * share, "nsd": 1 - share, "tolerance_mm": 1, "volume_ml": 0.016,
        "reference_volume_ml": 0.016, "relative_volume_error": 0,
    }  # fmt: skip
    assert row.model_dump(exclude={"percentiles_mm"}) == pytest.approx(expected, abs=1e-12)
    assert row.relative_volume_error == 0


@pytest.mark.parametrize(
    ("predicted", "referred", "presence", "score", "distance_mm"),
    [
        (0, 0, "both_empty", 1.0, 0.0),
        (0, 1, "missed", 0.0, 13.0),
        (1, 0, "invented", 0.0, 13.0),
    ],
)
def test_x11_empty_masks_follow_the_table(predicted, referred, presence, score, distance_mm):
    """The image is 3 x 2 x 2 voxels of 1 x 2 x 6 mm: 3 x 4 x 12 mm, diagonal 13 mm."""
    prediction = np.full((3, 2, 2), predicted)
    reference = np.full((3, 2, 2), referred)
    (row,) = segmentation_metrics(prediction, reference, spacing_mm=(1, 2, 6), labels={"organ": 1})
    assert row.presence == presence
    assert {row.dice, row.iou, row.precision, row.recall, row.nsd} == {score}
    assert {row.hd_mm, row.hd95_mm, row.assd_mm} == {distance_mm}
    assert row.relative_volume_error == (-1 if presence == "missed" else None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fifty_pairs_equal_surface_distance():
    import surface_distance as peer

    for first, second, spacing_mm in pairs():
        (row,) = segmentation_metrics(first, second, spacing_mm=spacing_mm, tolerance_mm=1.5)
        theirs = peer.compute_surface_distances(second, first, spacing_mm)
        to_reference, to_prediction = theirs["distances_pred_to_gt"], theirs["distances_gt_to_pred"]
        areas, reference_areas = theirs["surfel_areas_pred"], theirs["surfel_areas_gt"]
        average_mm = (to_reference @ areas + to_prediction @ reference_areas) / (areas.sum() + reference_areas.sum())
        assert row.hd_mm == pytest.approx(peer.compute_robust_hausdorff(theirs, 100), abs=1e-6)
        assert row.hd95_mm == pytest.approx(peer.compute_robust_hausdorff(theirs, 95), abs=1e-6)
        assert row.assd_mm == pytest.approx(average_mm, abs=1e-6)
        assert row.nsd == pytest.approx(peer.compute_surface_dice_at_tolerance(theirs, 1.5), abs=1e-6)
        assert row.dice == pytest.approx(peer.compute_dice_coefficient(second, first), abs=1e-12)


def test_voxel_mode_equals_monai():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

        for first, second, spacing_mm in pairs():
            (row,) = segmentation_metrics(first, second, spacing_mm=spacing_mm, tolerance_mm=1.5, mode="voxel")
            masks = [torch.from_numpy(mask)[None, None] for mask in (first, second)]
            given = {"include_background": True, "spacing": spacing_mm}
            theirs = {
                "hd_mm": compute_hausdorff_distance(*masks, **given),
                "hd95_mm": compute_hausdorff_distance(*masks, percentile=95, **given),
                "assd_mm": compute_average_surface_distance(*masks, symmetric=True, **given),
                "nsd": compute_surface_dice(*masks, class_thresholds=[1.5], **given),
            }
            ours = {name: getattr(row, name) for name in theirs}
            # MONAI keeps distances, and the rank of a percentile, in float32: equal to what that leaves of digits.
            assert ours == pytest.approx({name: value.item() for name, value in theirs.items()}, rel=1e-5)


def test_overlap_equals_scipy_and_simpleitk():
    for first, second, spacing_mm in pairs():
        (row,) = segmentation_metrics(first, second, spacing_mm=spacing_mm)
        assert row.dice == pytest.approx(1 - dice_dissimilarity(first.ravel(), second.ravel()))
        filter_ = SimpleITK.LabelOverlapMeasuresImageFilter()
        filter_.Execute(*(SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (first, second)))
        assert row.dice == pytest.approx(filter_.GetDiceCoefficient())
        assert row.iou == pytest.approx(filter_.GetJaccardCoefficient())
        assert row.recall == pytest.approx(1 - filter_.GetFalseNegativeError())
        assert row.precision == pytest.approx((first & second).sum() / first.sum())
        assert row.volume_ml == pytest.approx(first.sum() * np.prod(spacing_mm) / 1000)


def label_maps(seed, shape=(20, 18, 16)):
    rng = np.random.default_rng(seed)
    reference = sum(blobs(rng, shape) * value for value in (1, 2, 5)).clip(0, 5)
    return np.roll(reference, 1, axis=2), reference


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_each_label_is_scored_as_if_alone_in_any_memory_order_and_type(dtype):
    prediction, reference = label_maps(0)
    labels = {"b": 5, "absent": 7, "a": 2}
    rows = segmentation_metrics(
        np.asfortranarray(prediction.astype(dtype)),
        reference[::-1].astype(dtype)[::-1],
        spacing_mm=(1, 2, 3),
        labels=labels,
    )
    assert [row.label for row in rows] == ["b", "absent", "a"]
    assert rows[1].presence == "both_empty"
    for row, value in ((rows[0], 5), (rows[2], 2)):
        (alone,) = segmentation_metrics(prediction == value, reference == value, spacing_mm=(1, 2, 3))
        assert row.model_dump(exclude={"percentiles_mm"}) == pytest.approx(
            alone.model_dump(exclude={"percentiles_mm"}) | {"label": row.label}
        )


def test_without_names_every_value_of_either_mask_is_a_row():
    prediction, reference = np.zeros((2, 3, 3, 3), int)
    prediction[0, 0, 0], reference[2, 2, 2] = 300, 4
    rows = segmentation_metrics(prediction, reference, spacing_mm=(1, 1, 1))
    assert [(row.label, row.presence) for row in rows] == [("4", "missed"), ("300", "invented")]


def test_two_empty_masks_without_names_have_no_rows():
    empty = np.zeros((2, 3, 4), np.uint8)
    assert segmentation_metrics(empty, empty, spacing_mm=(1, 1, 1)) == ()


def test_ignored_voxels_are_background_in_both_masks():
    prediction, reference = label_maps(1)
    ignore = np.zeros(reference.shape, bool)
    ignore[:, :9] = True
    ignored = segmentation_metrics(np.asfortranarray(prediction), reference, spacing_mm=(1, 2, 3), ignore=ignore)
    erased = segmentation_metrics(prediction * ~ignore, reference * ~ignore, spacing_mm=(1, 2, 3))
    for row, other in zip(ignored, erased, strict=True):
        assert row.model_dump(exclude={"percentiles_mm"}) == pytest.approx(other.model_dump(exclude={"percentiles_mm"}))
    (everything,) = segmentation_metrics(
        prediction == 1, reference == 1, spacing_mm=(1, 2, 3), ignore=np.ones_like(ignore)
    )
    assert everything.presence == "both_empty"


def test_tolerances_by_name():
    prediction, reference = label_maps(2)
    tight, loose = (
        segmentation_metrics(prediction, reference, spacing_mm=(1, 1, 2), labels={"a": 1, "b": 2}, tolerance_mm=given)
        for given in ({"a": 0.5, "b": 3.0}, 3.0)
    )
    assert [row.tolerance_mm for row in tight] == [0.5, 3.0]
    assert tight[0].nsd < loose[0].nsd
    assert tight[1] == loose[1]


masks = arrays(bool, st.tuples(*[st.integers(1, 6)] * 3), elements=st.booleans())


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(0, 2**32 - 1))
def test_laws(first, seed):
    """Swapping the masks swaps precision and recall only; a mask equals itself; twice the spacing, twice the mm."""
    second = np.random.default_rng(seed).permutation(first.ravel()).reshape(first.shape)
    one = segmentation_metrics(first, second, spacing_mm=(1, 2, 3), labels={"x": 1})[0]
    other = segmentation_metrics(second, first, spacing_mm=(1, 2, 3), labels={"x": 1})[0]
    double = segmentation_metrics(first, second, spacing_mm=(2, 4, 6), labels={"x": 1}, tolerance_mm=2)[0]
    itself = segmentation_metrics(first, first, spacing_mm=(1, 2, 3), labels={"x": 1})[0]
    assert (one.precision, one.recall) == (other.recall, other.precision)
    for name, definition in METRICS.items():
        value = getattr(one, name)
        assert np.isfinite(value)
        if name not in ("precision", "recall"):
            assert value == pytest.approx(getattr(other, name))
        assert getattr(double, name) == pytest.approx(value * (2 if definition.unit else 1))
        assert getattr(itself, name) == (0 if definition.unit else 1)
    assert one.hd_mm >= one.hd95_mm
    assert one.hd_mm >= one.assd_mm


@pytest.mark.parametrize(
    ("change", "error", "code", "words"),
    [
        ({"reference": np.zeros((4, 4, 5), int)}, GeometryError, "E-GRID-MISMATCH", "(4, 4, 5)"),
        (dict.fromkeys(("prediction", "reference"), np.zeros((4, 4), int)), GeometryError, "E-GRID-MISMATCH", "(4, 4)"),
        ({"ignore": np.zeros((4, 4, 5), bool)}, GeometryError, "E-GRID-MISMATCH", "(4, 4, 5)"),
        ({"prediction": np.zeros((4, 4, 4))}, InputError, "E-LABEL-TYPE", "float64"),
        ({"reference": np.full((4, 4, 4), -1)}, InputError, "E-LABEL-TYPE", "reference"),
        ({"reference": np.full((4, 4, 4), 65536)}, InputError, "E-LABEL-TYPE", "65535"),
        ({"spacing_mm": (1, 1)}, UsageError, "E-METRIC-OPTION", "spacing_mm"),
        ({"spacing_mm": (1, 0, 1)}, UsageError, "E-METRIC-OPTION", "spacing_mm"),
        ({"spacing_mm": (1, float("nan"), 1)}, UsageError, "E-METRIC-OPTION", "spacing_mm"),
        ({"labels": {"background": 0}}, UsageError, "E-METRIC-OPTION", "background"),
        ({"labels": {"x": 70000}}, UsageError, "E-METRIC-OPTION", "70000"),
        ({"labels": {"x": 1}, "tolerance_mm": {"y": 1.0}}, UsageError, "E-METRIC-OPTION", "'x'"),
        ({"tolerance_mm": -1.0, "labels": {"x": 1}}, UsageError, "E-METRIC-OPTION", "-1.0"),
    ],
)  # fmt: skip
def test_refusals(change, error, code, words):
    given = {"prediction": np.ones((4, 4, 4), int), "reference": np.ones((4, 4, 4), int), "spacing_mm": (1, 1, 1)}
    with pytest.raises(error) as caught:
        segmentation_metrics(**(given | change))
    assert caught.value.code == code
    assert words in str(caught.value)
    assert caught.value.remedy


def test_further_percentiles_are_read_as_the_95th_and_stand_for_the_diagonal_where_a_mask_is_empty():
    prediction, reference = label_maps(5)
    reference[reference == 3] = 0
    compared = compare_labels(prediction, reference, spacing_mm=(0.7, 1.3, 2.9))
    for row, distances in with_percentiles(compared, (50, 95, 100)):
        assert row.percentiles_mm["95"] == row.hd95_mm
        assert row.percentiles_mm["100"] == row.hd_mm
        assert row.percentiles_mm["50"] == (row.hd_mm if distances is None else distances.hausdorff_mm(50))
    with pytest.raises(UsageError, match="above 0 and at most 100"):
        with_percentiles(compared, (0,))


def test_the_relative_volume_error_is_none_without_a_reference_volume():
    prediction, reference = np.zeros((4, 4, 4), int), np.zeros((4, 4, 4), int)
    prediction[:2], reference[:, :, :1] = 1, 1
    (row,) = segmentation_metrics(prediction, reference, spacing_mm=(1, 1, 1))
    assert row.relative_volume_error == 1
    (row,) = segmentation_metrics(prediction, 0 * reference, spacing_mm=(1, 1, 1), labels={"a": 1})
    assert row.relative_volume_error is None
    (row,) = segmentation_metrics(0 * prediction, reference, spacing_mm=(1, 1, 1), labels={"a": 1})
    assert row.relative_volume_error == -1


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_real_pairs_equal_surface_distance(real_data):
    """Ten hippocampi, each against itself moved by a voxel and against the next patient's, on anisotropic spacing."""
    import surface_distance as peer

    files = sorted((real_data / "hippocampus" / "labelsTr").glob("*.nii.gz"))[:11]
    if len(files) < 11:
        pytest.skip("no folder hippocampus among the real scans")
    masks = [np.asarray(nibabel.load(file).dataobj).astype(np.uint8) for file in files]
    spacing_mm = (0.9, 1.1, 2.3)
    for mask, other in pairwise(masks):
        size = tuple(min(sizes) for sizes in zip(mask.shape, other.shape, strict=True))
        box = tuple(slice(0, length) for length in size)
        for prediction in (np.roll(mask, 1, axis=0)[box], other[box]):
            rows = segmentation_metrics(
                prediction, mask[box], spacing_mm=spacing_mm, labels={"anterior": 1, "posterior": 2}
            )
            for value, row in enumerate(rows, start=1):
                theirs = peer.compute_surface_distances(mask[box] == value, prediction == value, spacing_mm)
                assert row.hd_mm == pytest.approx(peer.compute_robust_hausdorff(theirs, 100), abs=1e-6)
                assert row.hd95_mm == pytest.approx(peer.compute_robust_hausdorff(theirs, 95), abs=1e-6)
                assert row.nsd == pytest.approx(peer.compute_surface_dice_at_tolerance(theirs, 1.0), abs=1e-6)
