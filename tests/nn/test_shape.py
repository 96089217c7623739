from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

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


def test_the_rim_is_what_the_average_of_another_library_takes_away_also_at_the_edge_of_the_view():
    region = np.random.default_rng(3).random((11, 9, 10))
    size, *rims = measure_shape(torch.from_numpy(region).float()[None, None])[0].tolist()
    total = region.sum()
    assert size == pytest.approx(math.log1p(total) / 10)
    taken = [(region * (1 - ndimage.uniform_filter(region, width, mode="constant"))).sum() for width in (3, 5, 7)]
    expected = [rim / divisor for rim in taken for divisor in (total + 1, (total + 1) ** (2 / 3))]
    assert rims == pytest.approx(expected, rel=1e-5)


def test_a_cross_is_more_ragged_than_a_block_of_its_size():
    block, cross = torch.zeros(2, 1, 1, 21, 21, 21)
    block[..., 8:13, 8:13, 8:13] = 1
    cross[..., 8:13, 10, 10] = cross[..., 9:12, 9:12, 9:12] = 1
    cross[..., 10, :, 9:12] = cross[..., 10, 9:12, :] = 1
    block, cross = measure_shape(block)[0], measure_shape(cross)[0]
    assert (cross[1:] > block[1:]).all()


@pytest.mark.parametrize("thickness", [False, True])
@pytest.mark.parametrize("directed", [False, True])
def test_regions_are_measured_one_by_one(directed, thickness):
    regions = torch.rand(2, 3, 8, 8, 8)
    how = {"directed": directed, "thickness": thickness}
    together = measure_shape(regions, **how).reshape(2, num_measures(**how), 3)
    for number in range(3):
        alone = measure_shape(regions[:, number : number + 1], **how)
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


def _worn(region):
    """Voxels that are left, along the axes, in the planes, in all directions and along the axes twice."""
    return (measure_shape(region, thickness=True)[:, 7:] * (region.sum((1, 2, 3, 4)) + 1)[:, None])[0].tolist()


def test_a_thin_sheet_wears_away_and_a_ball_of_its_size_keeps_a_core():
    sheet, ball = torch.zeros(2, 1, 1, 28, 28, 28)
    sheet[..., 5:21, 5:21, 9:11] = 1
    place = torch.stack(torch.meshgrid(*[torch.arange(28) - 14] * 3, indexing="ij"))
    ball[0, 0] = (place.square().sum(0) <= 24).float()
    assert float(ball.sum()) == pytest.approx(float(sheet.sum()), rel=0.1)
    assert _worn(sheet) == [0, 0, 0, 0]
    assert min(_worn(ball)) > 60


def test_what_is_worn_away_by_hand():
    """Of a box every wearing leaves the box without a rim; the others tell the four apart."""
    box, cross, blunt = torch.zeros(3, 1, 1, 28, 28, 28)
    box[..., 3:9, 5:14, 6:10] = 1
    cross[..., 9:14, 11, 11] = cross[..., 11, 9:14, 11] = cross[..., 11, 11, 9:14] = 1
    blunt[..., 10:13, 10:13, 10:13] = 1
    for corner in torch.cartesian_prod(*[torch.tensor([10, 12])] * 3):
        blunt[0, 0, *corner] = 0
    assert _worn(box) == pytest.approx([4 * 7 * 2, 4 * 7 * 2, 4 * 7 * 2, 0], abs=1e-3)
    assert _worn(cross) == pytest.approx([1, 0, 0, 0], abs=1e-3)
    assert _worn(blunt) == pytest.approx([1, 1, 0, 0], abs=1e-3)


@pytest.mark.parametrize("place", [3, 0])
def test_wearing_is_the_erosion_of_another_library_also_at_the_edge_of_the_view(place):
    random = np.random.default_rng(place)
    block = ndimage.gaussian_filter(random.normal(size=(22, 22, 22)), 1.5) > -0.05
    region = np.zeros((28, 28, 28), dtype=bool)
    region[place : place + 22, place : place + 22, place : place + 22] = block
    structures = [ndimage.generate_binary_structure(3, rank) for rank in (1, 2, 3)]
    expected = [ndimage.binary_erosion(region, one).sum() for one in structures]
    expected.append(ndimage.binary_erosion(region, structures[0], iterations=2).sum())
    assert min(expected) > 0
    assert _worn(torch.from_numpy(region).float()[None, None]) == pytest.approx(expected, abs=0.01)


def test_the_depth_grows_with_the_view():
    """A twenty-eighth of 28, 56 and 14 voxels is 1, 2 and (at least) 1."""
    region = torch.zeros(1, 1, 28, 56, 14)
    region[..., 3:12, 5:20, 2:10] = 1
    assert _worn(region) == pytest.approx([*[7 * 11 * 6] * 3, 5 * 7 * 4], abs=0.01)
