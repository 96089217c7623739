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
    assert {flag.split(":")[0] for flag in volume.warnings} <= {
        "W-SMALL",
        "W-OVERLAP",
        "W-PADDING",
        "W-UID",
        "W-IGNORED",
    }
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


EVERY = {"hippocampus": 20, "openkbp": 10, "sarcoma_pet": 2}
"""Of the large folders one file in so many."""
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
FOLDERS = [*IMAGES, "dcmqi", "ibsi_ct_phantom"]


def by_another_library(path):
    """Voxels (I, J, K) as float64 and the affine, RAS mm: nibabel's of a NIfTI, SimpleITK's of the others."""
    if ".nii" in path.name:
        import nibabel

        image = nibabel.load(path)
        return image.get_fdata(), image.affine
    import SimpleITK

    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).T.astype(float), np.diag([-1.0, -1, 1, 1]) @ affine


@pytest.mark.parametrize("folder", sorted({name.split("/")[0] for name in FOLDERS}))
def test_images_and_masks_agree_with_another_library(folder):
    """All of them, masks as images too; values in float32, as the network gets them."""
    files = [path for path in sorted(data(folder).rglob("*")) if path.name.endswith(SUFFIXES)]
    assert files
    for path in files[:: EVERY.get(folder, 1)]:
        volume = read_volume(path)
        array, affine = by_another_library(path)
        np.testing.assert_array_equal(volume.array[0].astype(np.float32), array.astype(np.float32), err_msg=str(path))
        np.testing.assert_allclose(volume.geometry.affine, affine, rtol=0, atol=1e-6, err_msg=str(path))


SERIES = {
    "ibsi_ct_phantom/dicom/image": None,
    "totalsegmentator/example_ct_dicom": None,
    "dcmqi/data/segmentations/ct-3slice": None,
    "dcmqi/data/segmentations/23x38x3/image": None,
    "dcmqi/data/segmentations/24x38x3/image": None,
    "dcmqi/data/segmentations/23x38x3/multiframe": None,
    "dcmqi/data/segmentations/24x38x3/multiframe": None,
    "dcmqi/data/paramaps": None,
    "dcmqi/data/segmentations/23x38x3/seg": "E-NO-DICOM",
    "dcmqi/data/segmentations/24x38x3/seg": "E-NO-DICOM",
    "dcmqi/data/segmentations": "E-SERIES",
    "dcmqi/data/sr-example": "E-NO-DICOM",
    "ibsi_ct_phantom/dicom/mask": "E-NO-DICOM",
}
"""Every folder with DICOM objects: None is read, the others hold no one image of a patient."""


def test_every_folder_of_dicom_is_listed_here():
    whole = data(".")
    assert {path.parent.relative_to(whole).as_posix() for path in whole.rglob("*.dcm")} <= set(SERIES)


@pytest.mark.parametrize("name", SERIES)
def test_a_folder_of_dicom_agrees_with_another_library_or_is_refused(name):
    import SimpleITK

    folder, code = data(name), SERIES[name]
    if code is not None:
        with pytest.raises(InputError) as caught:
            read_volume(folder)
        assert caught.value.code == code
        return
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = SimpleITK.ReadImage(files[0] if len(files) == 1 else files)
    volume = read_volume(folder)
    assert volume.geometry.shape == image.GetSize()
    expected = SimpleITK.GetArrayFromImage(image)
    is_padded = any(flag.startswith("W-PADDING") for flag in volume.warnings)
    np.testing.assert_array_equal(
        volume.array[0].transpose(2, 1, 0), np.maximum(expected, -1024) if is_padded else expected
    )
    for index in np.ndindex(2, 2, 2):
        corner = [int(at) for at in np.array(index) * (np.array(image.GetSize()) - 1)]
        place = image.TransformIndexToPhysicalPoint(corner)
        np.testing.assert_allclose(volume.geometry.to_world(corner) * [-1, -1, 1], place, atol=0.01)
