"""Segmentations made by others become the masks that they are."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import RLELossless, generate_uid

from medseg.core.errors import InputError
from medseg.core.reading import Containment
from medseg.io.contained import contained
from medseg.io.dicom_segments import read_frames
from medseg.io.label_names import read_label_names
from medseg.io.volumes import read_labels, read_volume

SHAPE = (9, 8, 6)
LPS = np.array([[0.0, 0.9, 0, 14], [-0.7, 0, 0, -8], [0, 0, 3.0, 55], [0, 0, 0, 1]])
PLANES = (SHAPE[2], SHAPE[1], SHAPE[0])


def segmentation(folder, pixels, *, kind="BINARY", labels=("liver", "Left Kidney"), change=None, **options):
    """A SEG made by highdicom alone, beside its series."""
    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())]
    made = Segmentation(
        sources,
        pixels,
        kind,
        [SegmentDescription(n, label, codes.SCT.Organ, codes.SCT.Liver, "MANUAL") for n, label in enumerate(labels, 1)],
        generate_uid(),
        1,
        generate_uid(),
        1,
        "maker",
        "model",
        "1",
        "0",
        **options,
    )
    if change is not None:
        change(made)
    path = folder.parent / "seg.dcm"
    made.save_as(path)
    return path


def numbered():
    pixels = np.zeros(PLANES, np.uint8)
    pixels[1:3, 2:5, 1:7], pixels[4, 0, 0], pixels[2, 7, 8] = 1, 2, 2
    return pixels


@pytest.fixture
def folder(series):
    return series.write("s", SHAPE, LPS)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("BINARY", {}),
        ("BINARY", {"omit_empty_frames": False}),
        ("LABELMAP", {}),
        ("LABELMAP", {"transfer_syntax_uid": RLELossless}),
    ],
)
def test_segments_fall_onto_the_image(folder, kind, options):
    image = read_volume(folder)
    path = segmentation(folder, numbered(), kind=kind, **options)
    found = read_labels(path, onto=image.geometry)
    np.testing.assert_array_equal(found.array, numbered().transpose(2, 1, 0))
    named = read_labels(path, onto=image.geometry, names={"kidney_left": 7, "spleen": 3})
    np.testing.assert_array_equal(named.array, 7 * (numbered() == 2).transpose(2, 1, 0))
    assert named.warnings == ("W-SEGMENTS-LEFT",)
    assert read_label_names(path) == {"liver": 1, "Left Kidney": 2}


def test_other_axes_of_the_image_do_not_matter(folder):
    image = read_volume(folder)
    found = read_labels(segmentation(folder, numbered()), onto=image.geometry.canonical())
    order, flips = image.geometry.canonical_axes()
    expected = np.flip(numbered().transpose(2, 1, 0).transpose(order), flips)
    np.testing.assert_array_equal(found.array, expected)


def test_alone_it_lies_on_the_grid_of_its_frames(folder):
    found = read_labels(segmentation(folder, numbered()))
    image = read_volume(folder).geometry
    assert found.geometry.agrees_with(image.cropped((0, 0, 1), (9, 8, 5)))
    np.testing.assert_array_equal(found.array, numbered().transpose(2, 1, 0)[:, :, 1:5])


def test_sparse_frames_leave_the_slices_between_empty(folder):
    pixels = np.zeros(PLANES, np.uint8)
    pixels[0, 3, 3] = pixels[2, 3, 3] = pixels[4, 3, 3] = 1
    path = segmentation(folder, pixels, labels=("liver",))
    found = read_labels(path, onto=read_volume(folder).geometry)
    np.testing.assert_array_equal(found.array, pixels.transpose(2, 1, 0))


def test_fractional_is_taken_where_it_is_all_or_nothing(folder):
    image = read_volume(folder)
    whole = (numbered() == 1).astype(np.float32)
    path = segmentation(folder, whole, kind="FRACTIONAL", labels=("liver",))
    np.testing.assert_array_equal(read_labels(path, onto=image.geometry).array, whole.transpose(2, 1, 0))
    path = segmentation(folder, whole * 0.7, kind="FRACTIONAL", labels=("liver",))
    with pytest.raises(InputError) as caught:
        read_labels(path, onto=image.geometry)
    assert caught.value.code == "E-SEG-FRACTIONAL"


def test_overlapping_segments_are_refused_or_chosen(folder):
    image = read_volume(folder)
    stacked = np.zeros((*PLANES, 2), np.uint8)
    stacked[1:4, 2:5, 2:5, 0], stacked[3, 2:7, 2:5, 1] = 1, 1
    path = segmentation(folder, stacked)
    with pytest.raises(InputError, match="9 voxels") as caught:
        read_labels(path, onto=image.geometry)
    assert caught.value.code == "E-SEG-OVERLAP"
    chosen = read_labels(path, onto=image.geometry, names={"liver": 1})
    np.testing.assert_array_equal(chosen.array, stacked[..., 0].transpose(2, 1, 0))
    joined = read_labels(path, onto=image.geometry, names={"liver": 1, "left kidney": 1})
    np.testing.assert_array_equal(joined.array, stacked.max(axis=3).transpose(2, 1, 0))


def test_lesions_of_one_label_are_one_label_again(folder):
    path = segmentation(folder, numbered(), labels=("lesion-1", "lesion-2"))
    found = read_labels(path, onto=read_volume(folder).geometry, names={"lesion": 4})
    np.testing.assert_array_equal(found.array, 4 * (numbered() > 0).transpose(2, 1, 0))


def test_a_slice_of_a_ct_is_no_segmentation(folder):
    with pytest.raises(InputError, match="no DICOM segmentation") as caught:
        read_frames(min(folder.iterdir()))
    assert caught.value.code == "E-NOT-SEGMENTATION"


def test_no_segment_of_that_name(folder):
    with pytest.raises(InputError, match="has the name of a label") as caught:
        read_labels(segmentation(folder, numbered()), names={"spleen": 1})
    assert caught.value.code == "E-SEGMENT-NAME"


def moved(index, millimetres):
    def change(made):
        position = made.PerFrameFunctionalGroupsSequence[index].PlanePositionSequence[0]
        position.ImagePositionPatient = [
            float(part) + shift for part, shift in zip(position.ImagePositionPatient, millimetres, strict=True)
        ]

    return change


def turned(made):
    group, orientation = made.PerFrameFunctionalGroupsSequence[0], Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    group.PlaneOrientationSequence = [orientation]


def undeclared(made):
    del made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence


def cut(made):
    made.PixelData = made.PixelData[:20]


def counted(made):
    made.NumberOfFrames = 77


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (moved(0, (0, 0, 1.1)), "E-SERIES-SPACING"),
        (moved(1, (0, 2.5, 0)), "E-SERIES-SPACING"),
        (turned, "E-SERIES-IOP"),
        (undeclared, "E-NO-ORIENTATION"),
        (cut, "E-SHORT-DATA"),
        (counted, "E-SIZE-MISMATCH"),
    ],
)
def test_frames_on_no_grid_or_damaged(folder, change, code):
    path = segmentation(folder, numbered(), change=change)
    with pytest.raises(InputError) as caught:
        read_labels(path)
    assert caught.value.code == code


def test_a_coarser_segmentation_is_looked_up_by_place(folder):
    path = segmentation(folder, numbered(), labels=("liver", "b"))
    fine = read_volume(folder).geometry.resized((18, 16, 12))
    found = read_labels(path, onto=fine)
    expected = numbered().transpose(2, 1, 0).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(found.array, expected)


def test_far_away_there_is_nothing(folder):
    far = read_volume(folder).geometry.cropped((0, 0, 100), (9, 8, 106))
    assert not read_labels(segmentation(folder, numbered()), onto=far).array.any()


def test_reading_in_a_process_of_its_own_finds_the_same(folder):
    path, onto = segmentation(folder, numbered()), read_volume(folder).geometry
    # a label may have any name, also one that a request between processes uses itself
    expected = read_labels(path, onto=onto, names={"liver": 3, "path": 4})
    with contained(Containment()):
        found = read_labels(path, onto=onto, names={"liver": 3, "path": 4})
    np.testing.assert_array_equal(found.array, expected.array)
    assert found.geometry.agrees_with(onto, tolerance_mm=0)
    with contained(Containment()):
        np.testing.assert_array_equal(read_labels(path, names={"path": 1, "liver": 3}).array.max(), 3)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "reference", "labels"),
    [
        ("liver.dcm", "liver_seg.nrrd", None),
        ("24x38x3/seg/label.seg", "24x38x3/nrrd/label.nrrd", None),
        ("23x38x3/seg/label.seg", "23x38x3/nrrd/label.nrrd", None),
        ("sparse-labelmap-noppv.dcm", "sparse_labelmap_noppv_seg.nrrd", None),
        ("partial_overlaps.dcm", "partial_overlaps-1.nrrd", {"GREEN": 1, "LIGHT_BLUE": 4, "DARK_BLUE": 5}),
        ("partial_overlaps.dcm", "partial_overlaps-2.nrrd", {"ORANGE": 2}),
        ("partial_overlaps.dcm", "partial_overlaps-3.nrrd", {"PURPLE": 3}),
    ],
)
def test_examples_of_another_writer(real_data, file, reference, labels):
    folder = real_data / "dcmqi" / "data" / "segmentations"
    expected = read_labels(folder / reference)
    found = read_labels(folder / file, onto=expected.geometry, names=labels)
    np.testing.assert_array_equal(found.array, expected.array)
