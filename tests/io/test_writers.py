"""What is written is read back before it counts, carries no foreign text, and names its segments."""

from __future__ import annotations

import errno
from dataclasses import replace

import numpy as np
import pytest
from SimpleITK import ReadImage

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.io import volumes, writers
from medseg.io.volumes import read_labels, read_volume, write_labels, write_volume

GRID = Geometry.from_parts((6, 5, 4), (0.7, 0.8, 3.0), np.diag([-1.0, -1.0, 1.0]), (4.0, -30.0, 100.0))


def mask(top=3):
    array = np.zeros(GRID.shape, np.int64)
    array[1:3], array[4] = 1, top
    return LabelMap(array, GRID)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "X.NII.GZ", "x.nrrd", "x.seg.nrrd", "x.mha"])
@pytest.mark.parametrize(("top", "dtype"), [(3, np.uint8), pytest.param(300, np.uint16, id="X07")])
def test_labels(tmp_path, name, top, dtype):
    write_labels(mask(top), tmp_path / name)
    read = read_labels(tmp_path / name)
    np.testing.assert_array_equal(read.array, mask(top).array)
    assert read.array.dtype == dtype
    assert read.geometry.deviation_mm(GRID) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nrrd", "x.mha"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">i2"])
def test_every_number_type(tmp_path, name, dtype):
    array = np.arange(120).reshape(1, *GRID.shape).astype(dtype)
    write_volume(Volume(array, GRID), tmp_path / name)
    np.testing.assert_array_equal(read_volume(tmp_path / name).array, array.astype(np.float32))
    assert ReadImage(tmp_path / name)[5, 4, 3] == 119


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nrrd", "x.mha"])
def test_truth_values_are_zero_and_one(tmp_path, name):
    array = np.arange(120).reshape(1, *GRID.shape) % 2 == 0
    write_volume(Volume(array, GRID), tmp_path / name)
    np.testing.assert_array_equal(read_volume(tmp_path / name).array, array.astype(np.uint8))


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nrrd", "x.mha"])
def test_channels(tmp_path, name):
    array = np.random.default_rng(1).normal(size=(3, *GRID.shape)).astype(np.float32)
    write_volume(Volume(array, GRID), tmp_path / name)
    np.testing.assert_array_equal(read_volume(tmp_path / name, channels=3).array, array)


def test_segments_have_names_colours_and_extents(tmp_path):
    write_labels(mask(), tmp_path / "x.seg.nrrd", names={"left\nkidney": 3, "liver": 1})
    image = ReadImage(tmp_path / "x.seg.nrrd")
    assert image.GetMetaData("Segment0_Name") == "liver"
    assert image.GetMetaData("Segment1_Name") == "left kidney"
    assert image.GetMetaData("Segment1_LabelValue") == "3"
    assert image.GetMetaData("Segment0_Extent") == "0 5 0 4 0 3"
    colours = [tuple(map(float, image.GetMetaData(f"Segment{index}_Color").split())) for index in (0, 1)]
    assert colours[0] != colours[1]
    assert all(0 <= part <= 1 for colour in colours for part in colour)


def test_o08_no_text_of_the_source_travels(recipes):
    data = recipes.nifti()
    data[148:160] = b"PatientName="
    volume = read_volume(recipes.save(data))
    for name in ("y.nii", "y.nrrd", "y.mha"):
        write_volume(volume, recipes.folder / name)
        assert b"Patient" not in (recipes.folder / name).read_bytes()


def test_the_same_mask_is_the_same_file(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_labels(mask(), tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("what", ["array", "affine"])
def test_a_file_that_reads_back_differently_is_not_kept(tmp_path, monkeypatch, what):
    def changed(path, options):
        decoded = original(path, options)
        return replace(decoded, **{what: getattr(decoded, what) + 1})

    original = volumes.decode_here
    monkeypatch.setattr(volumes, "decode_here", changed)
    with pytest.raises(InputError) as caught:
        write_labels(mask(), tmp_path / "x.nii.gz")
    assert caught.value.code == "E-READ-BACK"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    class Full:
        def __init__(self, *_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writers.gzip, "GzipFile", Full)
    with pytest.raises(InputError) as caught:
        write_labels(mask(), tmp_path / "x.nii.gz")
    assert caught.value.code == "E-DISK-FULL"
    assert list(tmp_path.iterdir()) == []


def test_unknown_suffix(tmp_path):
    with pytest.raises(InputError) as caught:
        write_labels(mask(), tmp_path / "x.png")
    assert caught.value.code == "E-SUFFIX"


def test_too_long_for_nifti(tmp_path):
    grid = Geometry.from_parts((40_000, 1, 1))
    with pytest.raises(InputError) as caught:
        write_labels(LabelMap(np.zeros(grid.shape, np.uint8), grid), tmp_path / "x.nii")
    assert caught.value.code == "E-DIMS"
