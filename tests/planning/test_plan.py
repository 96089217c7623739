from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.case import Dataset
from medseg.core.plan import CaseFingerprint, ChannelStatistics, Fingerprint
from medseg.nn.build import build_network
from medseg.ops.augment import Augmentation
from medseg.planning.network import CAPACITIES
from medseg.planning.plan import Wishes, make_plan

CT = ChannelStatistics(mean=80, std=20, median=82, percentile_00_5=-40, percentile_99_5=190, minimum=-900, maximum=2000)
HEADS = {"grade": ("low", "high")}


def _dataset(labels=("liver", "tumour"), *, channels=("CT",), heads=None):
    return Dataset(name="d", channels=channels, labels={name: n for n, name in enumerate(labels, 1)}, heads=heads or {})


def _fingerprint(spacing=(1.0, 1.0, 1.0), shape=(120, 110, 90), *, coarse=None, crop_share=0.95, channels=1, num=30):
    return Fingerprint(
        num_cases=num,
        median_spacing_mm=spacing,
        coarse_spacing_mm=coarse or spacing,
        median_shape=shape,
        median_extent_mm=tuple(size * step for size, step in zip(shape, spacing, strict=True)),
        crop_share=crop_share,
        channels=(CT,) * channels,
        class_counts={},
        cases=(),
    )


def _reason(plan, what):
    return next(decision.reason for decision in plan.decisions if decision.what == what)


def test_spacing_is_the_median():
    assert make_plan(_dataset(), _fingerprint((0.8, 0.9, 2.0)), Wishes()).spacing_mm == (0.8, 0.9, 2.0)


def test_a_coarse_axis_takes_its_10th_percentile():
    thick = _fingerprint((0.8, 0.8, 5.0), (400, 400, 60), coarse=(0.7, 0.7, 3.0))
    plan = make_plan(_dataset(), thick, Wishes())
    assert plan.spacing_mm == (0.8, 0.8, 3.0)
    assert "10th percentile" in _reason(plan, "spacing")
    many_slices = _fingerprint((0.8, 0.8, 5.0), (400, 400, 150), coarse=(0.7, 0.7, 3.0))
    assert make_plan(_dataset(), many_slices, Wishes()).spacing_mm == (0.8, 0.8, 5.0)
    finer_than_the_plane = _fingerprint((0.8, 0.8, 5.0), (400, 400, 60), coarse=(0.7, 0.7, 0.5))
    assert make_plan(_dataset(), finer_than_the_plane, Wishes()).spacing_mm == (0.8, 0.8, 0.8)


@pytest.mark.parametrize(("step", "axis"), [(3.0, None), (3.1, 2)])
def test_the_coarse_axis_is_interpolated_linearly(step, axis):
    assert make_plan(_dataset(), _fingerprint((1.0, 1.0, step)), Wishes()).coarse_axis == axis


@pytest.mark.parametrize(("share", "crop"), [(0.89, "nonzero"), (0.9, "none")])
def test_crop(share, crop):
    assert make_plan(_dataset(), _fingerprint(crop_share=share), Wishes()).crop == crop


fingerprints = st.builds(
    _fingerprint,
    st.tuples(*[st.floats(0.3, 6).map(lambda value: round(value, 2))] * 3),
    st.tuples(*[st.integers(1, 600)] * 3),
    num=st.integers(1, 400),
)


@settings(max_examples=300, deadline=None)
@given(fingerprints, st.sampled_from(["cpu", "gpu"]))
def test_the_plan_fits_its_budget_and_its_pooling(fingerprint, target):
    capacity = CAPACITIES[target]
    plan = make_plan(_dataset(), fingerprint, Wishes(target=target))
    network = plan.network
    assert np.prod(plan.patch_size) <= capacity.patch_voxels
    assert plan.batch_size >= 2
    assert plan.batch_size == 2 or plan.batch_size * np.prod(plan.patch_size) <= capacity.step_voxels
    assert 2 <= len(network.strides) <= 6
    factors = np.prod(network.strides, axis=0)
    assert (np.asarray(plan.patch_size) % factors == 0).all()
    bottleneck = np.asarray(plan.patch_size) // factors
    assert (bottleneck[factors > 1] >= 4).all()
    assert max(network.features) <= capacity.max_features
    for stride, kernel in zip(network.strides, network.kernels, strict=True):
        assert all(width == 3 for width, factor in zip(kernel, stride, strict=True) if factor == 2)


