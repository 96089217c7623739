"""Stray parts of masks, by hand and against SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

from medseg.core.answering import Cleanup
from medseg.ops.cleanup import cleaned

LABELS = {"organ": 7, "lesion": 300}


@pytest.fixture
def mask():
    """Voxels of 40 mm3: an organ of 60 and one of 3 (0.12 ml), two lesions of 8 and 1."""
    array = np.zeros((12, 12, 12), np.uint16)
    array[1:4, 1:5, 1:6] = 7
    array[10, 10, 9:12] = 7
    array[6:8, 6:8, 6:8] = 300
    array[5, 0, 0] = 300
    return array


def _clean(mask, **rules):
    return cleaned(mask, LABELS, rules, voxel_volume_mm3=40.0)


def test_only_the_largest_part_stays(mask):
    result = _clean(mask, organ=Cleanup(keep_largest=True))
    assert (result == 7).sum() == 60
    assert (result == 300).sum() == 9
    assert (mask == 7).sum() == 63


@pytest.mark.parametrize(("volume_ml", "left"), [(0.12, 63), (0.1201, 60), (2.4, 60), (2.41, 0)])
def test_parts_below_a_volume_go(mask, volume_ml, left):
    assert (_clean(mask, organ=Cleanup(min_volume_ml=volume_ml)) == 7).sum() == left


def test_every_label_has_its_own_rule(mask):
    result = _clean(mask, organ=Cleanup(keep_largest=True), lesion=Cleanup(min_volume_ml=0.05))
    assert [(result == value).sum() for value in (7, 300)] == [60, 8]


def test_corners_touch():
    array = np.zeros((4, 4, 4), np.uint8)
    array[0, 0, 0] = array[1, 1, 1] = array[2, 2, 2] = 7
    assert (_clean(array, organ=Cleanup(keep_largest=True)) == 7).sum() == 3


def test_nothing_to_take_away_is_the_same_array(mask):
    assert _clean(mask) is mask
    assert _clean(mask, organ=Cleanup(), unknown=Cleanup(keep_largest=True)) is mask
    assert _clean(mask, organ=Cleanup(min_volume_ml=0.04)) is mask
    empty = np.zeros((3, 3, 3), np.uint8)
    assert _clean(empty, organ=Cleanup(keep_largest=True)) is empty


@pytest.mark.parametrize("seed", range(4))
def test_equals_simple_itk(seed):
    array = (np.random.default_rng(seed).random((20, 16, 12)) < 0.06).astype(np.uint8) * 7
    parts = SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(array), True)
    by_size = SimpleITK.GetArrayFromImage(SimpleITK.RelabelComponent(parts, minimumObjectSize=3))
    assert (by_size > 0).sum() < (array > 0).sum()
    np.testing.assert_array_equal(_clean(array, organ=Cleanup(min_volume_ml=0.12)) == 7, by_size > 0)
    sizes = np.bincount(by_size[by_size > 0])
    if (sizes == sizes[1]).sum() == 1:
        np.testing.assert_array_equal(_clean(array, organ=Cleanup(keep_largest=True)) == 7, by_size == 1)
