"""Contours enclose exactly the pixels they were traced around, for every way to fill them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import Geometry
from medseg.core.segments import Algorithm, Segment
from medseg.core.terminology import Term
from medseg.core.volume import LabelMap
from medseg.io import dicom_rtstruct
from medseg.io.dicom_contours import Structure, fill_contours, trace
from medseg.io.dicom_labels import read_dicom_labels
from medseg.io.dicom_rtstruct import write_structure_set
from medseg.io.dicom_source import labels_on_slices, source_slices
from medseg.io.volumes import read_labels, read_volume

SHAPE = (12, 10, 6)
LPS = np.array([[0.0, 0.9, 0, 14], [-0.7, 0, 0, -8], [0, 0, 3.0, 55], [0, 0, 0, 1]])
ALGORITHM = Algorithm(name="phantom", version="2", software_version="0.1")
SEGMENTS = (
    Segment(number=1, label="liver", term=Term(type="SCT 10200004 Liver", colour=(178, 78, 62))),
    Segment(
        number=2,
        label="lesion-1",
        term=Term(
            type="SCT 52988006 Lesion", category="SCT 49755003 Morphologically Altered Structure", colour=(9, 8, 7)
        ),
    ),
)


def masks(count):
    """Speckles, blobs with holes, and rings within rings."""
    rng = np.random.default_rng(0)
    for index in range(count):
        mask = rng.random(rng.integers(1, 14, 2)) < rng.uniform(0.1, 0.95)
        yield ndimage.binary_dilation(mask) & (rng.random(mask.shape) < 0.97) if index % 3 == 0 else mask
    rings = np.hypot(*np.mgrid[-12:13, -12:13])
    yield (rings < 12) & (rings > 9) | (rings < 6) & (rings > 3) | (rings < 1)


def area_of(contour):
    rows, columns = contour.T
    return 0.5 * abs(np.sum(rows * np.roll(columns, -1) - columns * np.roll(rows, -1)))


def test_every_mask_is_found_again():
    for mask in masks(300):
        grid = Geometry((*mask.T.shape, 1), np.eye(4))
        even_odd, union = np.zeros_like(mask), np.zeros_like(mask)
        contours = trace(mask)
        assert sum(area_of(contour) for contour in contours) == mask.sum()
        for contour in contours:
            points = np.column_stack([-contour[:, 1], -contour[:, 0], np.zeros(len(contour))])  # RAS grid from LPS mm
            filled = fill_contours(Structure(1, "x", (points,)), grid, Path())[:, :, 0].T
            even_odd ^= filled
            union |= filled
        np.testing.assert_array_equal(even_odd, mask)
        np.testing.assert_array_equal(union, mask)


def test_matplotlib_finds_the_same_pixels():
    """A filler that is not ours; by the nonzero rule, as agg fills."""
    for mask in masks(60):
        found = np.zeros_like(mask)
        centres = np.argwhere(np.ones_like(mask))
        for contour in trace(mask):
            found |= Polygon(contour).contains_points(centres, radius=0).reshape(mask.shape)
        np.testing.assert_array_equal(found, mask)


def test_the_contour_of_two_pixels_goes_round_their_edges():
    (contour,) = trace(np.array([[0, 1, 1]], dtype=bool))
    assert {tuple(point) for point in contour} == {(-0.5, 0.5), (-0.5, 2.5), (0.5, 0.5), (0.5, 2.5)}
    assert len(contour) == 4


def test_a_hole_is_joined_by_a_keyhole():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    (contour,) = trace(mask)
    assert len(contour) == 4 + 5 + 2  # outer corners, the hole's closed, the channel's entry twice
    assert area_of(contour) == 24


def lopsided():
    array = np.zeros(SHAPE, np.uint8)
    array[1:8, 2:9, 1:5] = 1
    array[3:5, 4:6, 1:4] = 0
    array[9, 1:4, 2], array[10, 3, 2], array[3, 4, 2] = 2, 2, 2
    return array


def written(folder, array):
    volume = read_volume(folder)
    mask = LabelMap(array, volume.geometry)
    slices = source_slices(folder)
    path = folder.parent / "x.dcm"
    write_structure_set(labels_on_slices(mask, slices), slices, path, segments=SEGMENTS, algorithm=ALGORITHM)
    return mask, path


@pytest.mark.parametrize("enhanced", [False, True])
def test_round_trip_is_exact(series, enhanced):
    mask, path = written(series.write("s", SHAPE, LPS, enhanced=enhanced), lopsided())
    found = read_labels(path, onto=mask.geometry)
    np.testing.assert_array_equal(found.array, mask.array)
    named = read_labels(path, onto=mask.geometry, names={"Lesion": 9})
    np.testing.assert_array_equal(named.array == 9, mask.array == 2)
    assert named.warnings == ("W-SEGMENTS-LEFT",)
    assert pydicom.dcmread(path).PatientName == "Müller^Jörg"


def test_places_are_the_pixels_places(series):
    array = np.zeros(SHAPE, np.uint8)
    array[4, 7, 3], array[0, 0, 0] = 1, 2
    mask, path = written(series.write("s", SHAPE, LPS), array)
    data = pydicom.dcmread(path)
    points = np.array(data.ROIContourSequence[0].ContourSequence[0].ContourData, float).reshape(-1, 3)
    np.testing.assert_allclose(points.mean(axis=0) * (-1, -1, 1), mask.geometry.to_world((4, 7, 3)), atol=1e-3)
    np.testing.assert_allclose(np.ptp(points, axis=0), (0.9, 0.7, 0), atol=1e-3)


@pytest.mark.parametrize(("enhanced", "shear_mm"), [(False, 0.0), (False, 0.7), (True, 0.0)])
def test_the_validator_finds_nothing(series, enhanced, shear_mm):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    slices = source_slices(series.write("s", SHAPE, LPS, enhanced=enhanced, shear_mm=shear_mm))
    path = series.folder / "x.dcm"
    write_structure_set(lopsided().transpose(2, 1, 0), slices, path, segments=SEGMENTS, algorithm=ALGORITHM)
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr
    assert [line for line in said.splitlines() if line.startswith(("Error", "Warning"))] == []


def test_regions_carry_names_colours_and_codes(series):
    _, path = written(series.write("s", SHAPE, LPS), lopsided())
    data = pydicom.dcmread(path)
    assert [item.ROIName for item in data.StructureSetROISequence] == ["liver", "lesion-1"]
    assert [item.ROIGenerationAlgorithm for item in data.StructureSetROISequence] == ["AUTOMATIC"] * 2
    assert list(data.ROIContourSequence[0].ROIDisplayColor) == [178, 78, 62]
    first, second = data.RTROIObservationsSequence
    assert (first.RTROIInterpretedType, second.RTROIInterpretedType) == ("ORGAN", "")
    assert first.RTROIIdentificationCodeSequence[0].CodeValue == "10200004"


def test_a_structure_set_needs_the_grid_of_its_image(series):
    mask, path = written(series.write("s", SHAPE, LPS), lopsided())
    with pytest.raises(InputError) as caught:
        read_labels(path)
    assert caught.value.code == "E-STRUCTURES-GRID"
    with pytest.raises(InputError, match="has the name of a label") as unnamed:
        read_labels(path, onto=mask.geometry, names={"spleen": 1})
    assert unnamed.value.code == "E-SEGMENT-NAME"
    half = np.eye(4)
    half[2, 3] = 0.5
    between = Geometry(SHAPE, mask.geometry.affine @ half)
    with pytest.raises(GeometryError, match="off the slices") as off:
        read_labels(path, onto=between)
    assert off.value.code == "E-CONTOUR-PLANE"


def test_an_open_contour_encloses_nothing(series):
    mask, path = written(series.write("s", SHAPE, LPS), lopsided())
    data = pydicom.dcmread(path)
    data.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"
    data.save_as(path)
    with pytest.raises(InputError, match="no closed planar") as caught:
        read_labels(path, onto=mask.geometry)
    assert caught.value.code == "E-CONTOUR"


def test_overlapping_regions_are_refused_or_chosen(series):
    mask, path = written(series.write("s", SHAPE, LPS), lopsided())
    data = pydicom.dcmread(path)
    data.ROIContourSequence[1].ContourSequence = data.ROIContourSequence[0].ContourSequence
    data.save_as(path)
    with pytest.raises(InputError) as caught:
        read_labels(path, onto=mask.geometry)
    assert caught.value.code == "E-SEG-OVERLAP"
    assert read_labels(path, onto=mask.geometry, names={"liver": 1}).array.any()


def test_what_reads_back_differently_is_not_kept(series, monkeypatch):
    right = dicom_rtstruct.read_structures
    monkeypatch.setattr(
        dicom_rtstruct,
        "read_structures",
        lambda path: tuple(Structure(s.number, s.name, s.contours[1:]) for s in right(path)),
    )
    with pytest.raises(InputError) as caught:
        written(series.write("s", SHAPE, LPS), lopsided())
    assert caught.value.code == "E-READ-BACK"


@pytest.mark.real_data
def test_published_phantom_has_the_mask_of_its_structure_set(real_data):
    folder = real_data / "ibsi_ct_phantom"
    image = read_volume(folder / "dicom" / "image")
    found = read_dicom_labels(
        folder / "dicom" / "mask" / "DCM_RS_00060.dcm", onto=image.geometry.canonical(), names={"GTV-1": 1}
    )
    reference = read_labels(folder / "nifti" / "mask" / "mask.nii.gz")
    order, flips = reference.geometry.canonical_axes()
    expected = np.flip(reference.array.transpose(order), flips)
    assert found.geometry.agrees_with(reference.geometry.canonical())
    np.testing.assert_array_equal(found.array, expected)
