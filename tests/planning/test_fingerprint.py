from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from medseg.core.case import Case, Dataset
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.planning.fingerprint import fingerprint_of, measure_case, nonzero_box

DATASET = Dataset(name="d", labels={"right": 300, "left": 2}, heads={"grade": ("low", "high")})
CASE = Case(id="a", images=("a.nii",))
ORIENTATIONS = tuple(product(permutations(range(3)), product((1, -1), repeat=3)))


def _canonical_case():
    """A case in RAS order: 20 x 12 x 8 voxels of 1 x 2 x 4 mm, padded with zeros, one label on each side."""
    image = np.zeros((1, 20, 12, 8), dtype=np.int16)
    image[:, 2:18, 3:12, 1:7] = 50
    labels = np.zeros((20, 12, 8), dtype=np.uint16)
    labels[15:17, 4:8, 2:4], labels[3, 4:8, 2:4], labels[10, 10, 5] = 300, 2, 77
    image[0][labels == 300], image[0][labels == 2] = 100, 200
    return image, labels, Geometry.from_parts((20, 12, 8), (1, 2, 4), origin_mm=(-20, 5, 300))


def _turned(orientation):
    """The same case stored along other axes."""
    order, signs = orientation
    flips = tuple(axis for axis, sign in enumerate(signs) if sign < 0)
    image, labels, geometry = _canonical_case()
    matrix = np.eye(4)[:, [*order, 3]]
    shape = tuple(geometry.shape[axis] for axis in order)
    flip = np.eye(4)
    for axis in flips:
        flip[axis, axis], flip[axis, 3] = -1, shape[axis] - 1
    grid = Geometry(shape, geometry.affine @ matrix @ flip)
    turned = np.flip(image.transpose(0, *(axis + 1 for axis in order)), [axis + 1 for axis in flips])
    return Volume(turned, grid), LabelMap(np.flip(labels.transpose(order), flips), grid)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
def test_measures_in_ras_order_whatever_the_file(orientation):
    volume, labels = _turned(orientation)
    found = measure_case(CASE, DATASET, volume, labels=labels)
    assert found.case.shape == (20, 12, 8)
    np.testing.assert_allclose(found.case.spacing_mm, (1, 2, 4))
    assert found.case.cropped_shape == (16, 9, 6)
    assert found.case.label_voxels == {"left": 8, "right": 16}
    assert found.case.label_sides["right"] == pytest.approx((2 * 15.5 - 19) / 19)
    assert found.case.label_sides["left"] == pytest.approx((2 * 3 - 19) / 19)
    # 16 voxels of one label and 8 of the other; the value that is no label of the dataset is left out.
    assert sorted(found.samples[0].tolist()) == [100] * 16 + [200] * 8


def test_without_a_reference_the_crop_is_sampled():
    volume, _ = _turned(ORIENTATIONS[0])
    found = measure_case(CASE, DATASET, volume, labels=None)
    assert (found.case.label_voxels, found.case.label_sides) == ({}, {})
    assert found.samples.shape == (1, 16 * 9 * 6)
    assert 0 not in found.samples


def test_an_absent_label_has_no_side():
    volume, labels = _turned(ORIENTATIONS[0])
    labels.array[labels.array == 2] = 0
    found = measure_case(CASE, DATASET, volume, labels=labels).case
    assert found.label_voxels == {"left": 0, "right": 16}
    assert list(found.label_sides) == ["right"]


def test_samples_are_bounded_and_spread_over_the_foreground():
    grid = Geometry.from_parts((60, 50, 40))
    image = np.broadcast_to(np.arange(60, dtype=np.float32)[None, :, None, None], (1, 60, 50, 40))
    labels = LabelMap(np.full(grid.shape, 2, np.uint8), grid)
    samples = measure_case(CASE, DATASET, Volume(image, grid), labels=labels).samples
    assert 10_000 <= samples.shape[1] < 20_000
    counts = np.bincount(samples[0].astype(int), minlength=60)
    assert counts.max() - counts.min() <= 1


def test_nonzero_box_of_any_channel():
    array = np.zeros((2, 5, 6, 7))
    array[0, 1, 2, 3], array[1, 3, 2, 6] = 1, -1
    start, stop = nonzero_box(array)
    assert (start.tolist(), stop.tolist()) == ([1, 2, 3], [4, 3, 7])
    start, stop = nonzero_box(np.zeros((1, 2, 3, 4)))
    assert (start.tolist(), stop.tolist()) == ([0, 0, 0], [2, 3, 4])


def test_a_cohort_by_hand():
    measurements, cases = [], []
    for number, (length, step) in enumerate([(10, 1.0), (20, 2.0), (40, 4.0)]):
        image = np.full((1, length, 8, 8), 10.0 * (number + 1))
        image[:, : length // 2] = 0
        case = Case(id=f"c{number}", images=("x.nii",), classes={"grade": "low" if number else "high"})
        volume = Volume(image, Geometry.from_parts((length, 8, 8), (step, 1, 1)))
        measurements.append(measure_case(case, DATASET, volume, labels=None))
        cases.append(case)
    found = fingerprint_of(measurements, cases)
    assert found.num_cases == 3
    assert found.median_spacing_mm == (2, 1, 1)
    assert found.coarse_spacing_mm == pytest.approx((1.2, 1, 1))
    assert found.median_shape == (10, 8, 8)
    assert found.median_extent_mm == (20, 8, 8)
    assert found.crop_share == 0.5
    assert found.class_counts == {"grade": {"high": 1, "low": 2}}
    (channel,) = found.channels
    voxels = [10] * 5 * 64 + [20] * 10 * 64 + [30] * 20 * 64
    assert channel.mean == pytest.approx(np.mean(voxels))
    assert channel.std == pytest.approx(np.std(voxels))
    assert (channel.minimum, channel.median, channel.maximum) == (10, 30, 30)
