from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.errors import UsageError
from medseg.core.plan import IGNORE_INDEX, MISSING_CLASS, Plan
from medseg.data.crop import crop
from medseg.data.patches import PatchSampler, class_view, require_foreground, tile_starts, view_start, whole_view
from medseg.data.store import LoadedCase, StoredCase

PATCH = (8, 6, 4)


def _plan(*, labels=("liver", "tumour"), heads=None, targets=None, view="foreground", pool=("tumour",), batch=8):
    return Plan.parse(
        {
            "dataset": "d",
            "channels": ["CT"],
            "labels": {name: number for number, name in enumerate(labels, 1)},
            "spacing_mm": [1, 1, 1],
            "crop": "none",
            "normalisation": [{"scheme": "per_image"}],
            "coarse_axis": None,
            "patch_size": PATCH,
            "batch_size": batch,
            "mirror_axes": [],
            "network": {
                "features": [4, 8],
                "strides": [[1, 1, 1], [2, 2, 2]],
                "kernels": [[3, 3, 3]] * 2,
                "blocks": [1, 1],
            },
            "classification": {"heads": heads or {}, "targets": targets or {}, "view": view, "pool_labels": pool}
            if heads or targets
            else None,
        }
    )


def _case(name, *, shape=(30, 25, 20), boxes=(), classes=None, labelled=True, outputs=3):
    """Boxes are (network index, first voxel): 2 x 2 x 2 voxels each; the image counts the voxels."""
    labels = torch.zeros(shape, dtype=torch.uint8)
    for index, (i, j, k) in boxes:
        labels[i : i + 2, j : j + 2, k : k + 2] = index
    points = torch.argwhere(labels > 0)
    foreground = torch.cat([labels[tuple(points.T)][:, None].long(), points], dim=1).to(torch.int16)
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(len(name))).half() + 1
    entry = StoredCase(
        id=name,
        patient=name,
        file="f",
        sha256="",
        shape=shape,
        known=(labelled,) * outputs,
        classes=classes or {},
    )
    empty = torch.zeros(0, 0, 0, dtype=torch.uint8)
    return LoadedCase(entry, image, labels if labelled else empty, foreground if labelled else foreground[:0])


def _batches(sampler, count):
    return [sampler.batch(step) for step in range(count)]


def test_the_same_step_is_the_same_batch_whoever_asks():
    cases = [_case("a", boxes=[(1, (5, 5, 5))]), _case("b", boxes=[(2, (20, 20, 15))])]
    first, second = PatchSampler(cases, _plan(), seed=1), PatchSampler(cases, _plan(), seed=1)
    first.batch(3)
    one, two = first.batch(7), second.batch(7)
    assert one.cases == two.cases
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.labels, two.labels)
    assert not torch.equal(one.image, first.batch(8).image)
    assert not torch.equal(one.image, PatchSampler(cases, _plan(), seed=2).batch(7).image)
    assert len(first) == 2


def test_several_processes_share_a_batch_slot_by_slot():
    cases = [_case("a", boxes=[(1, (5, 5, 5))]), _case("b", boxes=[(2, (20, 20, 15))])]
    sampler = PatchSampler(cases, _plan(), seed=1)
    whole, parts = sampler.batch(7), [sampler.batch(7, range(3)), sampler.batch(7, range(3, 8))]
    assert torch.equal(torch.cat([part.image for part in parts]), whole.image)
    assert parts[0].cases + parts[1].cases == whole.cases
    assert parts[0].slots + parts[1].slots == whole.slots == tuple(range(8))


def test_shapes_types_and_what_is_known():
    batch = PatchSampler([_case("a", boxes=[(1, (5, 5, 5))])], _plan(), seed=0).batch(0)
    assert (batch.image.shape, batch.image.dtype) == ((8, 1, *PATCH), torch.float32)
    assert (batch.labels.shape, batch.labels.dtype) == ((8, *PATCH), torch.uint8)
    assert (batch.known.shape, bool(batch.known.all()), batch.classes) == ((8, 3), True, {})
    assert batch.to(torch.device("cpu")).cases == ("a",) * 8


def test_half_of_the_patches_show_a_label_each_label_alike():
    """Tiny labels in large cases: by chance alone a patch almost never holds one."""
    shape = (120, 120, 120)
    cases = [_case("a", shape=shape, boxes=[(1, (5, 5, 5))])] * 9 + [_case("b", shape=shape, boxes=[(2, (90, 90, 60))])]
    labels = torch.cat([batch.labels for batch in _batches(PatchSampler(cases, _plan(), seed=0), 60)])
    shown = [float((labels == index).flatten(1).any(1).float().mean()) for index in (1, 2)]
    assert shown == pytest.approx([0.25, 0.25], abs=0.08)


