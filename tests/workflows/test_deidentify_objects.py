"""Segmentations, structure sets and reports stay with their series when all of them become nameless."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread

from medseg.core.deidentification import DeidentifyOptions
from medseg.core.outputs import Outputs
from medseg.core.volume import LabelMap
from medseg.data.manifest import read_manifest
from medseg.io.volumes import read_labels, read_volume, write_labels
from medseg.workflows.deidentify import deidentify
from medseg.workflows.mask_inputs import MaskRequest
from medseg.workflows.to_dicom import ToDicomRequest, to_dicom

SHAPE = (30, 26, 10)
# oblique, off origin, slices against their normal
TURN = np.deg2rad(12)
LPS = np.array(
    [
        [2 * np.cos(TURN), 0, 3 * np.sin(TURN), -31],
        [0, -2.0, 0, 8],
        [2 * np.sin(TURN), 0, -3 * np.cos(TURN), 55],
        [0, 0, 0, 1],
    ]
)
LABELS = {"liver": 1, "liver tumour": 2}
OPTIONS = {
    "plain": DeidentifyOptions(),
    "words": DeidentifyOptions(keep_words=True, shift_dates=True, keep_characteristics=True),
    "uids": DeidentifyOptions(keep_uids=True),
}


def marked(data):
    data.SeriesDescription, data.StudyDescription = "ZZCANARY thorax", "ZZCANARY"


@pytest.fixture
def source(series, tmp_path):
    (tmp_path / "source").mkdir()
    series.write("source/scan", SHAPE, LPS, change=marked)
    volume = read_volume(tmp_path / "source" / "scan")
    array = np.zeros(SHAPE, np.uint8)
    array[5:24, 4:20, 1:9] = 1
    array[8:12, 8:11, 2:5] = 2
    array[17:22, 12:16, 4:8] = 2
    write_labels(LabelMap(array, volume.geometry), tmp_path / "mask.nii.gz")
    outputs = Outputs(formats=("dicom-seg", "dicom-rtstruct", "dicom-sr"))
    request = ToDicomRequest(tmp_path / "source" / "scan", MaskRequest(labels=LABELS), outputs)
    to_dicom(tmp_path / "mask.nii.gz", tmp_path / "source" / "objects", request)
    return tmp_path / "source"


def by_modality(folder):
    found = {}
    for path in folder.rglob("*.dcm"):
        found.setdefault(pydicom.dcmread(path, stop_before_pixels=True).Modality, []).append(path)
    return found


def series_in(folder):
    (place,) = {path.parent for path in by_modality(folder)["CT"]}
    return place


@pytest.mark.parametrize("name", OPTIONS)
def test_a_series_with_its_objects(source, tmp_path, name):
    report = deidentify(source, tmp_path / "out", OPTIONS[name], key=tmp_path / "k")
    assert (report.refused, report.num_patients) == ((), 1)
    labels_come_back_on_the_same_voxels(source, tmp_path)
    references_lead_to_the_new_objects(tmp_path)
    nothing_of_the_old_objects_is_in_the_new_ones(source, tmp_path, keep_uids=name == "uids")
    if shutil.which("dciodvfy"):
        new_objects_are_no_less_valid_than_the_old_ones(source, tmp_path)


def labels_come_back_on_the_same_voxels(source, tmp_path):
    old, new = by_modality(source), by_modality(tmp_path / "out")
    assert {kind: len(paths) for kind, paths in new.items()} == {"CT": SHAPE[2], "SEG": 1, "RTSTRUCT": 1, "SR": 1}
    before, after = read_volume(source / "scan"), read_volume(series_in(tmp_path / "out"))
    assert before.geometry.agrees_with(after.geometry)
    for kind in ("SEG", "RTSTRUCT"):
        expected = read_labels(old[kind][0], onto=before.geometry)
        found = read_labels(new[kind][0], onto=after.geometry)
        np.testing.assert_array_equal(found.array, expected.array)
        assert found.array.max() == 3, "an organ and two lesions"
    named = read_labels(new["SEG"][0], onto=after.geometry, names=LABELS)
    np.testing.assert_array_equal(named.array, read_labels(tmp_path / "mask.nii.gz").array)


def references_lead_to_the_new_objects(tmp_path):
    paths = [path for found in by_modality(tmp_path / "out").values() for path in found]
    objects = {str(data.SOPInstanceUID): data for data in map(pydicom.dcmread, paths)}
    frames = {str(data.FrameOfReferenceUID) for data in objects.values() if data.Modality == "CT"}
    studies = {str(data.StudyInstanceUID) for data in objects.values()}
    assert len(studies) == len(frames) == 1
    known, referenced = {*objects, *studies}, 0  # a structure set names the study as well
    for data in objects.values():
        for element in data.iterall():
            if element.keyword == "ReferencedSOPInstanceUID":
                assert element.value in known, f"{data.Modality}: {element}"
                referenced += 1
            elif element.keyword in {"FrameOfReferenceUID", "ReferencedFrameOfReferenceUID"}:
                assert str(element.value) in frames
    assert referenced > 2 * SHAPE[2]
    report = next(path for path in paths if pydicom.dcmread(path).Modality == "SR")
    seg = next(data for data in objects.values() if data.Modality == "SEG")
    groups = srread(report).content.get_volumetric_roi_measurement_groups()
    tracked = {str(item.TrackingUID) for item in seg.SegmentSequence if "TrackingUID" in item}
    assert len(groups) == 3
    assert tracked < {str(group.tracking_uid) for group in groups}
    assert {group.referenced_segment.referenced_segment_numbers[0] for group in groups} == {1, 2, 3}


def nothing_of_the_old_objects_is_in_the_new_ones(source, tmp_path, *, keep_uids):
    uids = {str(pydicom.dcmread(path).get(name)) for path in source.rglob("*.dcm")
            for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")}  # fmt: skip
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"ZZCANARY" not in data
            assert "Müller".encode("latin-1") not in data
            assert keep_uids or [uid for uid in uids - {"None"} if uid.encode() in data] == []


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_a_manifest_finds_its_labels_again(source, tmp_path, kind):
    """Names of labels stay in the objects, whatever they are."""
    (made,) = (source / "objects").glob(f"*.{kind}.dcm")
    data = pydicom.dcmread(made)
    for item in data.get("SegmentSequence", []):
        item.SegmentLabel = item.SegmentLabel.replace("liver", "zorgon")
    for item in data.get("StructureSetROISequence", []):
        item.ROIName = item.ROIName.replace("liver", "zorgon")
    data.save_as(made)
    labels = {name.replace("liver", "zorgon"): value for name, value in LABELS.items()}
    case = {"id": "a", "images": ["scan"], "label": f"objects/{made.name}"}
    (source / "m.json").write_text(json.dumps({"name": "d", "labels": labels, "cases": [case]}))
    report = deidentify(source / "m.json", tmp_path / "out", DeidentifyOptions(), key=tmp_path / "k")
    assert report.refused == ()
    new = read_manifest(tmp_path / "out" / "manifest.json").cases[0]
    found = read_labels(new.label, onto=read_volume(new.images[0]).geometry, names=labels)
    expected = read_labels(made, onto=read_volume(source / "scan").geometry, names=labels)
    np.testing.assert_array_equal(found.array, expected.array)
    assert set(np.unique(found.array)) == {0, 1, 2}


def new_objects_are_no_less_valid_than_the_old_ones(source, tmp_path):
    def errors(paths):
        said = set()
        for path in paths:
            done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False, errors="replace")
            said |= {line for line in done.stderr.splitlines() if line.startswith("Error")}
        return said

    old, new = by_modality(source), by_modality(tmp_path / "out")
    for kind in old:
        assert errors(new[kind][:2]) - errors(old[kind][:2]) == set(), kind
    for kind in ("SEG", "RTSTRUCT", "SR"):
        assert errors(new[kind]) == set(), kind
