from __future__ import annotations

import dataclasses

import pytest
import torch

from medseg.core.plan import IGNORE_INDEX, Normalisation, Plan
from medseg.ops import augment as module
from medseg.ops.augment import Augmentation, augment, swap_table

STILL = Augmentation(mirror_axes=(), swaps=(), rotation_axes=(0, 1, 2), p_spatial=0.0)
TURNED = dataclasses.replace(STILL, p_spatial=1.0)


def _seeded(number, batch):
    return [torch.Generator().manual_seed(1000 * number + sample) for sample in range(batch)]


def _blob(batch=4, shape=(20, 24, 16)):
    """Off-centre ellipsoids, the image being the label's own picture."""
    axes = torch.meshgrid(*[torch.arange(size) - 0.4 * size for size in shape], indexing="ij")
    inside = sum((axis / (0.25 * size)) ** 2 for axis, size in zip(axes, shape, strict=True)) < 1
    labels = inside.to(torch.uint8).expand(batch, *shape).clone()
    return labels.unsqueeze(1).float(), labels, torch.ones(batch, 3, dtype=torch.bool)


@pytest.fixture
def plain(monkeypatch):
    """Without intensity transforms."""
    monkeypatch.setattr(module, "CHANGES", ())


def test_the_same_seed_gives_the_same_batch_and_leaves_the_input():
    image, labels, known = _blob()
    how = dataclasses.replace(TURNED, mirror_axes=(0, 1, 2), swaps=((1, 2),))
    before = image.clone(), labels.clone(), known.clone()
    first, again, other = (augment(image, labels, known, how=how, generators=_seeded(seed, 4)) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert all(torch.equal(a, b) for a, b in zip(before, (image, labels, known), strict=True))


def test_a_sample_is_varied_alike_whichever_others_share_its_batch():
    image, labels, known = _blob(6)
    image = image + torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    how = dataclasses.replace(TURNED, p_spatial=0.5, mirror_axes=(0, 1, 2), swaps=((1, 2),))
    for number in range(5):
        whole = augment(image, labels, known, how=how, generators=_seeded(number, 6))
        for part in (slice(0, 1), slice(2, 5)):
            alone = augment(image[part], labels[part], known[part], how=how, generators=_seeded(number, 6)[part])
            torch.testing.assert_close(alone[0], whole[0][part])
            assert all(torch.equal(a, b[part]) for a, b in zip(alone[1:], whole[1:], strict=True))


@pytest.mark.usefixtures("plain")
def test_nothing_drawn_nothing_changed():
    batch = _blob()
    result = augment(*batch, how=STILL, generators=_seeded(0, 4))
    assert all(torch.equal(a, b) for a, b in zip(batch, result, strict=True))


def test_a_shape_keeps_its_two_values():
    batch = _blob(16)
    varied, kept = (
        augment(*batch, how=dataclasses.replace(STILL, intensity=on), generators=_seeded(0, 16))[0]
        for on in (True, False)
    )
    assert torch.equal(kept, batch[0])
    assert not torch.equal(varied, kept)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)])
def test_image_and_labels_turn_and_zoom_together(axes):
    image, labels, known = _blob(8)
    how = dataclasses.replace(TURNED, rotation_axes=axes, rotation_deg=30.0)
    moved, turned, _ = augment(image, labels, known, how=how, generators=_seeded(1, 8))
    assert not torch.equal(turned, labels)
    truth, seen = turned == 1, moved[:, 0] > 0.5
    dice = 2 * (truth & seen).sum((1, 2, 3)) / (truth.sum((1, 2, 3)) + seen.sum((1, 2, 3)))
    assert dice.min() > 0.92


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_turn_about_one_axis_keeps_the_planes_across_it_and_the_volume(axis):
    image, labels, known = _blob(4)
    how = dataclasses.replace(TURNED, rotation_axes=(axis,), scaling=(1.0, 1.0), rotation_deg=25.0)
    _, turned, _ = augment(image, labels, known, how=how, generators=_seeded(2, 4))
    others = tuple(other + 1 for other in range(3) if other != axis)
    before, after = ((part == 1).sum(others).float() for part in (labels, turned))
    assert ((before - after).abs() <= 0.15 * before.max()).all()
    assert (before.bool() == after.bool()).all()


@pytest.mark.usefixtures("plain")
def test_zoom_by_hand():
    image, labels, known = _blob(1, (32, 32, 32))
    how = dataclasses.replace(TURNED, rotation_deg=0.0, scaling=(1.25, 1.25))
    _, grown, _ = augment(image, labels, known, how=how, generators=_seeded(0, 1))
    assert (grown == 1).sum().item() / (labels == 1).sum().item() == pytest.approx(1.25**3, rel=0.1)


