"""Masks onto the image's grid over all 48 axis orders, against a transformation done by hand."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap
from medseg.data.regrid import onto_grid, volumes_ml

SHAPE = (7, 8, 9)
TURN = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
GRID = Geometry.from_parts(SHAPE, (0.7, 1.1, 2.5), TURN, (-31.0, 17.0, 250.0))
TRUTH = np.random.default_rng(4).integers(0, 4, SHAPE).astype(np.uint8)


def stored(order, signs) -> LabelMap:
    """The truth with its axes in another order and direction, every voxel in its place."""
    array = TRUTH.transpose(order)
    affine = GRID.affine[:, [*order, 3]].copy()
    for axis, sign in enumerate(signs):
        if sign < 0:
            affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
            affine[:3, axis] *= -1
            array = np.flip(array, axis)
    return LabelMap(array, Geometry(array.shape, affine))


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_any_order_and_direction_of_axes_comes_back_voxel_for_voxel(order, signs):
    fitted, change = onto_grid(stored(order, signs), GRID)
    np.testing.assert_array_equal(fitted.array, TRUTH)
    assert fitted.geometry is GRID
    assert change.max_displacement_mm == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("signs", [(-1, 1, 1), (1, -1, -1)])
def test_a_mirrored_header_over_unchanged_voxels_is_no_exchange_of_axes(signs):
    """The header says mirrored, the voxels are not: nothing tells which of both is right."""
    affine = GRID.affine.copy()
    affine[:3, :3] *= signs
    with pytest.raises(GeometryError, match="either its header is wrong"):
        onto_grid(LabelMap(TRUTH, Geometry(SHAPE, affine)), GRID)


@pytest.mark.parametrize(("share", "is_close"), [(0.09, True), (0.11, False)])
def test_close_is_a_tenth_of_a_voxel(share, is_close):
    affine = GRID.affine.copy()
    affine[:3, 3] += affine[:3, 2] * share
    moved = LabelMap(TRUTH, Geometry(SHAPE, affine))
    if is_close:
        fitted, change = onto_grid(moved, GRID)
        np.testing.assert_array_equal(fitted.array, TRUTH)
        assert change.max_displacement_mm == pytest.approx(2.5 * share)
    else:
        with pytest.raises(GeometryError):
            onto_grid(moved, GRID)


def test_a_part_of_the_grid_is_put_in_its_place():
    part = LabelMap(TRUTH[2:6, 1:8, 3:9], GRID.cropped((2, 1, 3), (6, 8, 9)))
    fitted, change = onto_grid(part, GRID)
    expected = np.zeros_like(TRUTH)
    expected[2:6, 1:8, 3:9] = TRUTH[2:6, 1:8, 3:9]
    np.testing.assert_array_equal(fitted.array, expected)
    assert change.max_displacement_mm == pytest.approx(0, abs=1e-9)


def test_finer_voxels_each_take_the_nearest():
    """Every voxel of the image is cut into 2 x 3 x 1: whole blocks must agree."""
    fine = GRID.resized((14, 24, 9))
    fitted, change = onto_grid(LabelMap(TRUTH, GRID), fine)
    np.testing.assert_array_equal(fitted.array, TRUTH.repeat(2, axis=0).repeat(3, axis=1))
    assert volumes_ml(fitted) == pytest.approx(volumes_ml(LabelMap(TRUTH, GRID)))
    assert change.max_displacement_mm == pytest.approx(np.sqrt(0.7**2 + 1.1**2 + 2.5**2) / 2)


def test_an_empty_mask_of_another_shape_stays_empty():
    fitted, change = onto_grid(LabelMap(np.zeros((7, 8, 8), np.uint8), GRID.cropped((0, 0, 0), (7, 8, 8))), GRID)
    assert not fitted.array.any()
    assert "no label in it" in change.now
