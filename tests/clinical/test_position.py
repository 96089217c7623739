"""Contacts by area, and where the midline runs, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.clinical.position import Midline, contacts_mm2, find_midline
from medseg.core.geometry import Geometry


def test_contacts_are_areas_not_counts():
    """Voxels of 1 x 2 x 5 mm: one face across k has 2 mm2, one across j 5 mm2, one across i 10 mm2."""
    geometry = Geometry.from_parts((5, 5, 5), (1, 2, 5))
    labels = np.zeros((5, 5, 5), np.uint8)
    part = np.zeros((5, 5, 5), bool)
    part[2, 2, 2] = True
    labels[2, 2, 1], labels[2, 2, 3], labels[2, 1, 2], labels[3, 2, 2] = 1, 1, 2, 3
    labels[3, 3, 2] = 9  # touches by an edge only
    assert contacts_mm2(labels, part, geometry) == {3: 10.0, 2: 5.0, 1: 4.0}
    assert list(contacts_mm2(labels, part, geometry)) == [3, 2, 1]


def test_the_midline_lies_between_pairs():
    geometry = Geometry.from_parts((4, 4, 4))
    centres = {"lung_left": [-60.0, 0, 0], "lung_right": [90.0, 5, 9], "kidney_l": [-40, 0, 0], "liver": [50, 0, 0]}
    found = find_midline({name: np.array(at) for name, at in centres.items()}, None, geometry)
    assert found == Midline(15.0, "paired labels")


@pytest.mark.parametrize(("air", "tissue"), [(-1000, 40), (0, 300)])
def test_the_midline_lies_in_the_middle_of_the_body_not_of_the_image(air, tissue):
    geometry = Geometry.from_parts((40, 20, 10), (2, 2, 4), np.diag([-1, -1, 1]), (50, 0, 0))
    image = np.full((40, 20, 10), air, np.int16)
    image[20:36, 4:16] = tissue  # x from 50 - 40 = 10 to 50 - 70 = -20
    found = find_midline({}, image, geometry)
    assert found.basis == "image"
    assert found.x_mm == pytest.approx(-5)


def test_nothing_tells_the_midline():
    geometry = Geometry.from_parts((4, 4, 4))
    assert find_midline({"liver": np.zeros(3)}, None, geometry) is None
    assert find_midline({}, np.full((4, 4, 4), 7), geometry) is None


@pytest.mark.parametrize(("num_right", "side"), [(0, "left"), (2, "left"), (3, "midline"), (4, "right"), (6, "right")])
def test_two_thirds_make_a_side(num_right, side):
    points = np.zeros((6, 3))
    points[:, 0] = [10.0] * num_right + [-10.0] * (6 - num_right)
    assert Midline(0.0, "image").side_of(points) == side
