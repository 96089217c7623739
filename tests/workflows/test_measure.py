"""`medseg measure` from files: one mask, a folder, the predictions of a model, masks of other tools."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from medseg.core.errors import GeometryError, InputError, UsageError
from medseg.core.geometry import Geometry
from medseg.core.measurements import CaseMeasurements
from medseg.core.volume import LabelMap, Volume
from medseg.io.documents import read_document
from medseg.io.label_names import read_label_names
from medseg.io.volumes import write_labels, write_volume
from medseg.workflows.mask_inputs import MaskRequest
from medseg.workflows.measure import measure

LABELS = {"liver": 1, "tumour": 2}


@pytest.fixture
def geometry():
    return Geometry.from_parts((24, 20, 10), (1.5, 2, 4), np.diag([-1, -1, 1]), (30, 20, -100))


@pytest.fixture
def folder(tmp_path, geometry):
    """Two cases with images in a folder of their own; the second has no lesion."""
    array = np.zeros(geometry.shape, np.uint8)
    array[3:20, 3:17, 2:8] = 1
    for name, lesion in (("p1", slice(6, 12)), ("p2", slice(0, 0))):
        array[lesion, 8:12, 4:6] = 2
        write_labels(LabelMap(array, geometry), tmp_path / "masks" / f"{name}.nii.gz")
        grey = np.where(array > 0, 60, -1000).astype(np.int16)
        write_volume(Volume(grey[None], geometry), tmp_path / "images" / f"{name}.nii.gz")
        array[array == 2] = 1
    return tmp_path


def test_a_folder_of_masks_with_a_folder_of_images(folder):
    request = MaskRequest(image=folder / "images", labels=LABELS)
    made = measure(folder / "masks", folder / "out", request)
    assert made.failures == ()
    first, second = made.cases
    assert read_document(folder / "out" / "p1.measurements.json", CaseMeasurements) == first
    assert [one.id for one in first.measurements] == ["liver", "tumour-1"]
    assert first.lesions == ("tumour",)
    assert first.measurements[1].intensity.mean == 60
    assert first.measurements[1].intensity.unit == "HU"
    assert any(flag.startswith("W-UNIT-GUESSED") for flag in first.flags)
    assert second.absent == ("tumour",)
    assert second.summary == "No lesion: the mask holds no voxel of tumour."
    assert (folder / "out" / "measurements.csv").read_text().count("\n") == 4
    assert "image/png" in (folder / "out" / "p1.measurements.html").read_text()


def test_the_mask_alone(folder):
    made = measure(folder / "masks" / "p1.nii.gz", folder / "out", MaskRequest(labels=LABELS, pictures=False))
    assert made.cases[0].measurements[1].intensity is None
    assert made.cases[0].measurements[1].side is None


def test_a_stated_unit_wins(folder):
    request = MaskRequest(image=folder / "images" / "p1.nii.gz", labels=LABELS, unit="SUV", pictures=False)
    made = measure(folder / "masks" / "p1.nii.gz", folder / "out", request)
    assert made.cases[0].measurements[1].intensity.unit == "SUV"
    assert made.cases[0].measurements[1].intensity.suv_peak is not None


def test_the_predictions_of_a_model_know_their_labels(inferred, cohort, tmp_path):
    made = measure(inferred.out, tmp_path / "out", MaskRequest(manifest=cohort, pictures=False))
    assert made.failures == ()
    known = inferred.predictions[0].labels
    found = {one.label for case in made.cases for one in case.measurements}
    assert found <= set(known)
    assert len(made.cases) == len(inferred.predictions)
    measured = next(one for case in made.cases for one in case.measurements if one.kind == "organ")
    assert measured.intensity is not None


def test_a_batch_goes_on_and_one_case_stops(folder, geometry):
    moved = Geometry.from_parts(geometry.shape, geometry.spacing_mm, geometry.direction, (33, 20, -100))
    grey = np.random.default_rng(0).integers(0, 9, (1, *geometry.shape)).astype(np.int16)
    write_volume(Volume(grey, moved), folder / "images" / "p2.nii.gz")
    request = MaskRequest(image=folder / "images", labels=LABELS, pictures=False)
    made = measure(folder / "masks", folder / "out", request)
    assert [failure.case for failure in made.failures] == ["p2"]
    assert made.failures[0].code == "E-GRID-MISMATCH"
    assert not (folder / "out" / "p2.measurements.json").exists()
    (folder / "masks" / "p1.nii.gz").unlink()
    with pytest.raises(GeometryError, match="E-GRID-MISMATCH"):
        measure(folder / "masks", folder / "out", request)


def test_a_mask_whose_axes_only_run_the_other_way_is_turned(folder, geometry):
    array = np.zeros(geometry.shape, np.uint8)
    array[6:12, 8:12, 4:6] = 2
    canonical, (order, flips) = geometry.canonical(), geometry.canonical_axes()
    turned = np.flip(array.transpose(order), flips).transpose(2, 0, 1)
    grid = Geometry(turned.shape, canonical.affine[:, [2, 0, 1, 3]])
    write_labels(LabelMap(turned, grid), folder / "turned" / "p1.nii.gz")
    request = MaskRequest(image=folder / "images" / "p1.nii.gz", labels=LABELS, pictures=False)
    made = measure(folder / "turned" / "p1.nii.gz", folder / "out", request)
    straight = measure(folder / "masks" / "p1.nii.gz", folder / "out", request)
    assert any(flag.startswith("W-MASK-REORIENTED") for flag in made.cases[0].flags)
    one, other = made.cases[0].measurements[0], straight.cases[0].measurements[1]
    assert one.centre_mm == pytest.approx(other.centre_mm)
    assert (one.slice_number, one.intensity) == (other.slice_number, other.intensity)


def test_values_that_nothing_names(folder, geometry):
    array = np.zeros(geometry.shape, np.uint8)
    array[6:9, 8:12, 4:6] = 7
    write_labels(LabelMap(array, geometry), folder / "one.nii.gz")
    made = measure(folder / "one.nii.gz", folder / "out", MaskRequest(pictures=False))
    assert made.cases[0].measurements[0].id == "lesion-1"
    array[15:17, 8:12, 4:6] = 9
    write_labels(LabelMap(array, geometry), folder / "two.nii.gz")
    made = measure(folder / "two.nii.gz", folder / "out", MaskRequest(pictures=False))
    assert [one.id for one in made.cases[0].measurements] == ["label_7", "label_9"]
    assert [flag.split(":")[0] for flag in made.cases[0].flags] == ["W-LABEL-UNNAMED", "W-NO-LESION-LABEL"]
    made = measure(folder / "two.nii.gz", folder / "out", MaskRequest(labels={"nodule": 9}, pictures=False))
    assert [one.id for one in made.cases[0].measurements] == ["nodule-1"]
    assert "not measured: 7" in made.cases[0].flags[0]


def test_an_empty_mask(folder, geometry):
    write_labels(LabelMap(np.zeros(geometry.shape, np.uint8), geometry), folder / "empty.nii.gz")
    made = measure(folder / "empty.nii.gz", folder / "out", MaskRequest(labels=LABELS))
    assert made.cases[0].summary == "The mask is empty: there is nothing to measure."
    assert made.cases[0].flags[0].startswith("W-EMPTY-MASK")
    assert "nothing to measure" in (folder / "out" / "measurements.csv").read_text()


def test_a_tilted_plane_is_said(tmp_path):
    turned = np.array([[1, 0, 0], [0, 0.9, -np.sqrt(0.19)], [0, np.sqrt(0.19), 0.9]])
    geometry = Geometry.from_parts((8, 8, 8), (1, 1, 1), turned)
    array = np.zeros((8, 8, 8), np.uint8)
    array[2:5, 2:5, 2:5] = 1
    write_labels(LabelMap(array, geometry), tmp_path / "tilted.nii.gz")
    made = measure(tmp_path / "tilted.nii.gz", tmp_path / "out", MaskRequest())
    assert any(flag.startswith("W-PLANE-TILTED") and "26°" in flag for flag in made.cases[0].flags)


def test_refusals(folder):
    with pytest.raises(InputError, match="E-NOT-FOUND"):
        measure(folder / "nowhere", folder / "out", MaskRequest())
    (folder / "nothing").mkdir()
    with pytest.raises(InputError, match="E-NO-INPUT"):
        measure(folder / "nothing", folder / "out", MaskRequest())
    (folder / "images" / "p2.nii.gz").unlink()
    with pytest.raises(InputError, match=r"E-NO-IMAGE.*p2"):
        measure(folder / "masks", folder / "out", MaskRequest(image=folder / "images"))
    with pytest.raises(UsageError, match="E-LESION-NAME"):
        measure(folder / "masks" / "p1.nii.gz", folder / "out", MaskRequest(labels=LABELS, lesions=("tumr",)))
    assert not list((folder / "out").glob("p1*"))


def test_names_in_the_file_itself(folder, geometry):
    array = np.zeros(geometry.shape, np.uint8)
    array[6:9, 8:12, 4:6] = 2
    write_labels(LabelMap(array, geometry), folder / "named.seg.nrrd", names=LABELS)
    assert read_label_names(folder / "named.seg.nrrd") == LABELS
    made = measure(folder / "named.seg.nrrd", folder / "out", MaskRequest(pictures=False))
    assert made.cases[0].measurements[0].id == "tumour-1"
    assert read_label_names(folder / "masks" / "p1.nii.gz") == {}


def test_a_json_of_someone_else_beside_the_mask_is_left_alone(folder):
    (folder / "masks" / "p1.json").write_text(json.dumps({"Modality": "CT"}))
    shutil.rmtree(folder / "images")
    made = measure(folder / "masks" / "p1.nii.gz", folder / "out", MaskRequest(pictures=False))
    assert made.cases[0].measurements[0].id == "label_1"


@pytest.mark.real_data
def test_a_whole_body_mask_of_another_tool(real_data, tmp_path):
    scans = real_data / "totalsegmentator"
    request = MaskRequest(image=scans / "example_ct.nii.gz", pictures=False)
    made = measure(scans / "example_seg_fast_force_split.nii.gz", tmp_path, request)
    found = {one.id: one for one in made.cases[0].measurements}
    assert 600 < found["liver"].volume_ml < 2500
    assert found["liver"].side == "right"
    assert found["spleen"].side == "left"
    assert 30 < found["liver"].intensity.mean < 130
    for side in ("left", "right"):
        kidney = found[f"kidney_{side}"]
        assert kidney.side == side
        assert 80 < kidney.volume_ml < 300
    # Names and places agree: x grows to the patient's right.
    assert found["kidney_right"].centre_mm[0] > found["kidney_left"].centre_mm[0]


@pytest.mark.real_data
def test_a_lesion_of_a_lung(real_data, tmp_path):
    scans = real_data / "pyradiomics"
    made = measure(scans / "lung1_label.nrrd", tmp_path, MaskRequest(image=scans / "lung1_image.nrrd"))
    (lesion,) = made.cases[0].measurements
    assert 10 < lesion.long_axis.length_mm < 25
    assert lesion.side == "right"


@pytest.mark.real_data
def test_slices_of_a_series_carry_the_number_that_viewers_show(real_data, tmp_path):
    """Instance numbers of this series run from the head down, its slices are sorted upwards."""
    scans = real_data / "totalsegmentator"
    request = MaskRequest(image=scans / "example_ct_dicom", lesions=("aorta",), pictures=False)
    made = measure(scans / "example_seg_dicom.nii.gz", tmp_path, request)
    lesion = next(one for one in made.cases[0].measurements if one.kind == "lesion")
    assert lesion.instance_number == 287 - lesion.slice_number
    # Instance 267 lies at -766.5 mm and every next one 2 mm lower.
    assert lesion.long_axis.ends_mm[0][2] == pytest.approx(-766.5 - 2 * (lesion.instance_number - 267))
    assert lesion.intensity.unit == "HU"


@pytest.mark.real_data
def test_a_tumour_in_a_pet(real_data, tmp_path):
    folder = real_data / "sarcoma_pet" / "STS_002"
    made = measure(folder / "PET_mask.nii.gz", tmp_path, MaskRequest(image=folder / "PET_image.nii.gz", unit="SUV"))
    (lesion,) = made.cases[0].measurements
    values = lesion.intensity
    assert values.mean < values.suv_peak < values.maximum
    assert values.total_lesion_glycolysis == pytest.approx(values.mean * lesion.volume_ml)


def test_measuring_waits_for_no_network_to_load():
    code = "import sys, medseg.workflows.measure; print([name for name in ('torch', 'monai') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