@settings(max_examples=100, deadline=None)
@given(fingerprints)
def test_kernels_grow_and_never_shrink(fingerprint):
    kernels = np.array(make_plan(_dataset(), fingerprint, Wishes()).network.kernels)
    assert (np.diff(kernels, axis=0) >= 0).all()
    assert (kernels[0] == 3).any()


def test_a_patch_is_isotropic_in_mm_where_the_case_allows():
    plan = make_plan(_dataset(), _fingerprint((1.0, 1.0, 2.0), (400, 400, 200)), Wishes(target="gpu"))
    extent = np.multiply(plan.patch_size, plan.spacing_mm)
    assert extent.max() / extent.min() < 1.3
    assert np.prod(plan.patch_size) > 0.8 * CAPACITIES["gpu"].patch_voxels


def test_a_small_case_is_one_patch():
    plan = make_plan(_dataset(), _fingerprint(shape=(36, 50, 35)), Wishes())
    assert plan.patch_size == (40, 56, 40)
    assert plan.network.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))


def test_anisotropic_kernels_and_strides_until_the_axes_are_alike():
    plan = make_plan(_dataset(), _fingerprint((0.5, 0.5, 3.0), (320, 320, 40)), Wishes(target="gpu"))
    assert plan.network.strides[:4] == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert plan.network.kernels[:4] == ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3))


def test_a_thin_slab_still_sees_its_plane():
    """The short axis, which cannot be halved, must not stop the others."""
    plan = make_plan(_dataset(), _fingerprint((1.0, 1.0, 1.0), (200, 200, 4)), Wishes(target="gpu"))
    assert plan.patch_size[2] == 4
    assert plan.network.strides[1:] == ((2, 2, 1),) * 5
    assert plan.network.kernels == ((3, 3, 3),) * 6


@pytest.mark.parametrize("shape", [(6, 5, 4), (3, 1, 1), (30, 30, 1)])
def test_tiny_cases_get_a_network_that_runs(shape):

    plan = make_plan(_dataset(heads=HEADS), _fingerprint(shape=shape), Wishes())
    network = build_network(plan).eval()
    with torch.no_grad():
        output = network(torch.zeros(1, 1, *plan.patch_size), views=torch.arange(1))
    assert output.logits[0].shape == (1, 3, *plan.patch_size)


def test_width_and_kind_follow_the_machine():
    small, large = (make_plan(_dataset(), _fingerprint(), Wishes(target=target)) for target in ("cpu", "gpu"))
    assert (small.network.kind, small.network.features[:3]) == ("plain", (16, 32, 64))
    assert (large.network.kind, large.network.features[-1]) == ("residual", 320)
    assert large.network.blocks[:3] == (1, 3, 4)


def test_batch_grows_with_small_patches_but_not_past_the_cases():
    assert make_plan(_dataset(), _fingerprint(shape=(16, 16, 16)), Wishes()).batch_size == 30
    assert make_plan(_dataset(), _fingerprint(shape=(16, 16, 16), num=300), Wishes()).batch_size == 32
    assert make_plan(_dataset(), _fingerprint(shape=(16, 16, 16), num=1), Wishes()).batch_size == 2


