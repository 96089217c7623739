"""A dataset becomes a nameless one: ids, files, columns and the way its series is read."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from medseg.core.deidentification import DeidentifyOptions
from medseg.core.errors import UsageError
from medseg.core.volume import LabelMap
from medseg.data.manifest import read_manifest
from medseg.io.deid_key import Pseudonyms, read_key
from medseg.io.volumes import read_labels, read_volume, read_volumes, write_labels, write_volume
from medseg.workflows.deidentify import deidentify

WORD = "ZZCANARY"
LPS = np.diag([-0.8, 0.7, 2.5, 1.0])


def marked(data):
    data.PatientName, data.PatientID, data.SeriesDescription = f"{WORD}^DOE", f"{WORD}-7", f"{WORD} chest"


@pytest.fixture
def place(tmp_path, series):
    """Cases of two patients: a DICOM series, a file of two channels, and two files with one a NRRD."""
    source = tmp_path / "source"
    source.mkdir()
    series.write(f"source/{WORD}_ct", (6, 5, 4), LPS, change=marked)
    volume = read_volume(source / f"{WORD}_ct")
    mask = LabelMap((volume.array[0] > 0).astype(np.uint8), volume.geometry)
    write_labels(mask, source / f"{WORD}_mask.seg.nrrd", names={WORD: 1})
    affine = np.array([[0, 1.5, 0, -3], [-2, 0, 0, 7], [0, 0, 3, 1], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(np.arange(120, dtype=np.float32).reshape(3, 4, 5, 2), affine)
    image.header["descrip"] = WORD.encode()
    nib.save(image, source / f"{WORD}_two.nii.gz")
    first = read_volume(source / f"{WORD}_ct")
    write_volume(first, source / f"{WORD}_a.nrrd")
    write_volume(first, source / f"{WORD}_b.mha")
    cases = [
        {
            "id": f"{WORD}-1",
            "patient": f"{WORD}-7",
            "images": [f"{WORD}_two.nii.gz"],
            "classes": {"kind": "benign"},
            "split": "train",
            "fold": 2,
            "labelled": ["thing"],
            "attributes": {"site": "Ulm", "sex": "F", "age": "94", "seen": "2024-02-03", "notes": WORD},
        },
        {
            "id": f"{WORD}-2",
            "patient": f"{WORD}-7",
            "images": [f"{WORD}_a.nrrd", f"{WORD}_b.mha"],
            "label": f"{WORD}_mask.seg.nrrd",
            "attributes": {"seen": "2024-03-04"},
        },
    ]
    values = {
        "name": WORD,
        "description": WORD,
        "channels": ["CT", "MRI"],
        "labels": {"thing": 1},
        "heads": {"kind": ["benign", "malignant"]},
        "licence": "CC0",
    }
    (source / "two.json").write_text(json.dumps({**values, "cases": cases}))
    one = {"id": f"{WORD}-3", "images": [f"{WORD}_ct"], "label": f"{WORD}_mask.seg.nrrd"}
    (source / "one.json").write_text(json.dumps({**values, "channels": ["CT"], "cases": [one]}))
    return tmp_path


def everything(folder):
    return b"\n".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in folder.rglob("*") if p.is_file())


def test_files_of_a_dataset(place):
    options = DeidentifyOptions(shift_dates=True, keep_characteristics=True, keep_columns=("site",))
    report = deidentify(place / "source" / "two.json", place / "out", options, key=place / "k")
    assert (report.num_cases, report.num_patients, report.num_written, report.refused) == (2, 1, 4, ())
    columns = next(one for one in report.attributes if one.attribute == "manifest column")
    assert (columns.removed, columns.replaced, columns.kept) == (1, 3, 2)
    assert WORD.encode() not in everything(place / "out")
    made = read_manifest(place / "out" / "manifest.json")
    pseudonyms = Pseudonyms(read_key(place / "k"))
    first, second = (made.case(pseudonyms.case(f"{WORD}-{number}")) for number in (1, 2))
    assert first.patient == second.patient == pseudonyms.patient(f"{WORD}-7")
    assert (first.classes, first.split, first.fold, first.labelled) == ({"kind": "benign"}, "train", 2, ("thing",))
    assert (made.name, made.description, made.licence, made.labels) == ("out", "", "CC0", {"thing": 1})
    assert first.attributes.keys() == {"site", "sex", "age", "seen"}
    assert (first.attributes["site"], first.attributes["age"]) == ("Ulm", "90")
    days = np.datetime64(second.attributes["seen"]) - np.datetime64(first.attributes["seen"])
    assert days == np.timedelta64(30, "D")
    assert all(not path.startswith("/") for case in json.loads((place / "out" / "manifest.json").read_text())["cases"]
               for path in case["images"])  # fmt: skip
    source = read_manifest(place / "source" / "two.json")
    for old, new in ((source.cases[0], first), (source.cases[1], second)):
        before, after = (read_volumes(case.images, channels=2) for case in (old, new))
        np.testing.assert_array_equal(before.array, after.array)
        assert before.geometry.agrees_with(after.geometry)
    np.testing.assert_array_equal(read_labels(second.label).array, read_labels(source.cases[1].label).array)


def test_a_dataset_of_series(place):
    report = deidentify(place / "source" / "one.json", place / "out", DeidentifyOptions(), key=place / "k")
    assert (report.num_cases, report.num_written) == (1, 5)
    assert WORD.encode() not in everything(place / "out")
    case = read_manifest(place / "out" / "manifest.json").cases[0]
    assert case.patient == Pseudonyms(read_key(place / "k")).patient(f"{WORD}-7")
    assert case.images[0].parts[-3] == case.patient
    before, after = read_volume(place / "source" / f"{WORD}_ct"), read_volume(case.images[0])
    np.testing.assert_array_equal(before.array, after.array)
    assert before.geometry.agrees_with(after.geometry)


def test_a_case_with_one_bad_file_leaves_nothing_behind(place):
    (place / "source" / f"{WORD}_b.mha").write_bytes(b"ObjectType = Image\n")
    report = deidentify(place / "source" / "two.json", place / "out", DeidentifyOptions(), key=place / "k")
    assert (report.num_cases, report.num_written, len(report.refused)) == (1, 1, 1)
    assert len(list((place / "out" / "images").iterdir())) == 1
    assert len(read_manifest(place / "out" / "manifest.json").cases) == 1
    assert not (place / "out" / "labels").exists()


def test_a_zip_of_a_series_in_a_manifest(place):
    source = place / "source"
    shutil.make_archive(str(source / "scan"), "zip", source / f"{WORD}_ct")
    values = json.loads((source / "one.json").read_text())
    values["cases"] = [{"id": "x", "images": ["scan.zip"]}, {"id": "y", "images": [f"{WORD}_ct"]}]
    (source / "zip.json").write_text(json.dumps(values))
    report = deidentify(source / "zip.json", place / "out", DeidentifyOptions(), key=place / "k")
    assert [one.code for one in report.refused] == ["E-DEID-DUPLICATE"], "the same series twice, from two places"
    case = read_manifest(place / "out" / "manifest.json").cases[0]
    np.testing.assert_array_equal(read_volume(case.images[0]).array, read_volume(source / f"{WORD}_ct").array)


def test_one_series_for_two_cases_is_written_once(place):
    values = json.loads((place / "source" / "one.json").read_text())
    values["cases"] = [{"id": name, "images": [f"{WORD}_ct"]} for name in "xy"]
    (place / "source" / "one.json").write_text(json.dumps(values))
    report = deidentify(place / "source" / "one.json", place / "out", DeidentifyOptions(), key=place / "k")
    assert (report.num_cases, report.num_written, report.refused) == (2, 4, ())


def test_the_series_that_is_read_keeps_being_the_one(place, series):
    path = place / "source" / "one.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"reading": {"series": series.identity["SeriesInstanceUID"]}}))
    deidentify(path, place / "out", DeidentifyOptions(), key=place / "k")
    made = read_manifest(place / "out" / "manifest.json")
    assert read_volume(made.cases[0].images[0], made.reading).array.shape == (1, 6, 5, 4)
    path.write_text(json.dumps(values | {"reading": {"series": "2"}}))
    with pytest.raises(UsageError, match="E-DEID-SERIES"):
        deidentify(path, place / "out", DeidentifyOptions(), key=place / "k")


def test_what_cannot_be_asked_for(place):
    source = place / "source"
    with pytest.raises(UsageError, match="E-DEID-COLUMN"):
        deidentify(source / "two.json", place / "out", DeidentifyOptions(keep_columns=("hair",)), key=None)
    with pytest.raises(UsageError, match="E-DEID-COLUMN"):
        deidentify(source, place / "out", DeidentifyOptions(keep_columns=("site",)), key=None)
    (place / "m.json").write_text(json.dumps({"name": "x", "cases": [{"id": "a", "images": ["source/x.nii"]}]}))
    with pytest.raises(UsageError, match="E-DEID-OUT"):
        deidentify(place / "m.json", source, DeidentifyOptions(), key=None)
    (place / "m.json").write_text(json.dumps({"name": "x", "generator": {"name": "phantom"}}))
    with pytest.raises(UsageError, match="E-DEID-OUT"):
        deidentify(place / "m.json", place / "out", DeidentifyOptions(), key=None)


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_an_archive_is_a_folder(place, kind):
    source = place / "source"
    for name in ("one.json", "two.json"):
        (source / name).unlink()
    archive = shutil.make_archive(str(place / WORD), kind, source)
    options = DeidentifyOptions()
    packed = deidentify(place / archive, place / "packed", options, key=place / "k", mapping=place / "who.json")
    plain = deidentify(source, place / "plain", options, key=place / "k")
    assert (packed.num_written, packed.num_files) == (plain.num_written, plain.num_files) == (7, 8)
    assert [one.code for one in packed.refused] == ["E-NDIM"], "two channels, which only a manifest announces"
    names = [{p.relative_to(place / f) for p in (place / f).rglob("*")} for f in ("packed", "plain")]
    assert names[0] == names[1]
    assert f"{archive}/{WORD}_a.nrrd" in json.loads((place / "who.json").read_text())["files"]