def test_a_patch_lies_inside_its_case():
    batches = _batches(PatchSampler([_case("a", boxes=[(1, (0, 0, 0)), (2, (28, 23, 18))])], _plan(), seed=0), 20)
    assert all((batch.image >= 1).all() for batch in batches)
    assert not any((batch.labels == IGNORE_INDEX).any() for batch in batches)


def test_a_case_smaller_than_the_patch_lies_in_its_middle():
    case = _case("a", shape=(4, 6, 2), boxes=[(1, (0, 0, 0))])
    batch = PatchSampler([case], _plan(), seed=0).batch(0)
    assert torch.equal(batch.image[0, 0, 2:6, :, 1:3], case.image[0].float())
    assert torch.equal(batch.labels[0, 2:6, :, 1:3], case.labels)
    assert batch.image[0].count_nonzero() == case.image.numel()
    assert (batch.labels[0] == IGNORE_INDEX).sum() == np.prod(PATCH) - case.labels.numel()


def test_a_case_without_reference_is_ignored_everywhere():
    cases = [_case("labelled", boxes=[(1, (5, 5, 5))]), _case("bare", labelled=False)]
    batches = _batches(PatchSampler(cases, _plan(), seed=0), 10)
    seen = Counter(name for batch in batches for name in batch.cases)
    assert seen["labelled"] > seen["bare"] > 0
    for batch in batches:
        for sample, name in enumerate(batch.cases):
            assert bool((batch.labels[sample] == IGNORE_INDEX).all()) == (name == "bare")
            assert bool(batch.known[sample].any()) == (name != "bare")


@pytest.mark.parametrize("classes", [{}, {"grade": MISSING_CLASS}])
def test_nothing_to_learn_is_said_at_once(classes):
    with pytest.raises(UsageError) as caught:
        PatchSampler([_case("a", labelled=False, classes=classes)], _plan(heads={"grade": ["low", "high"]}), seed=0)
    assert caught.value.code == "E-NOTHING-TO-LEARN"


def test_classes_come_equally_often_on_every_second_patch():
    plan = _plan(heads={"grade": ["low", "high"]})
    box = [(2, (10, 10, 10))]
    cases = [_case(f"low{n}", boxes=box, classes={"grade": 0}) for n in range(9)]
    cases += [_case("high", boxes=box, classes={"grade": 1}), _case("none", boxes=box, classes={"grade": -1})]
    classes = torch.stack([batch.classes["grade"] for batch in _batches(PatchSampler(cases, plan, seed=0), 60)])
    assert (classes[:, 1::2] == 1).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (classes[:, 1::2] >= 0).all()


def test_a_patch_carries_the_class_when_it_shows_most_of_what_the_class_is_about():
    plan = _plan(heads={"grade": ["low", "high"]})
    sampler = PatchSampler([_case("a", boxes=[(2, (10, 10, 10))], classes={"grade": 1})], plan, seed=0)
    ordinary = [
        (int(grade), float((labels == 2).sum()))
        for batch in _batches(sampler, 60)
        for grade, labels in zip(batch.classes["grade"][::2], batch.labels[::2], strict=True)
    ]
    whole = max(voxels for _, voxels in ordinary)
    assert {grade for grade, _ in ordinary} == {MISSING_CLASS, 1}
    assert all((grade == 1) == (voxels >= 0.8 * whole) for grade, voxels in ordinary)


def test_a_case_known_by_the_second_head_alone_is_seen():
    plan = _plan(heads={"grade": ["low", "high"], "side": ["left", "right"]})
    box = [(2, (10, 10, 10))]
    cases = [_case("a", boxes=box, classes={"grade": 1}), _case("b", boxes=box, classes={"grade": -1, "side": 0})]
    batches = _batches(PatchSampler(cases, plan, seed=0), 8)
    assert set(torch.stack([batch.classes["grade"] for batch in batches]).unique().tolist()) == {MISSING_CLASS, 1}
    assert set(torch.stack([batch.classes["side"] for batch in batches]).unique().tolist()) == {MISSING_CLASS, 0}


def test_the_view_is_centred_on_the_pooled_labels():
    plan = _plan(heads={"grade": ["low", "high"]})
    case = _case("a", boxes=[(1, (0, 0, 0)), (2, (14, 9, 7))])
    image, labels = class_view(case, plan)
    # The label's centre, 14.5 x 9.5 x 7.5, is the middle of 8 x 6 x 4 voxels from 11 x 7 x 6.
    assert torch.equal(image, case.image[:, 11:19, 7:13, 6:10].float())
    assert torch.equal(labels, case.labels[11:19, 7:13, 6:10])
    wandering = [class_view(case, plan, jitter=np.random.default_rng(seed))[1] for seed in range(30)]
    assert all((view == 2).any() for view in wandering)
    assert len({tuple(torch.argwhere(view == 2)[0].tolist()) for view in wandering}) > 5