def test_a_shape_of_two_values_keeps_both_and_a_whole_case_is_not_cropped():
    mask = CT.model_copy(update={"minimum": 0, "maximum": 255, "two_valued": True})
    fingerprint = _fingerprint().model_copy(update={"channels": (mask,), "crop_share": 0.3})
    dataset = Dataset(name="shapes", channels=("MRI",), heads={"grade": ("low", "high")})
    plan = make_plan(dataset, fingerprint, Wishes())
    assert plan.crop == "none"
    (rule,) = plan.normalisation
    assert (rule.scheme, rule.mean, rule.std, rule.lower) == ("fixed", 127.5, 127.5, None)
    assert plan.classification is not None
    assert plan.classification.shape_channels == (0,)
    assert (plan.classification.directed, plan.classification.thickness, plan.mirror_axes) == (True, True, ())
    how = Augmentation.from_plan(plan)
    assert (how.intensity, how.scaling) == (False, (0.95, 1.05))


@pytest.mark.parametrize("pooling", [None, "foreground", "global", "attention"])
@pytest.mark.parametrize("labels", [("liver",), ()])
def test_under_a_mask_the_margin_is_measured_and_the_encoder_does_not_hear_of_the_classes(labels, pooling):
    plan = make_plan(_dataset(labels, heads=HEADS), _fingerprint(), Wishes(pooling=pooling))
    is_outlined = bool(labels) and pooling in {None, "foreground"}
    assert plan.classification is not None
    assert (plan.classification.margin, plan.classification.teaches_encoder) == (is_outlined, not is_outlined)
    assert ("encoder" in {one.what for one in plan.decisions}) == is_outlined


@pytest.mark.parametrize("directed", [None, False, True])
@pytest.mark.parametrize(("labels", "is_shape"), [((), True), ((), False), (("liver",), True)])
def test_only_shapes_without_labels_are_measured_by_direction_unless_the_user_says_so(labels, is_shape, directed):
    mask = CT.model_copy(update={"minimum": 0, "maximum": 255, "two_valued": True})
    fingerprint = _fingerprint().model_copy(update={"channels": (mask if is_shape else CT,)})
    plan = make_plan(_dataset(labels, heads=HEADS), fingerprint, Wishes(directed=directed))
    expected = (is_shape and not labels) if directed is None else directed
    assert plan.classification is not None
    assert plan.classification.directed == expected
    assert plan.classification.thickness == (is_shape and not labels)
    assert ("thickness of shapes" in {one.what for one in plan.decisions}) == plan.classification.thickness
    assert ("measures of shape" in {one.what for one in plan.decisions}) == (directed is not None or expected)
    if is_shape:  # a mirrored shape lies otherwise
        assert plan.mirror_axes == (() if expected else (0, 1, 2))


@pytest.mark.parametrize("pooling", [None, "foreground", "global", "attention"])
def test_the_users_pooling_is_planned_and_a_whole_case_has_no_foreground(pooling):
    plan = make_plan(_dataset(heads=HEADS), _fingerprint(), Wishes(pooling=pooling))
    assert plan.classification is not None
    assert plan.classification.pooling == (pooling or "foreground")
    whole = make_plan(_dataset((), heads=HEADS), _fingerprint(), Wishes(pooling=pooling)).classification
    assert whole is not None
    assert whole.pooling == ("attention" if pooling == "attention" else "global")


def test_a_whole_case_is_seen_at_its_own_resolution_with_all_its_air():
    case = CaseFingerprint(
        id="a", shape=(28, 30, 32), spacing_mm=(1, 1, 2), cropped_shape=(10, 15, 16), label_voxels={}, label_sides={}
    )
    fingerprint = _fingerprint((1, 1, 2), (10, 15, 16)).model_copy(update={"cases": (case,)})
    dataset = Dataset(name="shapes", channels=("MRI",), heads={"grade": ("low", "high")})
    plan = make_plan(dataset, fingerprint, Wishes())
    assert plan.patch_size == (28, 30, 32)
    assert Augmentation.from_plan(plan).intensity


