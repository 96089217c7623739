from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn import functional

from medseg.ops.lines import LINEAR, NEAREST
from medseg.ops.resample import CUBIC, along_axis, interpolation_matrix, resample, resample_labels

SHAPES = [((9, 7, 5), (6, 11, 5)), ((4, 12, 3), (8, 5, 9)), ((1, 6, 2), (3, 6, 4))]


def _image(shape, channels=2):
    return torch.from_numpy(np.random.default_rng(3).normal(size=(channels, *shape)).astype(np.float32))


def _positions(old, new):
    """Where the voxels of the new grid lie on the old one, ends clamped to the outer samples."""
    lines = [(np.arange(n) + 0.5) * o / n - 0.5 for o, n in zip(old, new, strict=True)]
    return np.stack(np.meshgrid(*(np.clip(line, 0, o - 1) for line, o in zip(lines, old, strict=True)), indexing="ij"))


@pytest.mark.parametrize("order", [LINEAR, CUBIC])
@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_equals_scipy_at_the_same_positions(old, new, order):
    image = _image(old)
    ours = resample(image, new, orders=(order,) * 3)
    for channel, result in zip(image.numpy(), ours.numpy(), strict=True):
        peer = ndimage.map_coordinates(channel.astype(float), _positions(old, new), order=order, mode="mirror")
        np.testing.assert_allclose(result, peer, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_linear_equals_torch(old, new):
    image = _image(old)
    peer = functional.interpolate(image[None], new, mode="trilinear", align_corners=False)[0]
    torch.testing.assert_close(resample(image, new, orders=(LINEAR,) * 3), peer, atol=1e-5, rtol=1e-5)


def test_nearest_equals_torch():
    image = _image((9, 4, 5))
    peer = functional.interpolate(image[None], (6, 8, 10), mode="nearest-exact")[0]
    torch.testing.assert_close(resample(image, (6, 8, 10), orders=(NEAREST,) * 3), peer)


def test_orders_apply_axis_by_axis():
    image = _image((6, 6, 6), 1)
    mixed = resample(image, (9, 6, 9), orders=(CUBIC, CUBIC, LINEAR))
    by_hand = resample(resample(image, (9, 6, 6)), (9, 6, 9), orders=(LINEAR,) * 3)
    torch.testing.assert_close(mixed, by_hand)
    assert not torch.allclose(mixed, resample(image, (9, 6, 9)), atol=1e-3)


@pytest.mark.parametrize("stored", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_slabs_and_the_order_in_memory_do_not_show(monkeypatch, stored):
    image = (100 * _image((9, 7, 5))).to(torch.int16)
    labels = torch.from_numpy(np.random.default_rng(1).choice([0, 3, 255], (9, 7, 5)).astype(np.uint8))
    expected, moved = resample(image.float(), (6, 11, 4)), resample_labels(labels, (6, 11, 4))
    monkeypatch.setattr("medseg.ops.resample._SLAB_BYTES", 1)
    back = [stored.index(axis) for axis in range(3)]
    laid = image.permute(0, *(1 + axis for axis in stored)).contiguous().permute(0, *(1 + axis for axis in back))
    torch.testing.assert_close(resample(laid, (6, 11, 4)), expected, atol=1e-4, rtol=1e-5)
    assert torch.equal(resample_labels(labels.permute(stored).contiguous().permute(back), (6, 11, 4)), moved)


@pytest.mark.parametrize("shape", [(6, 11, 4), (9, 7, 5)])
@pytest.mark.parametrize("kind", [torch.int16, torch.float32])
def test_a_change_comes_before_resampling_and_leaves_the_image_alone(shape, kind):
    image = (10 * _image((9, 7, 5))).to(kind)
    before = image.clone()
    found = resample(image, shape, change=lambda part: part.clamp_(-5, 5).mul_(2))
    torch.testing.assert_close(found, resample(2 * image.clamp(-5, 5), shape), atol=1e-4, rtol=1e-5)
    assert torch.equal(image, before)


@pytest.mark.parametrize("size", [130, 500])
def test_a_long_axis_is_the_whole_spline(size):
    image = _image((300, 2, 1), 1)
    peer = ndimage.map_coordinates(
        image[0].numpy().astype(float), _positions((300, 2, 1), (size, 2, 1)), order=3, mode="mirror"
    )
    np.testing.assert_allclose(resample(image, (size, 2, 1))[0], peer, atol=1e-5)


@pytest.mark.parametrize("order", [NEAREST, LINEAR, CUBIC])
def test_the_same_grid_is_the_same_image(order):
    image = _image((5, 6, 7))
    assert torch.equal(resample(image, (5, 6, 7), orders=(order,) * 3), image)
    for size in (1, 2, 5, 30):
        np.testing.assert_allclose(interpolation_matrix(np.arange(size), size, order), np.eye(size), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([NEAREST, LINEAR, CUBIC]))
def test_a_constant_stays_constant(old, new, order):
    positions = (np.arange(new) + 0.5) * old / new - 0.5
    np.testing.assert_allclose(interpolation_matrix(positions, old, order).sum(1), 1, atol=1e-5)


@given(st.integers(2, 30), st.integers(2, 30))
def test_a_straight_line_stays_straight_between_the_outer_samples(old, new):
    positions = (np.arange(new) + 0.5) * old / new - 0.5
    line = interpolation_matrix(positions, old, LINEAR) @ np.arange(old)
    np.testing.assert_allclose(line, np.clip(positions, 0, old - 1), atol=1e-5)


def test_positions_beyond_the_ends_take_the_end():
    for order in (NEAREST, LINEAR, CUBIC):
        matrix = interpolation_matrix(np.array([-3.0, 99.0]), 5, order)
        np.testing.assert_allclose(matrix, np.eye(5)[[0, 4]], atol=1e-6)


def test_two_labels_by_hand():
    # Three voxels become two: their centres lie at .25 and 1.75 of the old line. At .25 the first voxel weighs .75.
    labels = torch.tensor([4, 9, 9], dtype=torch.uint8).reshape(3, 1, 1)
    assert resample_labels(labels, (2, 1, 1)).flatten().tolist() == [4, 9]
    # Two become four: -.25 (clamped to 0), .25, .75, 1.25 (clamped to 1).
    labels = torch.tensor([4, 255], dtype=torch.uint8).reshape(1, 2, 1)
    assert resample_labels(labels, (1, 4, 1)).flatten().tolist() == [4, 4, 255, 255]


def test_three_labels_the_largest_share_wins_not_the_mean():
    # At the middle of a 2 x 2 square 7 holds half; the mean of the values would be another label.
    labels = torch.tensor([[7, 7], [1, 200]], dtype=torch.uint8)[:, :, None]
    assert resample_labels(labels, (1, 1, 1)).item() == 7


@pytest.mark.parametrize("shape", [(5, 30, 9), (24, 7, 1), (11, 13, 30)])
def test_labels_equal_the_largest_share_computed_value_by_value(shape):
    labels = torch.zeros(12, 20, 17, dtype=torch.uint8)
    labels[2:9, 3:12, :6], labels[5:11, 10:20, 2:17] = 1, 5
    labels[0, 0, 0], labels[11, 19, 16], labels[6:8, 6:8, 3:9] = 255, 3, 200
    values = torch.unique(labels)
    shares = torch.stack([resample((labels == value)[None], shape, orders=(LINEAR,) * 3)[0] for value in values])
    best, second = shares.topk(2, dim=0).values
    found = resample_labels(labels, shape)
    clear = best - second > 1e-4
    assert clear.float().mean() > 0.8
    assert torch.equal(found[clear], values[shares.argmax(0)][clear])


def test_half_and_half_goes_to_the_lower_value():
    labels = torch.tensor([0, 7, 9, 9, 0, 0], dtype=torch.uint8).reshape(1, 1, 6)
    assert resample_labels(labels, (1, 1, 3)).flatten().tolist() == [0, 9, 0]
    labels = torch.tensor([9, 7], dtype=torch.uint8).reshape(2, 1, 1)
    assert resample_labels(labels, (1, 1, 1)).item() == 7


def test_labels_on_the_same_grid_are_untouched():
    labels = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8)
    assert torch.equal(resample_labels(labels, (3, 4, 5)), labels)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_along_axis_is_a_tensor_product(axis):
    array, matrix = torch.randn(3, 4, 5, 6), torch.randn(7, (3, 4, 5, 6)[axis])
    peer = torch.moveaxis(torch.tensordot(matrix, array, dims=([1], [axis])), 0, axis)
    torch.testing.assert_close(along_axis(array, matrix, axis), peer, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stored", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("sliced", [None, 0, 1, 2])
def test_what_overshoots_is_cut_off_at_the_range_of_the_image_or_of_the_slice(sliced, stored, monkeypatch):
    monkeypatch.setattr("medseg.ops.resample._SLAB_BYTES", 4 * 2 * 100)  # several parts
    blocks = torch.randn(2, 9, 10, 8, generator=torch.Generator().manual_seed(0)).sign() * torch.arange(1, 9)
    image = blocks.permute(0, *(1 + axis for axis in stored)).contiguous()
    image = image.permute(0, *(1 + stored.index(axis) for axis in range(3)))
    orders = tuple(NEAREST if axis == sliced else CUBIC for axis in range(3))
    shape = (13, 14, 12)
    plain = resample(image, shape, orders=orders)
    found = resample(image, shape, orders=orders, within_range=True)
    for channel in range(2):
        if sliced is None:
            expected = plain[channel].clamp(image[channel].min(), image[channel].max())
        else:
            expected = plain[channel].clone()
            for place in range(shape[sliced]):
                taken = int((place + 0.5) * image.shape[sliced + 1] / shape[sliced])
                of_slice = image[channel].select(sliced, taken)
                expected.select(sliced, place).clamp_(of_slice.min(), of_slice.max())
        assert not torch.equal(expected, plain[channel])
        assert torch.equal(found[channel], expected)
