"""A mask written as DICOM SEG lies where it lay, voxel by voxel, for readers that share no code with its writer."""

from __future__ import annotations

import shutil
import subprocess
from itertools import permutations, product

import highdicom
import numpy as np
import pydicom
import pytest
from scipy.spatial import cKDTree

from medseg.core.errors import GeometryError, InputError
from medseg.core.segments import Algorithm, Segment
from medseg.core.terminology import Term, private_code
from medseg.core.volume import LabelMap
from medseg.io import dicom_seg
from medseg.io.dicom_labels import read_dicom_labels
from medseg.io.dicom_rtstruct import write_structure_set
from medseg.io.dicom_seg import write_segmentation
from medseg.io.dicom_source import labels_on_slices, source_slices
from medseg.io.volumes import read_volume

SHAPE = (7, 6, 5)
SPACING = np.array([0.8, 1.1, 2.5])
ALGORITHM = Algorithm(name="phantom", version="2+abc", software_version="0.1")
KIDNEY = Term(type="SCT 64033007 Kidney", modifier="SCT 7771000 Left", colour=(200, 120, 90))
TUMOUR = Term(
    type="SCT 108369006 Neoplasm",
    category="SCT 49755003 Morphologically Altered Structure",
    region="SCT 64033007 Kidney",
    region_modifier="SCT 7771000 Left",
    colour=(220, 40, 90),
)
SEGMENTS = (
    Segment(number=1, label="kidney_left", term=KIDNEY),
    Segment(number=2, label="tumour-1", term=TUMOUR, tracking_id="tumour-1", tracking_uid="2.25.77"),
)


def turned(degrees, axis):
    """Rodrigues' rotation about an axis."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


OBLIQUES = (np.eye(3), turned(17, (1, 2, 3)), turned(38, (-2, 1, 0.5)))
ORIENTATIONS = [
    np.eye(3)[:, list(order)] * signs for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]


def grid_of(rotation):
    affine = np.eye(4)
    affine[:3, :3] = rotation * SPACING
    affine[:3, 3] = (-31.5, 12.25, 107.0)
    return affine


def lopsided(shape, *, seed=0):
    """Labels without any symmetry; the last slice is empty."""
    array = (np.random.default_rng(seed).random(shape) * 3).astype(np.uint8)
    array[..., -1] = 0
    array[0, 0, 0], array[1, 0, 0], array[0, 1, 0] = 1, 2, 2
    return array


def written(folder, array=None, *, name="x.dcm", **options):
    """The mask that was written, and where."""
    volume = read_volume(folder)
    mask = LabelMap(lopsided(volume.geometry.shape) if array is None else array, volume.geometry)
    slices = source_slices(folder)
    path = folder.parent / name
    write_segmentation(labels_on_slices(mask, slices), slices, path, segments=SEGMENTS, algorithm=ALGORITHM, **options)
    return mask, path


def places(mask, value):
    return mask.geometry.to_world(np.argwhere(mask.array == value))


def places_by_pydicom(path, number):
    """RAS mm of every pixel of a segment: PS3.3 C.7.6.2.1.1, from pydicom's decoded frames alone."""
    data = pydicom.dcmread(path)
    shared, found = data.SharedFunctionalGroupsSequence[0], []
    across, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    frames = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    for frame, group in zip(frames, data.PerFrameFunctionalGroupsSequence, strict=True):
        if "SegmentIdentificationSequence" in group:
            frame = frame * (group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number) == 1
        else:
            frame = frame == number
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.argwhere(frame):
            found.append(origin + across * between_columns * column + down * between_rows * row)
    return np.array(found) * (-1, -1, 1)


def places_by_highdicom(path, number):
    seg = highdicom.seg.segread(path)
    volume = seg.get_volume(combine_segments=True, allow_missing_positions=True)
    indices = np.argwhere(volume.array == number)
    return volume.map_indices_to_reference(indices) * (-1, -1, 1)


def assert_same_places(found, expected):
    assert found.shape == expected.shape
    apart, partner = cKDTree(expected).query(found)
    assert apart.max() < 0.01
    assert len(set(partner.tolist())) == len(expected)


