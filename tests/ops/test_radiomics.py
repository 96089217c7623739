"""Radiomics against the reference values of the image biomarker standardisation initiative, and against hand counts.

The published consensus values are those of the reference manual (arXiv:1612.07003), digital phantom and CT phantom in
configuration A (no resampling, re-segmentation to -500..400 HU, bins of 25 HU); tolerances are the published ones. The
digital phantom, 5 x 4 x 4 voxels of 2 mm, is small enough to be written down here.
"""

from __future__ import annotations

import numpy as np
import pytest

from medseg.io.volumes import read_labels, read_volume
from medseg.ops.radiomics import region_intensities, region_shape
from medseg.ops.radiomics_intensity import (
    discretise_by_count,
    histogram_features,
    intensity_statistics,
    peak_features,
    volume_histogram_features,
)
from medseg.ops.radiomics_shape import shape_features, weight_features

# A line per slice, its four rows beside one another; a voxel outside the region is in brackets.
PHANTOM = """
    1 4 4 1 1   1 4 6 1 1   4 1 6 4 1   4 4 6 4 1
    1 4 4 1 1   1 1 6 1 1  (1) 1 3 1 1  4 4 6 1 1
    1 4 4(1)(1) 1 1 1 1 1   1 1(9)1 1   1 1 6 1 1
    1 4 4(1)(1) 1 1 1 1 1   1 1 1 1 1   1 1 6 1 1
"""
SPACING_MM = (2.0, 2.0, 2.0)

SHAPE = {  # digital phantom, tolerance, CT phantom, tolerance
    "volume_mm3": (556, 4, 3.58e5, 5e3),
    "voxel_volume_mm3": (592, 4, 3.59e5, 5e3),
    "area_mm2": (388, 3, 3.57e4, 300),
    "area_per_volume": (0.698, 0.004, 0.0996, 0.0005),
    "compactness_1": (0.0411, 0.0003, 0.03, 0.0001),
    "compactness_2": (0.599, 0.004, 0.319, 0.001),
    "spherical_disproportion": (1.19, 0.01, 1.46, 0.01),
    "sphericity": (0.843, 0.005, 0.683, 0.001),
    "asphericity": (0.186, 0.001, 0.463, 0.002),
    "max_diameter_mm": (13.1, 0.1, 125, 1),
    "major_axis_mm": (11.4, 0.1, 92.7, 0.4),
    "minor_axis_mm": (9.31, 0.06, 81.5, 0.4),
    "least_axis_mm": (8.54, 0.05, 70.1, 0.3),
    "elongation": (0.816, 0.005, 0.879, 0.001),
    "flatness": (0.749, 0.005, 0.756, 0.001),
    "box_volume_density": (0.869, 0.005, 0.486, 0.003),
    "box_area_density": (0.866, 0.005, 0.725, 0.003),
    "ellipsoid_volume_density": (1.17, 0.01, 1.29, 0.01),
    "ellipsoid_area_density": (1.36, 0.01, 1.71, 0.01),
    "hull_volume_density": (0.961, 0.006, 0.827, 0.001),
    "hull_area_density": (1.03, 0.01, 1.18, 0.01),
}
WEIGHT = {
    "centre_of_mass_shift_mm": (0.672, 0.004, 52.9, 28.7),
    "integrated_intensity": (1.20e3, 10, 4.81e6, 3.2e5),
}
# The digital phantom's values have no tolerance: they hold to the last digit printed.
PEAK = {"local_peak": (2.6, 0.05, -277, 10), "global_peak": (3.1, 0.05, 189, 5)}
STATISTICS = {
    "mean": (2.15, 0.005, 13.4, 1.1),
    "variance": (3.05, 0.005, 1.42e4, 400),
    "skewness": (1.08, 0.005, -2.47, 0.05),
    "kurtosis": (-0.355, 0.0005, 5.96, 0.24),
    "median": (1, 0, 46, 0.3),
    "minimum": (1, 0, -500, 0),
    "p10": (1, 0, -129, 8),
    "p90": (4, 0, 95, 0),
    "maximum": (6, 0, 377, 9),
    "interquartile_range": (3, 0, 56, 0.5),
    "range": (5, 0, 877, 9),
    "mean_absolute_deviation": (1.55, 0.005, 73.6, 1.4),
    "robust_mean_absolute_deviation": (1.11, 0.005, 27.7, 0.8),
    "median_absolute_deviation": (1.15, 0.005, 64.3, 1),
    "coefficient_of_variation": (0.812, 0.0005, 8.9, 4.98),
    "quartile_dispersion": (0.6, 0.005, 0.636, 0.008),
    "energy": (567, 0.5, 1.65e9, 2e7),
    "root_mean_square": (2.77, 0.005, 120, 2),
}
HISTOGRAM = {
    "mean": (2.15, 0.005, 21.1, 0.1),
    "variance": (3.05, 0.005, 22.8, 0.6),
    "skewness": (1.08, 0.005, -2.46, 0.05),
    "kurtosis": (-0.355, 0.0005, 5.9, 0.24),
    "median": (1, 0, 22, 0),
    "minimum": (1, 0, 1, 0),
    "p10": (1, 0, 15, 0.4),
    "p90": (4, 0, 24, 0),
    "maximum": (6, 0, 36, 0.4),
    "mode": (1, 0, 23, 0),
    "interquartile_range": (3, 0, 2, 0),
    "range": (5, 0, 35, 0.4),
    "mean_absolute_deviation": (1.55, 0.005, 2.94, 0.06),
    "robust_mean_absolute_deviation": (1.11, 0.005, 1.18, 0.04),
    "median_absolute_deviation": (1.15, 0.005, 2.58, 0.05),
    "coefficient_of_variation": (0.812, 0.0005, 0.227, 0.004),
    "quartile_dispersion": (0.6, 0.005, 0.0455, 0.00005),
    "entropy": (1.27, 0.005, 3.36, 0.03),
    "uniformity": (0.512, 0.0005, 0.15, 0.002),
    "maximum_gradient": (8, 0, 1.1e4, 100),
    "maximum_gradient_bin": (3, 0, 21, 0),
    "minimum_gradient": (-50, 0, -1.01e4, 100),
    "minimum_gradient_bin": (1, 0, 24, 0),
}
VOLUME_HISTOGRAM = {
    "volume_fraction_10": (0.324, 0.0005, 0.978, 0.001),
    "volume_fraction_90": (0.0946, 0.00005, 6.98e-5, 1.03e-5),
    "intensity_10": (5, 0, 96, 0),
    "intensity_90": (2, 0, -128, 8),
    "volume_fraction_difference": (0.23, 0.005, 0.978, 0.001),
    "intensity_difference": (3, 0, 224, 8),
}


