from __future__ import annotations

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.report.planes import (
    PLANES,
    canonical_view,
    closer_box,
    cut,
    differing_slices,
    foreground_box,
    source_slice,
    telling_slices,
    tilt_degrees,
)

AXIAL, CORONAL, SAGITTAL = PLANES


def test_slices_are_named_in_the_axes_of_the_file() -> None:
    direction = np.array([[0, 0, -1], [-1, 0, 0], [0, 1, 0]])  # i runs to P, j to S, k to L
    geometry = Geometry.from_parts((10, 20, 30), (1, 2, 3), direction)
    assert geometry.axis_codes == "PSL"
    array = np.arange(6000).reshape(10, 20, 30)
    view = canonical_view(array, geometry)
    assert source_slice(geometry, AXIAL, 4) == "j 5 of 20"
    assert source_slice(geometry, CORONAL, 0) == "i 10 of 10"
    assert source_slice(geometry, SAGITTAL, 29) == "k 1 of 30"
    assert set(cut(view, CORONAL, 0).ravel()) == set(array[9].ravel())
    assert set(cut(view, SAGITTAL, 29).ravel()) == set(array[:, :, 0].ravel())


def test_telling_slice_shows_every_label_not_only_the_largest() -> None:
    mask = np.zeros((30, 30, 30), np.uint8)
    mask[2:28, 2:28, 2:14] = 1
    mask[10:14, 10:14, 11:13] = 2
    assert telling_slices([mask])[2] in (11, 12)


def test_telling_slice_of_nothing_is_the_middle() -> None:
    assert telling_slices([np.zeros((9, 7, 5), np.uint8)]) == (4, 3, 2)


def test_differing_slice_weighs_a_label_by_its_size() -> None:
    reference = np.zeros((40, 40, 40), np.uint8)
    reference[5:35, 5:35, 5:25] = 1
    prediction = reference.copy()
    prediction[5, 5:35, 5:25] = 0  # a rim of the organ: 600 voxels
    reference[20:23, 20:23, 30:33] = 2  # a lesion missed: 27 voxels
    assert differing_slices(prediction, reference) == (21, 21, 31)


def test_nothing_differs() -> None:
    mask = np.zeros((4, 4, 4), np.uint8)
    assert differing_slices(mask, mask) is None
    mask[1, 1, 1] = 3
    assert differing_slices(mask, mask.copy()) is None


def test_box_and_its_surroundings_stay_inside() -> None:
    mask = np.zeros((50, 50, 10), np.uint8)
    mask[10:20, 30:49, 4:6] = 7
    box = foreground_box([mask, np.zeros_like(mask)], [7])
    assert box == (slice(10, 20), slice(30, 49), slice(4, 6))
    assert closer_box(box, mask.shape, (1.0, 1.0, 5.0)) == (slice(0, 30), slice(20, 50), slice(2, 8))
    assert foreground_box([np.zeros_like(mask), mask], [1, 2]) is None


def test_tilt_is_the_angle_to_the_anatomical_axis() -> None:
    angle = np.radians(12)
    about_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    geometry = Geometry.from_parts((5, 5, 5), (1, 1, 3), about_x @ np.diag([-1, 1, -1]))
    assert tilt_degrees(geometry, AXIAL) == pytest.approx(12)
    assert tilt_degrees(geometry, SAGITTAL) == pytest.approx(0, abs=1e-6)