@pytest.mark.usefixtures("plain")
def test_what_comes_from_outside_is_ignored_and_ignored_voxels_stay_so():
    labels = torch.full((6, 12, 12, 12), IGNORE_INDEX, dtype=torch.uint8)
    labels[:, 4:8, 4:8, 4:8] = 254
    how = dataclasses.replace(TURNED, mirror_axes=(0, 1, 2), swaps=((1, 2),), scaling=(0.5, 0.6))
    _, moved, _ = augment(labels[:, None].float(), labels, torch.ones(6, 3).bool(), how=how, generators=_seeded(3, 6))
    assert set(moved.unique().tolist()) == {254, IGNORE_INDEX}
    _, moved, _ = augment(
        labels[:, None].float(), labels * 0, torch.ones(6, 3).bool(), how=how, generators=_seeded(3, 6)
    )
    assert set(moved.unique().tolist()) == {0, IGNORE_INDEX}
    assert (moved[:, 6, 6, 6] == 0).all()


@pytest.mark.usefixtures("plain")
def test_a_left_right_mirror_exchanges_pairs_and_what_is_known():
    image, labels, _ = _blob(16)
    labels[:, :3, :3, :3] = IGNORE_INDEX
    labels[:, -3:] = 3
    known = torch.tensor([[True, True, False, True]]).repeat(16, 1)
    how = dataclasses.replace(STILL, mirror_axes=(0,), swaps=((1, 2),))
    moved, flipped, now_known = augment(image, labels, known, how=how, generators=_seeded(4, 16))
    mirrored = (flipped[:, 0] == 3).flatten(1).any(1)
    assert 0 < mirrored.sum() < 16
    for sample in range(16):
        if not mirrored[sample]:
            assert torch.equal(flipped[sample], labels[sample])
            assert torch.equal(now_known[sample], known[sample])
            continue
        exchanged = labels[sample].flip(0)
        exchanged[exchanged == 1] = 2
        assert torch.equal(flipped[sample], exchanged)
        assert torch.equal(moved[sample], image[sample].flip(1))
        assert now_known[sample].tolist() == [True, False, True, True]


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("axis", [1, 2])
def test_other_mirrors_exchange_nothing(axis):
    image, labels, known = _blob(16)
    how = dataclasses.replace(STILL, mirror_axes=(axis,), swaps=((1, 2),))
    moved, flipped, _ = augment(image, labels, known, how=how, generators=_seeded(4, 16))
    assert not torch.equal(moved, image)
    assert torch.equal(moved[:, 0].to(torch.uint8), flipped)


def test_swap_table():
    table = swap_table([(1, 4), (2, 3)])
    assert table[:6].tolist() == [0, 4, 3, 2, 1, 5]
    assert table[IGNORE_INDEX] == IGNORE_INDEX
    assert torch.equal(table[table.long()], torch.arange(256, dtype=torch.uint8))


def test_from_plan():
    plan = Plan.parse(
        {
            "dataset": "d",
            "channels": ["CT"],
            "labels": {"kidney_r": 2, "kidney_l": 7, "liver": 1},
            "spacing_mm": [1, 1, 5],
            "crop": "none",
            "normalisation": [{"scheme": "per_image"}],
            "coarse_axis": 2,
            "patch_size": [8, 8, 8],
            "batch_size": 2,
            "mirror_axes": [0],
            "left_right_pairs": [["kidney_l", "kidney_r"]],
            "network": {
                "features": [4, 8],
                "strides": [[1, 1, 1], [2, 2, 1]],
                "kernels": [[3, 3, 1], [3, 3, 3]],
                "blocks": [1, 1],
            },
        }
    )
    how = Augmentation.from_plan(plan)
    assert (how.mirror_axes, how.swaps, how.rotation_axes) == ((0,), ((3, 2),), (2,))
    assert Augmentation.from_plan(plan.model_copy(update={"coarse_axis": None})).rotation_axes == (0, 1, 2)
    assert (how.spacing_mm, how.p_elastic, how.bias_channels) == ((1, 1, 5), 0, ())
    assert Augmentation.from_plan(plan, elastic=True).p_elastic > 0
    rules = [*plan.normalisation * 3, Normalisation(scheme="fixed")]
    several = plan.model_copy(update={"channels": ("MRI", "CT", "FLAIR", "MRI"), "normalisation": tuple(rules)})
    assert Augmentation.from_plan(several).bias_channels == (0, 2)


def _ball(shape, spacing, radius_mm=9.0):
    """A ball in mm, off the centre, on an anisotropic grid."""
    axes = [(torch.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, spacing, strict=True)]
    i, j, k = torch.meshgrid(*axes, indexing="ij")
    return ((i - 6) ** 2 + j**2 + k**2).sqrt() < radius_mm


@pytest.mark.usefixtures("plain")
def test_a_turn_on_an_anisotropic_grid_keeps_shapes_in_mm():
    """A ball stays a ball: its second moments in mm are those of one, which a turn in voxels would shear."""
    shape, spacing = (40, 40, 16), (1.0, 1.0, 2.5)
    labels = _ball(shape, spacing).to(torch.uint8).expand(6, *shape).clone()
    how = dataclasses.replace(TURNED, rotation_deg=40.0, scaling=(1.0, 1.0), spacing_mm=spacing)

    def worst(how):
        moved = augment(labels[:, None].float(), labels, torch.ones(6, 3).bool(), how=how, generators=_seeded(3, 6))[1]
        assert not torch.equal(moved, labels)
        values = []
        for sample in moved:
            points = (sample == 1).nonzero().double() * torch.tensor(spacing, dtype=torch.float64)
            moments = torch.linalg.eigvalsh(torch.cov(points.T))
            values.append((moments.max() / moments.min()).item())
        return max(values)

    assert worst(how) < 1.2
    assert worst(dataclasses.replace(how, spacing_mm=(1.0, 1.0, 1.0))) > 1.4


