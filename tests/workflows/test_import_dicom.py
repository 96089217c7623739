"""A tree of DICOM studies with their segmentations, as a hospital exports it, becomes a manifest that trains."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from medseg.core.errors import InputError
from medseg.core.outputs import Outputs
from medseg.core.reading import Reading
from medseg.core.segments import Algorithm
from medseg.core.volume import LabelMap
from medseg.data.check import check_dataset
from medseg.data.contents import read_reference
from medseg.io.volumes import read_volume
from medseg.workflows.dicom_out import Finding, open_series, terms_of, write_objects
from medseg.workflows.import_dataset import import_manifest
from medseg.workflows.inputs import collect_inputs

SHAPE = (20, 18, 6)
LPS = np.array([[2.0, 0, 0, -31], [0, -2.0, 0, 8], [0, 0, 4.0, 55], [0, 0, 0, 1]])


@pytest.fixture
def tree(series, tmp_path):
    """Two patients: `a` with a SEG of the liver and its tumour, `b` with an RTSTRUCT of the liver alone."""
    (tmp_path / "tree").mkdir()
    for number, (name, labels, kind) in enumerate(
        [("a", {"liver": 1, "liver tumour": 2}, "dicom-seg"), ("b", {"liver": 1}, "dicom-rtstruct")]
    ):
        folder = write(series, f"tree/{name}", number)
        annotate(folder, labels, kind)
    return tmp_path / "tree"


def write(series, name, number, shift_mm=0.0):
    def change(data):
        data.PatientID = data.PatientName = f"SECRET{number}"
        data.RescaleIntercept = -1024 - number
        for field in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(data, field, f"{getattr(data, field)}.{1 + number}{int(shift_mm)}")

    moved = LPS.copy()
    moved[2, 3] += shift_mm
    return series.write(name, SHAPE, moved, change=change)


def mask_of(folder, labels, reading=None):
    array = np.zeros(SHAPE, np.uint8)
    array[3:15, 4:14, 1:5] = 1
    if len(labels) > 1:
        array[6:9, 6:9, 2:4] = 2
    return LabelMap(array, read_volume(folder, reading or Reading()).geometry)


def annotate(folder, labels, kind, *, reading=None, into=None):
    mask = mask_of(folder, labels, reading)
    algorithm = Algorithm(name="x", version="1", software_version="1")
    found = Finding("reference", mask, labels, terms_of(labels, Outputs()), algorithm)
    place = into or folder.parent / f"{folder.name}_annotation"
    place.mkdir(exist_ok=True)
    write_objects(found, open_series(folder, reading or Reading()), Outputs(formats=(kind,)), place, resample=False)


def test_each_annotated_series_is_a_case(tree, series, tmp_path):
    write(series, "tree/c", 2)  # nobody drew on it
    out = tmp_path / "m.json"
    dataset = import_manifest(tree, out)
    assert [(case.id, case.patient, case.images[0].name) for case in dataset.cases] == [
        ("case_0001", "p0001", "a"),
        ("case_0002", "p0002", "b"),
    ]
    assert (dataset.labels, dataset.channels) == ({"liver": 1, "liver tumour": 2}, ("CT",))
    assert dataset.description == "1 DICOM series left out"
    assert "SECRET" not in out.read_text()
    assert not [found for found in check_dataset(dataset).findings if found.severity == "error"]
    for case, values in zip(dataset.cases, ({1: "liver", 2: "liver tumour"}, {1: "liver"}), strict=True):
        onto = read_volume(case.images[0]).geometry
        expected = mask_of(case.images[0], values)
        np.testing.assert_array_equal(read_reference(case, dataset, onto=onto).array, expected.array)


def test_what_a_file_does_not_name_may_count_as_not_drawn(tree, tmp_path):
    dataset = import_manifest(tree, tmp_path / "m.json", absent_is_unlabelled=True)
    assert [case.labelled for case in dataset.cases] == [("liver", "liver tumour"), ("liver",)]


def test_series_that_share_a_folder_are_told_apart(series, tmp_path):
    """The smaller of two series in one folder is the annotated one; the case remembers which."""
    first, second = write(series, "one", 0), write(series, "two", 0, shift_mm=500)
    (second / "005.dcm").unlink()
    for path in second.iterdir():
        shutil.move(path, first / f"x{path.name}")
    second.rmdir()
    array = np.zeros((*SHAPE[:2], 5), np.uint8)
    array[3:9, 4:9, 1:3] = 1
    reading = Reading(series="2")
    mask = LabelMap(array, read_volume(first, reading).geometry)
    algorithm = Algorithm(name="x", version="1", software_version="1")
    found = Finding("reference", mask, {"liver": 1}, terms_of({"liver": 1}, Outputs()), algorithm)
    outputs = Outputs(formats=("dicom-seg",))
    write_objects(found, open_series(first, reading), outputs, first, resample=False)
    dataset = import_manifest(first, tmp_path / "m.json")
    (case,) = dataset.cases
    assert (case.images, case.series) == ((first,), "2")
    assert not [found for found in check_dataset(dataset).findings if found.severity == "error"]
    (asked,) = collect_inputs((), tmp_path / "m.json", num_channels=1)
    volume = read_volume(asked.images[0], asked.reading)
    np.testing.assert_array_equal(volume.geometry.affine, mask.geometry.affine)
    np.testing.assert_array_equal(read_reference(case, dataset, onto=volume.geometry).array, array)


def test_two_annotations_of_one_series_need_a_choice(tree, tmp_path):
    (tree / "other").mkdir()
    annotate(tree / "a", {"liver": 1}, "dicom-rtstruct", into=tree / "other")
    with pytest.raises(InputError, match="two files annotate one series") as caught:
        import_manifest(tree, tmp_path / "m.json")
    assert (caught.value.code, "--masks" in caught.value.remedy) == ("E-IMPORT", True)
    dataset = import_manifest(tree, tmp_path / "m.json", masks="other/*")
    assert [case.label.parent.name for case in dataset.cases] == ["other"]
    with pytest.raises(InputError, match="matches 'nothing"):
        import_manifest(tree, tmp_path / "m.json", masks="nothing/*")


def test_an_annotation_without_its_series_is_named(tree, tmp_path):
    shutil.rmtree(tree / "a")
    with pytest.raises(InputError, match="is not here") as caught:
        import_manifest(tree, tmp_path / "m.json")
    assert caught.value.file.parent.name == "a_annotation"


def test_series_of_several_modalities_need_a_choice(series, tmp_path):
    def as_pet(data):
        data.Modality, data.SeriesInstanceUID = "PT", "2.25.9"

    (tmp_path / "tree" / "deep").mkdir(parents=True)
    write(series, "tree/deep/ct", 0)
    series.write("tree/deep/pet", SHAPE, LPS, change=as_pet)
    with pytest.raises(InputError, match="1 of CT, 1 of PET"):
        import_manifest(tmp_path / "tree", tmp_path / "m.json")
    dataset = import_manifest(tmp_path / "tree", tmp_path / "m.json", channels=("CT",))
    assert [case.images[0].name for case in dataset.cases] == ["ct"]
    assert dataset.cases[0].label is None
