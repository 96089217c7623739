"""The nearest voxel on another grid, against ITK and by hand."""

import numpy as np
import pytest
import SimpleITK

from medseg.core.geometry import Geometry, lps_to_ras
from medseg.ops.regrid import nearest_on_grid

COS, SIN = np.cos(0.3), np.sin(0.3)
TURNED = np.array([[COS, -SIN, 0], [SIN, COS, 0], [0, 0, -1]])


def blob(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 5, shape, dtype=np.uint8)


def test_the_same_grid_changes_nothing():
    grid = Geometry.from_parts((7, 6, 5), (0.7, 1.1, 3.3), TURNED, (-12.3, 4.5, 80.1))
    array = blob(grid.shape)
    np.testing.assert_array_equal(nearest_on_grid(array, grid, grid), array)


def test_flipped_axes_flip_and_a_shift_shifts():
    grid = Geometry.from_parts((4, 5, 6), (1, 2, 3))
    array = blob(grid.shape)
    flipped = Geometry.from_parts((4, 5, 6), (1, 2, 3), np.diag([-1, 1, -1]), (3, 0, 15))
    np.testing.assert_array_equal(nearest_on_grid(array, grid, flipped), array[::-1, :, ::-1])
    moved = Geometry.from_parts((4, 5, 6), (1, 2, 3), origin_mm=(1, 0, 0))
    expected = np.concatenate([array[1:], np.full((1, 5, 6), 9, np.uint8)])
    np.testing.assert_array_equal(nearest_on_grid(array, grid, moved, outside=9), expected)


def test_finer_voxels_repeat_the_coarse_ones():
    grid = Geometry.from_parts((3, 3, 3), (2, 2, 2))
    fine = grid.resized((6, 6, 6))
    array = blob(grid.shape)
    np.testing.assert_array_equal(nearest_on_grid(array, grid, fine), array.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def image_of(array, grid):
    image = SimpleITK.GetImageFromArray(array.transpose(2, 1, 0))
    lps = lps_to_ras(grid.affine)
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / np.asarray(grid.spacing_mm)).ravel().tolist())
    return image


@pytest.mark.parametrize("seed", range(3))
def test_oblique_grids_agree_with_itk(seed):
    rng = np.random.default_rng(seed)
    source = Geometry.from_parts((12, 10, 8), (1.1, 0.9, 2.3), TURNED, (5, -3, 11))
    target = Geometry.from_parts((9, 11, 13), (1.37, 1.03, 1.71), origin_mm=rng.uniform(-5, 0, 3))
    array = blob(source.shape, seed)
    there = image_of(np.zeros(target.shape, np.uint8), target)
    expected = SimpleITK.Resample(image_of(array, source), there, interpolator=SimpleITK.sitkNearestNeighbor)
    found = nearest_on_grid(array, source, target)
    assert found.any()
    np.testing.assert_array_equal(found, SimpleITK.GetArrayFromImage(expected).transpose(2, 1, 0))
