from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume, require_same_grid

GRID = Geometry.from_parts((3, 4, 5), (0.8, 1.0, 2.5), origin_mm=(-40, 7, 300))


def test_volume_counts_channels():
    assert Volume(np.zeros((2, 3, 4, 5)), GRID).num_channels == 2


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 3, 4, 6), (1, 5, 4, 3)])
def test_volume_must_fit_its_grid(shape):
    with pytest.raises(ValueError, match=r"array must be \(C, 3, 4, 5\)"):
        Volume(np.zeros(shape), GRID)


def test_label_map_must_fit_its_grid_and_hold_integers():
    with pytest.raises(ValueError, match=r"must be \(3, 4, 5\)"):
        LabelMap(np.zeros((3, 4, 4), dtype=np.uint8), GRID)
    with pytest.raises(ValueError, match="integers, got float64"):
        LabelMap(np.zeros((3, 4, 5)), GRID)


def test_same_grid_within_tolerance_passes():
    moved = Geometry(GRID.shape, GRID.affine + np.pad([[0.05]], ((0, 3), (3, 0))))
    require_same_grid(Volume(np.zeros((1, 3, 4, 5)), GRID), LabelMap(np.zeros((3, 4, 5), np.uint8), moved))


def test_other_grid_is_refused_with_both_named():
    moved = Geometry.from_parts((3, 4, 5), (0.8, 1.0, 2.5), origin_mm=(-40, 7, 299))
    with pytest.raises(GeometryError, match=r"E-GRID-MISMATCH.*mask\.nii.*ct\.nii.*300\.00.*299\.00") as caught:
        require_same_grid(
            Volume(np.zeros((1, 3, 4, 5)), GRID, Path("ct.nii")),
            LabelMap(np.zeros((3, 4, 5), np.uint8), moved, Path("mask.nii")),
        )
    assert caught.value.code == "E-GRID-MISMATCH"
    assert caught.value.file == Path("mask.nii")
    assert caught.value.exit_code == 4


def test_grids_in_different_axes_are_shown_in_one():
    """Then the places can be compared: 1 mm along the third axis, not 12 mm and another letter."""
    moved = Geometry.from_parts((3, 4, 5), (0.8, 1.0, 2.5), np.diag([1.0, 1.0, -1.0]), origin_mm=(-40, 7, 311))
    with pytest.raises(GeometryError, match=r"axes RAS, first voxel at \(-40.00, 7.00, 300.00\).*RAS.*301\.00"):
        require_same_grid(Volume(np.zeros((1, 3, 4, 5)), GRID), LabelMap(np.zeros((3, 4, 5), np.uint8), moved))
    turned = Geometry.from_parts((3, 4, 5), (0.8, 1.0, 2.5), np.diag([1.0, 1.0, -1.0]), origin_mm=(-40, 7, 310))
    with pytest.raises(GeometryError, match=r"axes RAS.*axes RAI"):
        require_same_grid(Volume(np.zeros((1, 3, 4, 5)), GRID), LabelMap(np.zeros((3, 4, 5), np.uint8), turned))
