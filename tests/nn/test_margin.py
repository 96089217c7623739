from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medseg.nn.margin import NUM_MEASURES, measure_margin

SIZES = (27, 98, 218, 386)  # voxels of the layers of a cube of 5: 3^3, 5^3 - 3^3, 7^3 - 5^3, 9^3 - 7^3


def _cube(size=15):
    region = torch.zeros(1, 1, size, size, size)
    region[..., 5:10, 5:10, 5:10] = 1
    return region


def test_a_sharp_edge_is_a_step_between_even_layers():
    region = _cube()
    told = measure_margin(5 * region + 2, region)
    assert told.shape == (1, NUM_MEASURES)
    assert told[0].tolist() == pytest.approx([7, 0, 7, 0, 2, 0, 2, 0])


def test_a_spicule_that_the_mask_does_not_follow_shows_in_the_layers_around_it():
    """One voxel of each outer layer is as bright as the region: mean 1/n, deviation sqrt(1/n - 1/n^2)."""
    region = _cube()
    image = region.clone()
    image[..., 7, 7, 10:12] = 1
    told = measure_margin(image, region)[0].tolist()
    outer = [(1 / size, (1 / size - 1 / size**2) ** 0.5) for size in SIZES[2:]]
    assert told == pytest.approx([1, 0, 1, 0, *outer[0], *outer[1]], abs=1e-6)


def test_layers_equal_another_librarys_also_at_the_edge_of_the_view():
    random = np.random.default_rng(3)
    mask = ndimage.gaussian_filter(random.normal(size=(12, 10, 9)), 1.5) > 0.05
    assert mask[0].any()
    assert mask[:, :, -1].any()
    image = random.normal(size=mask.shape)
    ball = np.ones((3, 3, 3), dtype=bool)
    core = ndimage.binary_erosion(mask, ball, border_value=1)
    near = ndimage.binary_dilation(mask, ball)
    layers = core, mask & ~core, near & ~mask, ndimage.binary_dilation(near, ball) & ~near
    expected = [part for layer in layers for part in (image[layer].mean(), image[layer].std())]
    view, region = torch.from_numpy(image)[None, None], torch.from_numpy(mask)[None, None]
    assert measure_margin(view, region)[0].tolist() == pytest.approx(expected)


def test_regions_and_channels_are_measured_one_by_one():
    image, regions = torch.randn(2, 3, 8, 9, 7), torch.rand(2, 4, 8, 9, 7).round()
    together = measure_margin(image, regions).reshape(2, 4, 4, 2, 3)
    for region in range(4):
        for channel in range(3):
            alone = measure_margin(image[:, channel : channel + 1], regions[:, region : region + 1])
            torch.testing.assert_close(together[:, region, :, :, channel].flatten(1), alone)


def test_where_nothing_was_found_there_is_no_margin():
    image, region = torch.randn(1, 2, 6, 6, 6), torch.zeros(1, 1, 6, 6, 6)
    assert measure_margin(image, region).tolist() == [[0.0] * 2 * NUM_MEASURES]
    everywhere = measure_margin(image, torch.ones(1, 1, 6, 6, 6))[0]
    assert everywhere[4:].tolist() == [0.0] * 12
    assert everywhere[:2].tolist() == pytest.approx(image.mean((0, 2, 3, 4)).tolist())
