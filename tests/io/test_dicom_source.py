"""Original slices and the way back: a mask returns to the pixels it was drawn on, whatever the grid in between."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.core.reading import Reading
from medseg.core.volume import LabelMap
from medseg.io.dicom_source import labels_on_slices, source_slices
from medseg.io.volumes import read_volume

TILT = np.tan(np.deg2rad(15))


def tilted(index, data):
    data.ImagePositionPatient = [-30, -20 + 2.5 * index * TILT, -50 + 2.5 * index]


def oblique(index, data):
    across, down = np.array([0.8, 0.6, 0.0]), np.array([0.0, 0.0, -1.0])
    data.ImageOrientationPatient = [*across, *down]
    data.ImagePositionPatient = (np.array([5.0, -7.0, 11.0]) - 2.5 * index * np.cross(across, down)).tolist()


def place_labels(grid):
    """A mask in which neighbours differ everywhere: voxels are numbered, modulo a prime."""
    count = np.arange(np.prod(grid.shape), dtype=np.int64) % 251
    return LabelMap(count.astype(np.uint8).reshape(grid.shape), grid)


def test_slices_are_described_in_order(slices):
    folder = slices.series(lambda index, data: setattr(data, "InstanceNumber", 16 - index))
    source = source_slices(folder)
    assert [piece.position_mm[2] for piece in source.slices] == [-50 + 2.5 * index for index in range(16)]
    first = source.slices[0]
    assert (first.rows, first.columns, first.frame_number, first.pixel_spacing_mm) == (40, 32, 1, (0.8, 0.8))
    np.testing.assert_array_equal(first.orientation, [[1, 0, 0], [0, 1, 0]])
    assert first.sop_class_uid == "1.2.840.10008.5.1.4.1.1.2"
    assert len({piece.sop_instance_uid for piece in source.slices}) == 16
    assert source.header.SeriesInstanceUID == slices.series_uid
    assert "PixelData" not in source.header


@pytest.mark.parametrize("change", [None, oblique])
def test_on_its_own_grid_the_mask_is_only_reordered(slices, change):
    folder = slices.series(change)
    mask = place_labels(read_volume(folder).geometry)
    back = labels_on_slices(mask, source_slices(folder))
    expected = mask.array.transpose(2, 1, 0)
    np.testing.assert_array_equal(back, expected)
    assert back.dtype == np.uint8


def test_axes_of_the_mask_do_not_matter(slices):
    folder = slices.series(oblique)
    mask = place_labels(read_volume(folder).geometry)
    order, flips = mask.geometry.canonical_axes()
    turned = LabelMap(np.flip(mask.array.transpose(order), flips), mask.geometry.canonical())
    source = source_slices(folder)
    np.testing.assert_array_equal(labels_on_slices(turned, source), labels_on_slices(mask, source))


def test_outside_of_the_grid_is_background(slices):
    folder = slices.series()
    mask = place_labels(read_volume(folder).geometry)
    part = LabelMap(mask.array[4:20, 5:30, 3:9], mask.geometry.cropped((4, 5, 3), (20, 30, 9)))
    back = labels_on_slices(part, source_slices(folder))
    expected = np.zeros_like(back)
    expected[3:9, 5:30, 4:20] = mask.array[4:20, 5:30, 3:9].transpose(2, 1, 0)
    np.testing.assert_array_equal(back, expected)


@pytest.mark.parametrize("change", [tilted, lambda index, _data: index not in {5, 9}])
def test_a_repaired_volume_returns_to_the_original_slices(slices, change):
    """What is bright in the repaired volume lies, slice by slice, on the pixel that was bright before."""
    folder = slices.series(change)
    volume = read_volume(folder, Reading(fix_geometry=True))
    peak = np.unravel_index(int(volume.array[0].argmax()), volume.geometry.shape)
    array = np.zeros(volume.geometry.shape, np.uint8)
    array[peak[0] - 1 : peak[0] + 2, peak[1] - 1 : peak[1] + 2, peak[2]] = 7
    source = source_slices(folder)
    back = labels_on_slices(LabelMap(array, volume.geometry), source)
    heights = [round(float(piece.position_mm[2]), 3) for piece in source.slices]
    assert set(np.flatnonzero(back.any(axis=(1, 2)))) == {heights.index(-30.0)}
    assert back[heights.index(-30.0), 10, 20] == 7


@pytest.mark.parametrize("change", [None, tilted, oblique, lambda index, _data: index != 5])
def test_every_pixel_gets_the_label_of_its_place(slices, change):
    """An independent route: each pixel's position by the standard's equation, the nearest voxel by world distance."""
    source = source_slices(slices.series(change))
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    middle = np.mean([piece.position_mm for piece in source.slices], axis=0) * [-1, -1, 1]
    grid = Geometry.from_parts((30, 31, 17), (1.1, 0.9, 2.2), turn)
    grid = Geometry.from_parts(grid.shape, grid.spacing_mm, turn, middle - grid.affine[:3, :3] @ [14, 15, 8])
    mask = place_labels(grid)
    back = labels_on_slices(mask, source)
    hits = 0
    for _ in range(300):
        k, row, column = rng.integers(len(source.slices)), rng.integers(40), rng.integers(32)
        piece = source.slices[k]
        lps = piece.position_mm + piece.orientation[0] * 0.8 * column + piece.orientation[1] * 0.8 * row
        index = np.rint(mask.geometry.to_index(lps * [-1, -1, 1])).astype(int)
        is_inside = bool(((index >= 0) & (index < grid.shape)).all())
        assert back[k, row, column] == (mask.array[tuple(index)] if is_inside else 0)
        hits += is_inside
    assert hits > 30