def test_the_view_of_a_case_without_its_label_is_its_middle():
    plan = _plan(heads={"grade": ["low", "high"]})
    case = _case("a", boxes=[(1, (0, 0, 0))])
    image, _ = class_view(case, plan)
    start = view_start(np.asarray(case.entry.shape) / 2, PATCH)
    assert torch.equal(image, crop(case.image, start, PATCH).float())


def test_a_whole_view_is_the_case_shrunk_and_teaches_no_mask():
    plan = _plan(labels=(), heads={"grade": ["low", "high"]}, view="whole", pool=(), batch=4)
    case = _case("a", labelled=False, classes={"grade": 1}, outputs=1)
    batch = PatchSampler([case], plan, seed=0).batch(0)
    assert torch.equal(batch.image[0], whole_view(case.image, PATCH))
    assert (batch.labels == IGNORE_INDEX).all()
    assert batch.classes["grade"].tolist() == [1] * 4
    assert batch.image.mean().item() == pytest.approx(case.image.float().mean().item(), abs=0.05)
    same = torch.rand(1, *PATCH)
    assert torch.equal(whole_view(same, PATCH), same)


@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.integers(-15, 15)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
)
def test_crop_is_indexing_with_zeros_around(shape, start, size):
    array = torch.arange(1, int(np.prod(shape)) + 1).reshape(1, *shape)
    wide = torch.full((1, *(length + 60 for length in shape)), -7)
    wide[:, 30 : 30 + shape[0], 30 : 30 + shape[1], 30 : 30 + shape[2]] = array
    box = tuple(slice(30 + first, 30 + first + length) for first, length in zip(start, size, strict=True))
    assert torch.equal(crop(array, np.array(start), size, fill=-7), wide[(slice(None), *box)])


def test_view_start_by_hand():
    assert view_start(np.array([10.0, 10.0, 9.5]), (5, 5, 4)).tolist() == [8, 8, 8]
    moved = np.array(
        [view_start(np.zeros(3), (40, 20, 4), jitter=np.random.default_rng(seed)) for seed in range(200)]
    ) - view_start(np.zeros(3), (40, 20, 4))
    assert np.abs(moved).max(0).tolist() == [4, 2, 1]


def test_a_label_of_one_voxel_in_ten_thousand_is_shown_as_often_as_a_common_one():
    shape = (48, 48, 48)
    common = [
        _case(f"{n}", shape=shape, boxes=[(1, (4 * i, 4 * j, 20)) for i in range(12) for j in range(12)])
        for n in range(5)
    ]
    rare = _case("rare", shape=shape, boxes=[(1, (20, 20, 20)), (2, (30, 31, 32))])  # 8 of 110,592 voxels
    sampler = PatchSampler([*common, rare], _plan(), seed=2)
    batches = [sampler.batch(step) for step in range(60)]
    shown = np.mean([bool((labels == 2).any()) for batch in batches for labels in batch.labels])
    assert 0.15 < shown < 0.35  # a quarter: half of the patches, shared by two labels


def test_one_huge_case_among_small_ones_is_drawn_no_more_often_than_they_are():
    small = [_case(f"{n}", shape=(6, 5, 4)) for n in range(4)]
    huge = _case("huge", shape=(220, 180, 150))
    sampler = PatchSampler([*small, huge], _plan(), seed=2)
    drawn = Counter(case for step in range(60) for case in sampler.batch(step).cases)
    assert 60 * 8 / 5 * 0.7 < drawn["huge"] < 60 * 8 / 5 * 1.3
    assert sampler.batch(0).image.shape == (8, 1, *PATCH)


def test_masks_that_are_all_empty_are_refused_before_training():
    empty, mute = [_case("a"), _case("b")], _case("c", labelled=False)
    with pytest.raises(UsageError, match=r"masks of all 2 .* empty: no voxel of liver, tumour") as caught:
        require_foreground([*empty, LoadedCase(mute.entry, mute.image, torch.zeros(0, 0, 0), mute.foreground)], _plan())
    assert caught.value.code == "E-NOTHING-TO-LEARN"
    require_foreground([*empty, _case("d", boxes=[(2, (3, 3, 3))])], _plan())
    require_foreground([], _plan())


AGE = {"unit": "years", "n": 2, "mean": 60.0, "std": 10.0, "low": 40.0, "high": 80.0}


