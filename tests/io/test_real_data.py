"""Real scans: every one is read, and where two forms of one scan exist they agree."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import InputError
from medseg.core.reading import Reading
from medseg.core.volume import LabelMap, require_same_grid
from medseg.io.dicom_source import labels_on_slices, source_slices
from medseg.io.volumes import read_labels, read_volume, read_volumes

pytestmark = [pytest.mark.real_data]
FOLDER = Path(os.environ.get("MEDSEG_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def data(name):
    if not (FOLDER / name).exists():
        pytest.skip(f"no real data: {FOLDER / name} is absent (set MEDSEG_REAL_DATA)")
    return FOLDER / name


def canonical(volume):
    order, flips = volume.geometry.canonical_axes()
    return np.flip(volume.array[0].transpose(order), flips)


def test_dicom_equals_its_nifti_twin():
    series = read_volume(data("ibsi_ct_phantom/dicom"))
    twin = read_volume(data("ibsi_ct_phantom/nifti/image/phantom.nii.gz"))
    np.testing.assert_array_equal(canonical(series), canonical(twin))
    assert series.geometry.canonical().agrees_with(twin.geometry.canonical(), tolerance_mm=0.001)


def test_jpeg_2000_series():
    volume = read_volume(data("totalsegmentator/example_ct_dicom"))
    assert volume.geometry.shape == (512, 512, 20)
    assert volume.geometry.spacing_mm == pytest.approx((0.9765625, 0.9765625, 2.0))
    assert volume.array.min() == -1024
    assert 1000 < volume.array.max() < 3072
    mask = read_labels(data("totalsegmentator/example_seg_dicom.nii.gz"))
    assert volume.geometry.canonical().agrees_with(mask.geometry.canonical(), tolerance_mm=0.05)


@pytest.mark.parametrize("name", ["23x38x3", "24x38x3"])
def test_classic_equals_multi_frame(name):
    classic = read_volume(data(f"dcmqi/data/segmentations/{name}/image"))
    multi_frame = read_volume(data(f"dcmqi/data/segmentations/{name}/multiframe"))
    np.testing.assert_array_equal(classic.array, multi_frame.array)
    assert classic.geometry.agrees_with(multi_frame.geometry, tolerance_mm=0.001)


DICOM = [
    "ibsi_ct_phantom/dicom",
    "totalsegmentator/example_ct_dicom",
    "dcmqi/data/segmentations/ct-3slice",
    "dcmqi/data/segmentations/23x38x3/image",
    "dcmqi/data/segmentations/24x38x3/multiframe",
]


@pytest.mark.parametrize("name", DICOM)
def test_a_mask_returns_to_the_original_slices(name):
    folder = data(name)
    volume = read_volume(folder)
    assert set(volume.warnings) <= {"W-SMALL", "W-OVERLAP", "W-PADDING", "W-UID"}
    mask = LabelMap((volume.array[0] > 0).astype(np.uint8), volume.geometry)
    source = source_slices(folder)
    on_slices = labels_on_slices(mask, source)
    np.testing.assert_array_equal(on_slices, mask.array.transpose(2, 1, 0))
    repaired = read_volume(folder, Reading(fix_geometry=True))
    np.testing.assert_array_equal(repaired.array, volume.array)
    if "W-UID" not in volume.warnings:
        assert len({(piece.sop_instance_uid, piece.frame_number) for piece in source.slices}) == len(on_slices)


def test_sitk_reads_the_same_dicom():
    """The independent second reader; ITK's own GDCM beside python-gdcm in one process."""
    import SimpleITK

    folder = data("totalsegmentator/example_ct_dicom")
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.array[0].transpose(2, 1, 0), SimpleITK.GetArrayFromImage(image))
    corner = image.TransformIndexToPhysicalPoint([511, 511, 19])
    np.testing.assert_allclose(volume.geometry.to_world([511, 511, 19]) * [-1, -1, 1], corner, atol=0.01)


def test_many_series_in_one_folder_are_listed():
    with pytest.raises(InputError, match="5 series are here") as caught:
        read_volume(data("dcmqi/data/segmentations"))
    assert caught.value.code == "E-SERIES"


IMAGES = {
    "hippocampus/imagesTr": 208,
    "openkbp/ct": 60,
    "sarcoma_pet": 34,
    "brats2013": 8,
    "ms_longitudinal": 4,
    "pyradiomics": 3,
    "totalsegmentator": 3,
    "ibsi_digital_phantom": 1,
}
NO_IMAGE = ("mask", "label", "seg_", "example_seg", "gt_change", "otmulti")


@pytest.mark.parametrize("folder", IMAGES)
def test_every_image_is_read(folder):
    files = [
        path
        for path in sorted(data(folder).rglob("*"))
        if path.name.endswith((".nii.gz", ".nrrd")) and not any(word in path.name.lower() for word in NO_IMAGE)
    ]
    assert len(files) == IMAGES[folder]
    for path in files:
        volume = read_volume(path)
        assert set(volume.warnings) <= {"W-SMALL"}


PAIRS = {
    "hippocampus": ("imagesTr/*.nii.gz", lambda path: path.parents[1] / "labelsTr" / path.name),
    "openkbp": ("ct/*.nii.gz", lambda path: path.parents[1] / "oar" / path.name),
    "sarcoma_pet": ("*/PET_image.nii.gz", lambda path: path.with_name("PET_mask.nii.gz")),
    "pyradiomics": ("*_image.nrrd", lambda path: path.with_name(path.name.replace("image", "label"))),
    "ms_longitudinal": ("*/study1_FLAIR.nii.gz", lambda path: path.with_name("gt_change.nii.gz")),
}


@pytest.mark.parametrize("folder", PAIRS)
def test_every_mask_is_read_and_lies_on_its_image(folder):
    pattern, twin = PAIRS[folder]
    images = sorted(data(folder).glob(pattern))
    assert images
    for path in images:
        mask = read_labels(twin(path))
        assert mask.array.dtype == np.uint8
        assert mask.array.any()
        require_same_grid(read_volume(path), mask)


def test_two_files_are_two_channels_and_rounded_masks_are_whole():
    case = next(data("brats2013").glob("*"))
    volume = read_volumes(sorted(case.glob("*_subtrMeanDivStd.nii.gz")), channels=2)
    assert volume.array.shape == (2, 240, 240, 155)
    assert set(np.unique(read_labels(case / "brainmask.nii.gz").array)) == {0, 1}