def faults(path):
    """What dicom3tools' validator calls an error or warns of."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
    return [line for line in said.splitlines() if line.startswith(("Error", "Warning"))]


@pytest.mark.parametrize("oblique", [0, *(pytest.param(one, marks=pytest.mark.slow) for one in (1, 2))])
def test_q01_round_trip_over_all_orientations(series, oblique):
    assert len({orientation.tobytes() for orientation in ORIENTATIONS}) == 48
    for index, orientation in enumerate(ORIENTATIONS):
        folder = series.write(f"s{index}", SHAPE, grid_of(OBLIQUES[oblique] @ orientation))
        mask, path = written(folder, name=f"{index}.dcm")
        for value in (1, 2):
            expected = places(mask, value)
            assert_same_places(places_by_pydicom(path, value), expected)
            assert_same_places(places_by_highdicom(path, value), expected)
        back = read_dicom_labels(path, onto=mask.geometry, names=None)
        np.testing.assert_array_equal(back.array, mask.array)


@pytest.mark.parametrize("index", [0, 5, 13, 22, 37, 47])
def test_the_validator_finds_nothing(series, index):
    folder = series.write("s", SHAPE, grid_of(OBLIQUES[index % 3] @ ORIENTATIONS[index]))
    _, path = written(folder)
    assert faults(path) == []


def test_y_flipped_series_is_not_mirrored(series):
    """Column cosine -1: a writer that takes it for +1 shows the mask front to back."""
    folder = series.write("s", SHAPE, grid_of(np.diag([1.0, -1.0, -1.0])))
    array = np.zeros(SHAPE, np.uint8)
    array[1, 4, 3], array[5, 1, 2] = 2, 1
    mask, path = written(folder, array)
    # the reader sorts slices along the normal, here downwards: index 3 lies 3 x 2.5 mm below the first
    expected = np.array([[31.5 - 0.8, -12.25 + 4 * 1.1, 107.0 - 3 * 2.5]])
    np.testing.assert_allclose(places(mask, 2), expected)
    assert_same_places(places_by_pydicom(path, 2), expected)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_both_kinds_hold_the_same_mask(series, kind):
    folder = series.write("s", SHAPE, grid_of(OBLIQUES[1]))
    mask, path = written(folder, kind=kind)
    for value in (1, 2):
        assert_same_places(places_by_pydicom(path, value), places(mask, value))
    assert pydicom.dcmread(path).SegmentationType == kind.upper()


def test_tilted_gantry_keeps_every_slice_at_its_place(series):
    folder = series.write("s", SHAPE, grid_of(OBLIQUES[2]), shear_mm=0.6)
    slices = source_slices(folder)
    labels = lopsided(SHAPE).transpose(2, 1, 0)
    path = folder.parent / "x.dcm"
    write_segmentation(labels, slices, path, segments=SEGMENTS, algorithm=ALGORITHM)
    assert faults(path) == []
    seg = highdicom.seg.segread(path)
    uids = [piece.sop_instance_uid for piece in slices.slices]
    found = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(found, labels)
    for value in (1, 2):
        expected = [
            (piece.to_lps @ (column, row, 0, 1))[:3] * (-1, -1, 1)
            for plane, piece in zip(labels, slices.slices, strict=True)
            for row, column in np.argwhere(plane == value)
        ]
        assert_same_places(places_by_pydicom(path, value), np.array(expected))


def test_enhanced_series_is_referred_to_by_frame(series):
    folder = series.write("s", SHAPE, grid_of(OBLIQUES[1]), enhanced=True)
    mask, path = written(folder)
    for value in (1, 2):
        assert_same_places(places_by_pydicom(path, value), places(mask, value))
        assert_same_places(places_by_highdicom(path, value), places(mask, value))
    assert faults(path) == []
    source = pydicom.dcmread(folder / "enhanced.dcm")
    data = pydicom.dcmread(path)
    assert [item.ReferencedSOPInstanceUID for item in data.SourceImageSequence] == [source.SOPInstanceUID]
    for group in data.PerFrameFunctionalGroupsSequence:
        item = group.DerivationImageSequence[0].SourceImageSequence[0]
        frame = source.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
        assert item.ReferencedSOPClassUID == source.SOPClassUID
        assert (
            frame.PlanePositionSequence[0].ImagePositionPatient == group.PlanePositionSequence[0].ImagePositionPatient
        )


def test_feet_first_series_with_slices_in_any_order(series):
    lps = grid_of(np.diag([-1.0, 1.0, -1.0]))
    number = iter((3, 1, 5, 2, 4))
    folder = series.write("s", SHAPE, lps, change=lambda data: setattr(data, "InstanceNumber", next(number)))
    mask, path = written(folder)
    assert_same_places(places_by_pydicom(path, 1), places(mask, 1))


def test_what_is_copied_and_what_is_not(series):
    folder = series.write("s", SHAPE, grid_of(np.eye(3)))
    _, path = written(folder)
    data = pydicom.dcmread(path)
    for name in series.identity:
        if name != "SeriesInstanceUID":
            assert str(data[name].value) == series.identity[name]
    assert data.SeriesInstanceUID != series.identity["SeriesInstanceUID"]
    raw = path.read_bytes()
    assert raw[:132] == b"\0" * 128 + b"DICM"
    for secret in (b"Operator", b"Hospital"):
        assert secret not in raw
    assert not data.get("ContentCreatorName")
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == series.identity["SeriesInstanceUID"]
    assert len(data.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SHAPE[2]


def test_segments_carry_codes_colours_tracking_and_algorithm(series):
    folder = series.write("s", SHAPE, grid_of(np.eye(3)))
    _, path = written(folder)
    seg = highdicom.seg.segread(path)
    kidney, tumour = seg.get_segment_description(1), seg.get_segment_description(2)
    assert kidney.segmented_property_type.value == "64033007"
    assert kidney.segmented_property_category.value == "91723000"
    modifier = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert (modifier.CodeValue, modifier.CodeMeaning) == ("7771000", "Left")
    assert kidney.tracking_uid is None
    assert (tumour.tracking_id, tumour.tracking_uid) == ("tumour-1", "2.25.77")
    assert tumour.anatomic_regions[0].value == "64033007"
    assert tumour.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeValue == "7771000"
    assert tumour.algorithm_type.value == "AUTOMATIC"
    assert (tumour.algorithm_identification.name, tumour.algorithm_identification.version) == ("phantom", "2+abc")
    colour = highdicom.color.CIELabColor.from_dicom_value(kidney.RecommendedDisplayCIELabValue).to_rgb(clip=True)
    assert np.abs(np.subtract(colour, KIDNEY.colour)).max() <= 2


def test_slices_without_a_segment_take_no_frame(series):
    folder = series.write("s", SHAPE, grid_of(np.eye(3)))
    array = np.zeros(SHAPE, np.uint8)
    array[2, 2, 1], array[2, 2, 3], array[4, 4, 3] = 1, 2, 1
    mask, path = written(folder, array)
    assert pydicom.dcmread(path).NumberOfFrames == 3
    assert_same_places(places_by_highdicom(path, 2), places(mask, 2))


def test_private_codes_say_whose_they_are(series):
    folder = series.write("s", SHAPE, grid_of(np.eye(3)))
    slices = source_slices(folder)
    term = KIDNEY.model_copy(update={"type": private_code("tooth"), "modifier": None})
    labels = np.ones((SHAPE[2], SHAPE[1], SHAPE[0]), np.uint8)
    path = folder.parent / "x.dcm"
    segment = Segment(number=1, label="tooth", term=term)
    write_segmentation(labels, slices, path, segments=[segment], algorithm=ALGORITHM)
    assert pydicom.dcmread(path).CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99MEDSEG"
    assert all("99MEDSEG" in fault for fault in faults(path))


def test_a_drawn_mask_names_no_algorithm(series):
    folder = series.write("s", SHAPE, grid_of(np.eye(3)))
    slices = source_slices(folder)
    labels = np.ones((SHAPE[2], SHAPE[1], SHAPE[0]), np.uint8)
    path = folder.parent / "x.dcm"
    drawn = ALGORITHM.model_copy(update={"kind": "MANUAL"})
    write_segmentation(labels, slices, path, segments=SEGMENTS[:1], algorithm=drawn)
    item = pydicom.dcmread(path).SegmentSequence[0]
    assert item.SegmentAlgorithmType == "MANUAL"
    assert "SegmentAlgorithmName" not in item


def test_source_without_identity_is_refused(series):
    bare = series.write("a", SHAPE, grid_of(np.eye(3)), change=lambda data: delattr(data, "FrameOfReferenceUID"))
    with pytest.raises(GeometryError) as caught:
        written(bare)
    assert caught.value.code == "E-FRAME-OF-REFERENCE"
    blank = series.write("b", SHAPE, grid_of(np.eye(3)), change=lambda data: setattr(data, "StudyInstanceUID", ""))
    with pytest.raises(InputError, match="StudyInstanceUID") as refused:
        written(blank)
    assert refused.value.code == "E-SOURCE-UID"


@pytest.mark.parametrize("name", ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID"])
def test_mixed_series_is_refused(series, name):
    count = iter(range(SHAPE[2]))
    folder = series.write("s", SHAPE, grid_of(np.eye(3)), change=lambda data: setattr(data, name, f"1.{next(count)}"))
    with pytest.raises(InputError, match="5 series are here") as caught:
        source_slices(folder)
    assert caught.value.code == "E-SERIES"


@pytest.mark.parametrize("write", [write_segmentation, write_structure_set])
def test_empty_mask_is_refused(series, write):
    slices = source_slices(series.write("s", SHAPE, grid_of(np.eye(3))))
    with pytest.raises(InputError) as caught:
        write(np.zeros((5, 6, 7), np.uint8), slices, series.folder / "x.dcm", segments=[], algorithm=ALGORITHM)
    assert caught.value.code == "E-EMPTY-MASK"
    assert not (series.folder / "x.dcm").exists()


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_odd_headers_are_copied_or_left_empty(series):
    def odd(data):
        data.PatientSex, data.PatientAge = "U", "42"
        del data.AccessionNumber, data.SliceThickness

    folder = series.write("s", SHAPE, grid_of(np.eye(3)), change=odd)
    mask, path = written(folder)
    data = pydicom.dcmread(path)
    assert (data.PatientSex, data.PatientAge, data.AccessionNumber) == ("", "42", "")
    assert float(data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness) == pytest.approx(2.5)
    assert_same_places(places_by_pydicom(path, 1), places(mask, 1))


def test_what_reads_back_differently_is_not_kept(series, monkeypatch):
    folder = series.write("s", SHAPE, grid_of(np.eye(3)))
    right = dicom_seg.read_frames

    def one_bit_off(path):
        frames = right(path)
        data = bytearray(frames.data.PixelData)
        data[3] ^= 4
        frames.data.PixelData = bytes(data)
        return frames

    monkeypatch.setattr(dicom_seg, "read_frames", one_bit_off)
    with pytest.raises(InputError) as caught:
        written(folder)
    assert caught.value.code == "E-READ-BACK"
    assert list(series.folder.glob("*.dcm")) == []