@pytest.fixture(scope="module")
def phantom():
    """Image (5, 4, 4) in x, y, z and mask of the digital phantom."""
    rows = [line.replace("(", " (").replace(")", ") ").split() for line in PHANTOM.strip().splitlines()]
    table = np.array(rows).reshape(4, 4, 5).transpose(2, 1, 0)
    image = np.array([[[int(cell.strip("()")) for cell in row] for row in plane] for plane in table])
    return image, ~np.char.startswith(table, "(")


def test_the_phantom_is_the_published_one(phantom):
    image, mask = phantom
    counts = {value: int(((image == value) & mask).sum()) for value in range(1, 10)}
    assert image.shape == (5, 4, 4)
    assert counts == {1: 50, 2: 0, 3: 1, 4: 16, 5: 0, 6: 7, 7: 0, 8: 0, 9: 0}


def test_the_digital_phantom(phantom):
    image, mask = phantom
    values = image[mask]
    shape = shape_features(mask, spacing_mm=SPACING_MM)
    weight = weight_features(image, mask, spacing_mm=SPACING_MM, volume_mm3=shape["volume_mm3"])
    for found, expected in (
        (shape, SHAPE),
        (weight, WEIGHT),
        (peak_features(image, mask, spacing_mm=SPACING_MM), PEAK),
        (intensity_statistics(values), STATISTICS),
        (histogram_features(values), HISTOGRAM),
        (volume_histogram_features(values, grid=np.arange(1, 7)), VOLUME_HISTOGRAM),
    ):
        assert found.keys() == expected.keys()
        for name, (value, tolerance, *_) in expected.items():
            assert found[name] == pytest.approx(value, abs=tolerance + 1e-9), name


@pytest.mark.real_data
def test_the_written_phantom_is_the_file(phantom, real_data):
    folder = real_data / "ibsi_digital_phantom" / "nifti"
    if not folder.is_dir():
        pytest.skip("no digital phantom there")
    image, mask = read_volume(folder / "image" / "phantom.nii.gz"), read_labels(folder / "mask" / "mask.nii.gz")
    assert np.array_equal(image.array[0], phantom[0])
    assert np.array_equal(mask.array > 0, phantom[1])
    assert image.geometry.spacing_mm == pytest.approx(SPACING_MM)


@pytest.mark.real_data
def test_the_ct_phantom_in_configuration_a(real_data):
    folder = real_data / "ibsi_ct_phantom" / "nifti"
    if not folder.is_dir():
        pytest.skip("no CT phantom there")
    volume = read_volume(folder / "image" / "phantom.nii.gz")
    image, spacing_mm = volume.array[0], volume.geometry.spacing_mm
    mask = read_labels(folder / "mask" / "mask.nii.gz").array > 0
    kept = mask & (image >= -500) & (image <= 400)
    values = image[kept]
    shape = shape_features(mask, spacing_mm=spacing_mm)
    bins = np.floor((values + 500) / 25).astype(np.int64) + 1
    for found, expected in (
        (shape, SHAPE),
        (weight_features(image, kept, spacing_mm=spacing_mm, volume_mm3=shape["volume_mm3"]), WEIGHT),
        (peak_features(image, kept, spacing_mm=spacing_mm), PEAK),
        (intensity_statistics(values), STATISTICS),
        (histogram_features(bins), HISTOGRAM),
        (volume_histogram_features(values, grid=np.arange(values.min(), values.max() + 1)), VOLUME_HISTOGRAM),
    ):
        for name, (_, _, value, tolerance) in expected.items():
            assert found[name] == pytest.approx(value, abs=tolerance + 1e-9), name