def test_ct_is_clipped_and_scaled_by_the_training_set():
    (rule,) = make_plan(_dataset(), _fingerprint(), Wishes()).normalisation
    assert (rule.scheme, rule.lower, rule.upper, rule.mean, rule.std) == ("fixed", -40, 190, 80, 20)


def test_mri_is_scaled_by_itself_within_the_body_when_cropped():
    dataset = _dataset(channels=("MRI", "CT"))
    wishes = Wishes(correct_bias_field=True, equalise=True)
    plan = make_plan(dataset, _fingerprint(crop_share=0.5, channels=2), wishes)
    mri, ct = plan.normalisation
    assert (mri.scheme, mri.nonzero, mri.lower, mri.correct_bias_field, mri.equalise) == (
        "per_image",
        True,
        None,
        True,
        True,
    )
    assert (ct.scheme, ct.correct_bias_field, ct.equalise) == ("fixed", False, False)
    (whole,) = make_plan(_dataset(channels=("MRI",)), _fingerprint(), Wishes()).normalisation
    assert not whole.nonzero


def test_a_window_replaces_the_percentiles():
    (rule,) = make_plan(_dataset(), _fingerprint(), Wishes(window_hu=(-160, 240))).normalisation
    assert (rule.lower, rule.upper, rule.mean, rule.std) == (-160, 240, 40, 100)


def test_the_users_choices_win():
    wishes = Wishes(spacing_mm=(2.0, 2.0, 2.0), patch_size=(20, 24, 28), network="residual")
    plan = make_plan(_dataset(), _fingerprint(), wishes)
    assert (plan.spacing_mm, plan.patch_size, plan.network.kind) == ((2, 2, 2), (20, 24, 28), "residual")
    assert _reason(plan, "spacing") == "given in the settings"


def test_without_labels_the_whole_case_is_shrunk():
    plan = make_plan(_dataset((), heads=HEADS), _fingerprint(shape=(28, 200, 64)), Wishes())
    assert plan.patch_size == (28, 64, 64)
    assert (plan.classification.view, plan.classification.pool_labels) == ("whole", ())
    assert plan.num_outputs == 0


def test_without_heads_there_is_no_diagnosis():
    assert make_plan(_dataset(), _fingerprint(), Wishes()).classification is None


@pytest.mark.parametrize(
    "lesion",
    [
        "lesion",
        "liver_lesions",
        "tumour",
        "Kidney Tumor",
        "tumors",
        "mass",
        "masses",
        "lung-nodule",
        "pancreatic cancer",
        "carcinoma",
        "cyst",
        "cysts",
        "metastasis",
        "metastases",
        "neoplasm",
        "plaque",
    ],
)
def test_the_head_pools_under_the_lesions_alone(lesion):
    plan = make_plan(_dataset(("organ", lesion), heads=HEADS), _fingerprint(), Wishes())
    assert plan.classification.pool_labels == (lesion,)
    assert plan.classification.view == "foreground"
    assert "lesions by name" in _reason(plan, "diagnosis")


def test_without_lesions_the_head_pools_under_every_label():
    names = ("liver", "biomass", "cystic duct", "massif")
    plan = make_plan(_dataset(names, heads=HEADS), _fingerprint(), Wishes())
    assert plan.classification.pool_labels == names
    assert "lesions by name" not in _reason(plan, "diagnosis")


def test_pairs_reach_the_plan():
    plan = make_plan(_dataset(("kidney_left", "kidney_right")), _fingerprint(), Wishes())
    assert plan.left_right_pairs == (("kidney_left", "kidney_right"),)
    assert plan.mirror_axes == (0,)


def test_every_decision_has_a_value_and_a_reason():
    plan = make_plan(_dataset(heads=HEADS), _fingerprint(), Wishes())
    assert all(decision.value and len(decision.reason) > 10 for decision in plan.decisions)
    told = {decision.what for decision in plan.decisions}
    assert told >= {"spacing", "interpolation", "crop", "patch", "network", "batch size", "mirroring", "diagnosis"}