@pytest.mark.usefixtures("plain")
def test_an_elastic_deformation_bends_image_and_labels_alike_without_folding():
    image, labels, known = _blob(8, (24, 24, 24))
    how = dataclasses.replace(STILL, p_elastic=1.0)
    moved, bent, _ = augment(image, labels, known, how=how, generators=_seeded(1, 8))
    truth, seen = bent == 1, moved[:, 0] > 0.5
    dice = 2 * (truth & seen).sum((1, 2, 3)) / (truth.sum((1, 2, 3)) + seen.sum((1, 2, 3)))
    assert dice.min() > 0.95
    assert sum(not torch.equal(one, two) for one, two in zip(bent, labels, strict=True)) >= 4
    assert not any(torch.equal(one, two) for one, two in zip(moved, image, strict=True))
    shifts = module._displacement((24, 24, 24), how, module.Draw(_seeded(2, 8), image.device))
    for axis in range(3):
        # how fast the sampled place moves, relative to the voxel: positive, so that order is kept
        steps = 1 + shifts[..., 2 - axis].diff(dim=axis + 1) / (2 / 24)
        assert steps.min() > 0
    coarse = dataclasses.replace(how, rotation_axes=(2,))
    assert not module._displacement((24, 24, 24), coarse, module.Draw(_seeded(2, 8), image.device))[..., 0].any()


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("change", [{"p_spatial": 1.0}, {"p_elastic": 1.0}])
def test_samples_that_tell_a_number_keep_their_size(change):
    """They turn as they would have, and the others are varied as ever."""
    image, labels, known = _blob(8, (32, 32, 32))
    how = dataclasses.replace(STILL, **change)
    sized = torch.arange(8) % 2 == 0
    plain = augment(image, labels, known, how=how, generators=_seeded(5, 8))
    varied = augment(image, labels, known, how=how, generators=_seeded(5, 8), sized=sized)
    assert all(torch.equal(one[~sized], two[~sized]) for one, two in zip(varied, plain, strict=True))
    ratios = [((one[1] == 1).sum((1, 2, 3)) / (labels == 1).sum((1, 2, 3)))[sized] for one in (varied, plain)]
    assert (ratios[0] - 1).abs().max() < 0.03
    assert (ratios[1] - 1).abs().max() > 0.1
    turned = [not torch.equal(one, two) for one, two in zip(varied[1][sized], labels[sized], strict=True)]
    assert all(turned) if "p_spatial" in change else not any(turned)


def test_spline_weights_add_up_to_one_and_are_local():
    weights = module._bspline(32, device=torch.device("cpu"))
    torch.testing.assert_close(weights.sum(1), torch.ones(32))
    assert (weights >= 0).all()
    assert ((weights > 0).sum(1) <= 4).all()


@pytest.mark.usefixtures("plain")
def test_samples_that_drew_nothing_spatial_stay_while_others_bend():
    image, labels, known = _blob(32)
    how = dataclasses.replace(STILL, p_spatial=0.3, p_elastic=0.2)
    moved, bent, _ = augment(image, labels, known, how=how, generators=_seeded(7, 32))
    still = [torch.equal(one, two) for one, two in zip(moved, image, strict=True)]
    assert 10 < sum(still) < 26
    assert [torch.equal(one, two) for one, two in zip(bent, labels, strict=True)] == still


@pytest.mark.usefixtures("plain")
def test_only_mri_channels_are_shaded():
    image, labels, known = torch.rand(16, 3, 8, 8, 8), torch.zeros(16, 8, 8, 8, dtype=torch.uint8), torch.ones(16, 2)
    how = dataclasses.replace(STILL, bias_channels=(0, 2))
    shaded, _, _ = augment(image, labels, known.bool(), how=how, generators=_seeded(1, 16))
    changed = (shaded != image).flatten(2).any(2)
    assert 0 < changed[:, 0].sum() < 16
    assert torch.equal(changed[:, 0], changed[:, 2])
    assert not changed[:, 1].any()


def test_a_missing_channel_stays_away():
    image = torch.randn(6, 2, 10, 10, 10)
    image[::2, 1] = 0
    labels, known = torch.zeros(6, 10, 10, 10, dtype=torch.uint8), torch.ones(6, 2).bool()
    for number in range(5):
        varied, _, _ = augment(image, labels, known, how=TURNED, generators=_seeded(number, 6))
        assert varied[::2, 1].count_nonzero() == 0
        assert (varied.flatten(2).count_nonzero(2) > 0).sum() == 9