def test_bins_of_one_number_hold_equal_reaches():
    """0, 1, 2, 3, 4 in two bins: the border 2 belongs to the upper one, the greatest value to the last."""
    assert discretise_by_count(np.array([0.0, 1, 2, 3, 4]), count=2).tolist() == [1, 1, 2, 2, 2]
    assert discretise_by_count(np.array([7.0, 7]), count=32).tolist() == [1, 1]


def test_the_mode_of_two_equal_peaks_is_the_one_near_the_mean():
    assert histogram_features(np.array([1, 1, 5, 5, 6]))["mode"] == 5


def test_what_is_not_defined_is_left_out():
    """A single voxel of value 0 has no proportions, no ratio to its mean, no slope of its histogram; nothing is NaN."""
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    shape = region_shape(mask, spacing_mm=(1.0, 1.0, 1.0))
    missing = {"elongation", "flatness", "ellipsoid_volume_density", "ellipsoid_area_density"}
    assert {f"shape.{name}" for name in SHAPE} - shape.keys() == {f"shape.{name}" for name in missing}
    found = region_intensities(np.zeros((3, 3, 3)), mask, spacing_mm=(1.0, 1.0, 1.0), volume_mm3=1.0)
    assert "intensity.coefficient_of_variation" not in found
    assert "intensity.quartile_dispersion" not in found
    assert "histogram.maximum_gradient" not in found
    assert "shape.centre_of_mass_shift_mm" not in found
    assert found["intensity.skewness"] == found["intensity.kurtosis"] == 0
    assert np.isfinite([*shape.values(), *found.values()]).all()


def test_a_flat_plate_has_no_ellipsoid_but_an_elongation():
    shape = region_shape(np.ones((1, 4, 8), bool), spacing_mm=(1.0, 1.0, 1.0))
    assert shape["shape.flatness"] == 0
    assert shape["shape.elongation"] == pytest.approx(
        np.sqrt((16 - 1) / (64 - 1))
    )  # variance of n points: (n^2 - 1)/12
    assert "shape.ellipsoid_volume_density" not in shape
    assert np.isfinite(shape["shape.ellipsoid_area_density"])


def test_a_ball_has_no_eccentricity():
    """Equal axes are the limit in which the series of the ellipsoid's area is that of the sphere."""
    grid = np.arange(-12, 13)
    ball = sum(np.meshgrid(grid**2, grid**2, grid**2)) <= 100
    shape = region_shape(ball, spacing_mm=(1.0, 1.0, 1.0))
    radius = shape["shape.major_axis_mm"] / 2
    assert shape["shape.flatness"] == pytest.approx(1)
    assert shape["shape.ellipsoid_area_density"] == pytest.approx(shape["shape.area_mm2"] / (4 * np.pi * radius**2))


def test_features_do_not_depend_on_where_the_region_lies(phantom):
    image, mask = phantom
    moved_image, moved_mask = (np.pad(array, [(5, 3), (4, 6), (4, 4)]) for array in (image, mask))
    at_home = region_shape(mask, spacing_mm=(1.0, 2.0, 3.0))
    assert region_shape(moved_mask, spacing_mm=(1.0, 2.0, 3.0)) == pytest.approx(at_home)
    values = [
        {
            name: value
            for name, value in region_intensities(*pair, spacing_mm=(1.0, 2.0, 3.0), volume_mm3=1.0).items()
            if "peak" not in name
        }
        for pair in ((image, mask), (moved_image, moved_mask))
    ]
    assert values[0] == pytest.approx(values[1])
    turned = region_shape(mask.transpose(2, 0, 1), spacing_mm=(3.0, 1.0, 2.0))
    assert turned == pytest.approx(at_home)


def test_the_peak_takes_the_surroundings_of_the_region():
    """One voxel of the region between bright neighbours, on an uneven grid: the mean of the ball counted by hand."""
    image, mask = np.arange(9 * 5 * 3, dtype=float).reshape(9, 5, 3) ** 1.5, np.zeros((9, 5, 3), bool)
    mask[1, 2, 1] = True
    steps = np.stack(np.meshgrid(np.arange(-1, 8) * 2.0, np.arange(-2, 3) * 3.0, np.arange(-1, 2) * 5.0, indexing="ij"))
    near = np.linalg.norm(steps, axis=0) <= 6.2035
    found = peak_features(image, mask, spacing_mm=(2.0, 3.0, 5.0))
    assert found == pytest.approx({"local_peak": image[near].mean(), "global_peak": image[near].mean()})