def test_values_are_standardised_where_the_patch_shows_the_case():
    plan = _plan(targets={"age": AGE})
    cases = [
        _with_values(_case("old", boxes=[(1, (2, 2, 2)), (2, (20, 15, 10))]), {"age": 75.0}),
        _case("unknown", boxes=[(2, (5, 5, 5))]),
    ]
    batch = PatchSampler(cases, plan, seed=1).batch(0, range(40))
    taught = [case for case, value in zip(batch.cases, batch.values["age"].tolist(), strict=True) if value == 1.5]
    assert set(taught) == {"old"}
    assert 20 <= len(taught) < 40
    assert len(batch.views()) == len(taught)
    assert batch.values_of_views()["age"].tolist() == [1.5] * len(taught)
    assert batch.part(torch.tensor([1])).values["age"].tolist() == [1.5]
    assert torch.isnan(batch.values["age"]).sum() == 40 - len(taught)


def _with_values(case, values):
    entry = case.entry.model_copy(update={"values": values})
    return LoadedCase(entry, case.image, case.labels, case.foreground)


def test_cases_with_values_alone_are_views_beside_those_of_each_class():
    plan = _plan(labels=(), heads={"kind": ("a", "b")}, targets={"age": AGE}, view="whole", pool=())
    cases = [
        _case("a", classes={"kind": 0}, labelled=False, outputs=1),
        _case("b", classes={"kind": 1}, labelled=False, outputs=1),
        _with_values(_case("v", classes={"kind": MISSING_CLASS}, labelled=False, outputs=1), {"age": 50.0}),
        _case("n", classes={"kind": MISSING_CLASS}, labelled=False, outputs=1),
    ]
    seen = Counter(PatchSampler(cases, plan, seed=3).batch(0, range(90)).cases)
    assert set(seen) == {"a", "b", "v"}
    assert min(seen.values()) > 15


def _attending(batch=8):
    plan = _plan(heads={"grade": ["low", "high"]}, batch=batch)
    return plan.model_copy(update={"classification": plan.classification.model_copy(update={"pooling": "attention"})})


@pytest.mark.parametrize("attends", [True, False])
def test_where_the_head_gathers_the_patch_beside_a_view_is_of_its_case(attends):
    plan = _attending() if attends else _plan(heads={"grade": ["low", "high"]})
    cases = [_case(f"c{n}", boxes=[(1 + n % 2, (10, 10, 10))], classes={"grade": n % 2}) for n in range(6)]
    sampler = PatchSampler(cases, plan, seed=0)
    batches = _batches(sampler, 30)
    alike = [one == other for batch in batches for one, other in zip(batch.cases[::2], batch.cases[1::2], strict=True)]
    assert all(alike) is attends
    assert batches[0].pairs().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {name for batch in batches for name in batch.cases} == {case.entry.id for case in cases}
    told = torch.stack([batch.classes["grade"] for batch in batches])
    assert (told[:, 1::2] >= 0).all()
    assert bool((told[:, ::2] >= 0).any()) is not attends  # of a pair one alone brings the class
    shown = torch.stack([(batch.labels[::2] > 0).flatten(1).any(1) for batch in batches])
    assert 0.4 < shown.float().mean() < 0.75
    parts = [sampler.batch(7, range(3)), sampler.batch(7, range(3, 8))]
    assert torch.equal(torch.cat([part.image for part in parts]), sampler.batch(7).image)


def test_a_batch_of_an_odd_number_ends_with_a_patch_of_any_case():
    cases = [_case(f"c{n}", boxes=[(2, (10, 10, 10))], classes={"grade": n % 2}) for n in range(2)]
    batches = _batches(PatchSampler(cases, _attending(batch=3), seed=0), 20)
    assert all(batch.cases[0] == batch.cases[1] for batch in batches)
    assert {batch.cases[1] == batch.cases[2] for batch in batches} == {True, False}


@pytest.mark.parametrize("shape", [(8, 6, 4), (20, 6, 9), (5, 13, 4)])
def test_tiles_cover_a_case(shape):
    seen = torch.zeros(shape)
    for start in tile_starts(shape, PATCH):
        inside = tuple(slice(max(first, 0), first + size) for first, size in zip(start.tolist(), PATCH, strict=True))
        seen[inside] += 1
        assert all(first >= 0 for first, size, whole in zip(start, PATCH, shape, strict=True) if whole >= size)
    assert (seen >= 1).all()
    assert len(tile_starts(shape, PATCH)) == np.prod([-(-max(w, s) // s) for w, s in zip(shape, PATCH, strict=True)])
