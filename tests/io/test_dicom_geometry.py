"""The marker lies where DICOM says, in all orientations, straight or tilted, in the volume and back on the slices."""

from __future__ import annotations

import tempfile
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.core.reading import Reading
from medseg.core.volume import LabelMap
from medseg.io.dicom_source import labels_on_slices, source_slices
from medseg.io.volumes import read_volume

ORIENTATIONS = [
    np.array([np.eye(3)[axis] * sign for axis, sign in zip(order, signs, strict=True)])
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
PLACE = (5, 9, 3)  # column, row, slice
SIZE = (14, 18, 7)
SPACING = (0.9, 0.7, 2.5)  # along a row, along a column, between slices


def rotation(axis, degrees):
    """Rodrigues' formula."""
    axis = np.array(axis) / np.linalg.norm(axis)
    cross = np.cross(np.eye(3), axis)
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def stack(recipes, axes, *, drift_mm=0.0, steps=None):
    """Slices along `axes` (rows: along a row, along a column, between slices); returns the marker's RAS place."""
    rng = np.random.default_rng(0)
    heights = np.cumsum([0, *(steps or [SPACING[2]] * (SIZE[2] - 1))])
    origin = np.array([12.5, -31.25, 47.0])
    truth = None
    for index, height in enumerate(heights):
        pixels = rng.integers(-1000, 80, (SIZE[1], SIZE[0]))
        position = origin + axes[2] * height + axes[1] * drift_mm * index
        if index == PLACE[2]:
            pixels[PLACE[1], PLACE[0]] = 3000
            truth = position + axes[0] * PLACE[0] * SPACING[0] + axes[1] * PLACE[1] * SPACING[1]
        data = recipes.slice(int(rng.integers(1, 1000)), pixels, 0)
        # a decimal string has sixteen characters
        data.ImagePositionPatient = [f"{x:.9f}" for x in position]
        data.ImageOrientationPatient = [f"{x:.9f}" for x in axes[:2].ravel()]
        data.PixelSpacing = [SPACING[1], SPACING[0]]
        recipes.save(data, recipes.folder / f"{rng.integers(1 << 40):x}.dcm")
    return truth * [-1, -1, 1]


def peak(volume):
    index = np.unravel_index(int(volume.array[0].argmax()), volume.geometry.shape)
    return volume.geometry.to_world(index)


def returns(volume, folder):
    """Whether a mask of the brightest voxel's neighbourhood comes back onto the marker's pixel of its own slice."""
    index = np.unravel_index(int(volume.array[0].argmax()), volume.geometry.shape)
    array = np.zeros(volume.geometry.shape, np.uint8)
    array[tuple(slice(max(at - 1, 0), at + 2) for at in index[:2])][..., index[2]] = 1
    source = source_slices(folder)
    found = labels_on_slices(LabelMap(array, volume.geometry), source)
    # the source is sorted along the normal, which may run against the order in which the slices were made
    slots = {PLACE[2], len(source.slices) - 1 - PLACE[2]}
    return any(found[slot, PLACE[1], PLACE[0]] == 1 for slot in slots)


@pytest.mark.parametrize("number", range(48))
def test_the_marker_in_48_orientations(slices, number):
    truth = stack(slices, ORIENTATIONS[number])
    volume = read_volume(slices.folder)
    np.testing.assert_allclose(peak(volume), truth, atol=0.01)
    assert returns(volume, slices.folder)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 47), seed=st.integers(0, 1 << 30), degrees=st.floats(0, 180))
def test_the_marker_in_oblique_orientations(slices, number, seed, degrees):
    turn = rotation(np.random.default_rng(seed).normal(size=3), degrees)
    with tempfile.TemporaryDirectory() as folder:
        truth = stack(type(slices)(Path(folder)), ORIENTATIONS[number] @ turn.T)
        volume = read_volume(folder)
        np.testing.assert_allclose(peak(volume), truth, atol=0.01)
        assert returns(volume, Path(folder))


@pytest.mark.parametrize("degrees", [-30, -15, 5, 20])
@pytest.mark.parametrize("number", range(0, 48, 5))
def test_a_tilted_gantry_is_straightened(slices, number, degrees):
    """D05: the marker within half a pixel of its true place, and back on its own pixel of its own slice."""
    drift_mm = SPACING[2] * np.tan(np.deg2rad(degrees))
    truth = stack(slices, ORIENTATIONS[number], drift_mm=drift_mm)
    volume = read_volume(slices.folder, Reading(fix_geometry=True))
    assert np.abs(peak(volume) - truth).max() <= 0.5 * SPACING[1] + 0.01
    assert "W-TILT-STRAIGHTENED" in volume.warnings
    assert returns(volume, slices.folder)


@pytest.mark.parametrize("number", [0, 13, 26, 39])
def test_gaps_and_tilt_together(slices, number):
    """The marker's slice lies on the even grid: two steps, a gap of one slice, then the marker."""
    truth = stack(slices, ORIENTATIONS[number], drift_mm=0.35, steps=[2.5, 2.5, 5.0, 2.5, 2.5, 2.5])
    volume = read_volume(slices.folder, Reading(fix_geometry=True))
    assert np.abs(peak(volume) - truth).max() <= 0.5 * SPACING[1] + 0.01
    assert volume.geometry.spacing_mm[2] == pytest.approx(2.5)
    assert volume.geometry.shape[2] == SIZE[2] + 1
    assert set(volume.warnings) == {"W-TILT-STRAIGHTENED", "W-GAPS-FILLED"}
    assert returns(volume, slices.folder)
