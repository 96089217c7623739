from __future__ import annotations

import re

import numpy as np
import pytest

from medseg.report.outlines import UNITS_PER_VOXEL, outline_path


def rings(path: str) -> list[np.ndarray]:
    """SVG path of relative lines to the absolute corners of each ring."""
    found = []
    for part in path.split("z")[:-1]:
        numbers = np.array([[int(n) for n in pair.split()] for pair in re.split("[Ml]", part)[1:]])
        found.append(numbers.cumsum(axis=0))
    return found


def area(path: str) -> float:
    """Enclosed area in voxels; holes count negative because they run the other way."""
    total = 0.0
    for x, y in (ring.T for ring in rings(path)):
        total += (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
    return abs(total) / UNITS_PER_VOXEL**2


def test_single_voxel_is_a_diamond_around_its_centre() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    (ring,) = rings(outline_path(mask))
    assert {(int(x), int(y)) for x, y in ring} == {(10, 4), (12, 6), (10, 8), (8, 6)}


def test_voxel_borders_enclose_the_voxels_but_for_cut_corners() -> None:
    mask = np.zeros((6, 7), bool)
    mask[1, 1:6] = True
    corner = 1 / 32
    assert area(outline_path(mask, voxels=True)) == pytest.approx(5 - 4 * corner)


def test_hole_is_a_ring_of_its_own() -> None:
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    path = outline_path(mask, voxels=True)
    assert len(rings(path)) == 2
    assert area(path) == pytest.approx(24, abs=0.3)


def test_mask_touching_the_border_is_closed() -> None:
    (ring,) = rings(outline_path(np.ones((2, 3), bool)))
    assert ring.min() == 0
    assert ring.max(axis=0).tolist() == [12, 8]


def test_straight_runs_have_no_points_between_their_ends() -> None:
    assert len(rings(outline_path(np.ones((40, 50), bool)))[0]) == 8


def test_empty_mask_has_no_path() -> None:
    assert outline_path(np.zeros((4, 4), bool)) == ""
