"""SUV peak and total lesion glycolysis by hand, and on the digital phantom of the IBSI."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.clinical.intensity import measure_intensity, peak_mean
from medseg.clinical.measure import measure_structures
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.io.volumes import read_labels, read_volume
from medseg.ops.peak import peak_reach


def test_the_sphere_by_hand():
    """Voxels of 5 mm: within 6.204 mm of a centre lie itself and its 6 face neighbours, edges (7.07 mm) do not."""
    geometry = Geometry.from_parts((7, 7, 7), (5, 5, 5))
    image = np.zeros((7, 7, 7))
    image[3, 3, 3], image[3, 3, 4], image[4, 4, 3] = 14, 7, 1000
    mask = np.zeros((7, 7, 7), bool)
    mask[3, 3, 3] = True
    assert peak_reach(geometry.affine[:3, :3]) == (1, 1, 1)
    assert peak_mean(image, mask, geometry) == pytest.approx((14 + 7) / 7)
    mask[3, 4, 3] = True  # a face neighbour of both 14 and 1000
    assert peak_mean(image, mask, geometry) == pytest.approx((14 + 1000) / 7)


def test_at_the_border_of_the_image_the_mean_is_of_what_is_there():
    geometry = Geometry.from_parts((3, 3, 3), (5, 5, 5))
    image, mask = np.full((3, 3, 3), 4.0), np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = True
    assert peak_mean(image, mask, geometry) == pytest.approx(4)


def test_thick_slices_and_thin_pixels():
    """4 x 4 x 10 mm: in the plane offsets up to 6.2 mm (9 of 3 x 3: corners lie 5.66 mm off), no other slice."""
    geometry = Geometry.from_parts((5, 5, 3), (4, 4, 10))
    image = np.random.default_rng(0).random((5, 5, 3))
    mask = np.zeros((5, 5, 3), bool)
    mask[2, 2, 1] = True
    assert peak_mean(image, mask, geometry) == pytest.approx(image[1:4, 1:4, 1].mean())


def test_glycolysis_is_mean_times_volume():
    geometry = Geometry.from_parts((4, 4, 4), (5, 5, 4))
    mask = np.zeros((4, 4, 4), bool)
    mask[1:3, 1:3, 1:3] = True
    found = measure_intensity(np.where(mask, 6.0, 0.0), mask, geometry, unit="SUV")
    assert found.total_lesion_glycolysis == pytest.approx(6 * 8 * 0.1)
    assert measure_intensity(np.where(mask, 6.0, 0.0), mask, geometry, unit="SUV", peak=False).suv_peak is None


def test_a_lesion_sees_the_voxels_around_it():
    """The peak's sphere takes voxels outside the lesion's own box."""
    geometry = Geometry.from_parts((11, 11, 11), (2, 2, 2))
    labels = np.zeros((11, 11, 11), np.uint8)
    labels[5, 5, 5] = 1
    image = np.full((11, 11, 11), 3.0)
    image[5, 5, 5] = 100
    found = measure_structures(
        LabelMap(labels, geometry),
        labels={"tumour": 1},
        lesions=["tumour"],
        image=Volume(image[None], geometry),
        unit="SUV",
    )
    at = np.indices((11, 11, 11)).reshape(3, -1).T - 5
    num_voxels = int(np.count_nonzero(np.linalg.norm(2 * at, axis=1) <= 6.2035))
    assert num_voxels > 100
    assert found[0].intensity.suv_peak == pytest.approx(3 + 97 / num_voxels)


@pytest.mark.real_data
def test_the_digital_phantom_of_the_ibsi(real_data):
    """Published: mean 2.15, minimum 1, maximum 6, variance 3.05, global intensity peak 3.1."""
    folder = real_data / "ibsi_digital_phantom" / "nifti"
    image, mask = read_volume(folder / "image" / "phantom.nii.gz"), read_labels(folder / "mask" / "mask.nii.gz")
    inside = mask.array > 0
    found = measure_intensity(image.array[0], inside, image.geometry, unit="SUV")
    assert found.mean == pytest.approx(2.15, abs=0.005)
    assert (found.minimum, found.maximum) == (1, 6)
    assert found.standard_deviation**2 == pytest.approx(3.05, abs=0.005)
    assert found.suv_peak == pytest.approx(3.1, abs=0.05)
