from __future__ import annotations

import math

import pytest
import torch

from medseg.nn.shape import _DIRECTIONS, measure_shape, num_measures


def _directed(regions):
    """(B, R, 13) overlaps with the region moved."""
    measured = measure_shape(regions, directed=True)
    return measured.reshape(len(regions), -1, regions.shape[1])[:, -13:].transpose(1, 2)


def test_the_shape_of_one_voxel_by_hand():
    region = torch.zeros(1, 1, 9, 9, 9)
    region[..., 4, 4, 4] = 1
    size, *rims = measure_shape(region)[0].tolist()
    assert size == pytest.approx(math.log(2) / 10)
    expected = [(1 - 1 / width**3) / divisor for width in (3, 5, 7) for divisor in (2, 2 ** (2 / 3))]
    assert rims == pytest.approx(expected)
    assert _directed(region).tolist() == [[[0.0] * 13]]


def test_a_cross_is_more_ragged_than_a_block_of_its_size():
    block, cross = torch.zeros(2, 1, 1, 21, 21, 21)
    block[..., 8:13, 8:13, 8:13] = 1
    cross[..., 8:13, 10, 10] = cross[..., 9:12, 9:12, 9:12] = 1
    cross[..., 10, :, 9:12] = cross[..., 10, 9:12, :] = 1
    block, cross = measure_shape(block)[0], measure_shape(cross)[0]
    assert (cross[1:] > block[1:]).all()


@pytest.mark.parametrize("directed", [False, True])
def test_regions_are_measured_one_by_one(directed):
    regions = torch.rand(2, 3, 8, 8, 8)
    together = measure_shape(regions, directed=directed).reshape(2, num_measures(directed=directed), 3)
    for number in range(3):
        alone = measure_shape(regions[:, number : number + 1], directed=directed)
        torch.testing.assert_close(together[:, :, number], alone)


def test_a_box_loses_of_itself_what_it_is_moved_by():
    """A fourteenth of 28, 42 and 14 voxels is 2, 3 and 1: the box of 6 x 9 x 4 voxels keeps 4, 6 and 3 of its edges."""
    region = torch.zeros(1, 1, 28, 42, 14)
    region[..., 3:9, 5:14, 6:10] = 1
    found = dict(zip(_DIRECTIONS, _directed(region)[0, 0].tolist(), strict=True))
    assert len(found) == 13
    for direction, share in found.items():
        kept = [less if step else full for step, full, less in zip(direction, (6, 9, 4), (4, 6, 3), strict=True)]
        assert share == pytest.approx(math.prod(kept) / (6 * 9 * 4 + 1))


def test_a_slanting_limb_is_told_from_its_mirror_image_and_where_it_is_does_not_matter():
    region = torch.zeros(1, 1, 14, 14, 14)
    for place in range(6):
        region[..., 2 + place, 3 + place, 5:7] = 1
    found = dict(zip(_DIRECTIONS, _directed(region)[0, 0].tolist(), strict=True))
    along, across = found[1, 1, 0], found[1, -1, 0]
    assert (along, across) == pytest.approx((10 / 13, 0))
    mirrored = dict(zip(_DIRECTIONS, _directed(region.flip(2))[0, 0].tolist(), strict=True))
    assert (mirrored[1, 1, 0], mirrored[1, -1, 0]) == pytest.approx((across, along))
    torch.testing.assert_close(_directed(region.roll((3, 4, 2), (2, 3, 4))), _directed(region))
    torch.testing.assert_close(measure_shape(region), measure_shape(region, directed=True)[:, :7])


def test_what_is_moved_out_of_the_view_is_lost():
    full = torch.ones(1, 1, 14, 14, 1)
    found = dict(zip(_DIRECTIONS, _directed(full)[0, 0].tolist(), strict=True))
    assert found[1, 0, 0] == pytest.approx(13 * 14 / 197)
    assert found[1, 1, 0] == pytest.approx(13 * 13 / 197)
    assert found[0, 0, 1] == 0
