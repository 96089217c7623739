"""Heads lose their faces on the way: as a DICOM series and as an image of a manifest with its mask."""

from __future__ import annotations

import json
import sys

import numpy as np
import pydicom
import pytest
from PIL import Image

from medseg.apps import cli
from medseg.core.deidentification import DeidentifyOptions
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.data.manifest import read_manifest
from medseg.io.volumes import read_labels, read_volume, write_labels, write_volume
from medseg.ops.deface import find_face
from medseg.ops.head import grey_values, in_brain, in_face
from medseg.workflows import deidentify_faces
from medseg.workflows.deidentify import deidentify

SHAPE, STEP_MM = (40, 52, 50), (5.0, 5.0, 5.0)
LOW_MM = (-98.0, -132.0, -138.0)


@pytest.fixture(scope="module")
def head():
    """HU of a made head, where its voxels lie (they are those of the made head), and where its face is."""
    affine = np.diag([*STEP_MM, 1.0])
    affine[:3, 3] = LOW_MM
    grid = Geometry(SHAPE, affine)
    points = grid.to_world(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1))
    values = np.interp(grey_values(points), [0, 30, 60, 80, 100], [-1000, 900, 40, 10, 35]).astype(np.int16)
    volume = Volume(values[np.newaxis], grid)
    return volume, points, find_face(volume)


def write_series(series, name, values, *, bare=False):
    """Slices from head to foot, rows from front to back."""
    lps = np.diag([-STEP_MM[0], -STEP_MM[1], STEP_MM[2], 1.0])
    lps[:3, 3] = (-LOW_MM[0], -LOW_MM[1], LOW_MM[2])

    def draw(data):
        data.PatientID, data.PatientName = "ZZ-9", "ZZ^Z"
        data.PixelData = (values[:, :, data.InstanceNumber - 1].T + 1024).astype(np.uint16).tobytes()
        if bare:
            data.Modality = "OT"
            data.BurnedInAnnotation = "NO"

    return series.write(name, SHAPE, lps, change=draw)


def test_a_series_through_the_command(tmp_path, series, head, monkeypatch, capsys):
    volume, _, found = head
    monkeypatch.setattr(deidentify_faces, "find_face", lambda *_, **__: found)
    source = write_series(series, "scan", volume.array[0])
    words = ["deidentify", source, "-o", tmp_path / "out", "--key", tmp_path / "k", "--deface", "--json"]
    monkeypatch.setattr(sys, "argv", ["medseg", *map(str, [*words, "--pictures", tmp_path / "seen"])])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    report = json.loads(capsys.readouterr().out)
    assert (report["num_written"], report["refused"]) == (SHAPE[2], [])
    assert 20 < report["num_defaced"] < SHAPE[2], "slices above the brow stay as they are"
    before, after = read_volume(source), read_volume(next((tmp_path / "out").glob("P-*")))
    assert before.geometry.agrees_with(after.geometry)
    there = after.geometry.to_world(np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1))
    changed = before.array[0] != after.array[0]
    assert not changed[in_brain(there)].any()
    tissue = in_face(there) & (before.array[0] > -200)
    assert changed[tissue].mean() > 0.9
    assert set(np.unique(after.array[0][changed])) == {-1000}
    assert not changed[~in_face(there) & (before.array[0] > -200)].mean() > 0.02
    for path in (tmp_path / "out").rglob("*.dcm"):
        data = pydicom.dcmread(path)
        assert data.RecognizableVisualFeatures == "NO"
        codes = [item.CodeValue for item in data.DeidentificationMethodCodeSequence]
        assert codes == ["113100", "113102", "113104"]
    pictures = list((tmp_path / "seen").iterdir())
    assert len(pictures) == 1
    with Image.open(pictures[0]) as picture:
        assert picture.size[0] > 800


def test_a_dataset_keeps_its_brains(tmp_path, head, monkeypatch):
    volume, points, found = head
    monkeypatch.setattr(deidentify_faces, "find_face", lambda *_, **__: found)
    write_volume(volume, tmp_path / "a.nii.gz")
    labels = np.where(in_brain(points), 1, np.where(in_face(points) & (volume.array[0] > -200), 2, 0))
    write_labels(LabelMap(labels.astype(np.uint8), volume.geometry), tmp_path / "m.nii.gz")
    case = {"id": "a", "images": ["a.nii.gz"], "label": "m.nii.gz"}
    (tmp_path / "m.json").write_text(json.dumps({"name": "d", "labels": {"brain": 1, "face": 2}, "cases": [case]}))
    report = deidentify(tmp_path / "m.json", tmp_path / "out", DeidentifyOptions(deface=True), key=tmp_path / "k")
    assert (report.num_defaced, report.num_written) == (1, 2)
    made = read_manifest(tmp_path / "out" / "manifest.json").cases[0]
    image, mask = read_volume(made.images[0]), read_labels(made.label)
    np.testing.assert_array_equal(mask.array == 1, labels == 1)
    assert (mask.array == 2).sum() < 0.1 * (labels == 2).sum()
    brain = labels == 1
    np.testing.assert_array_equal(image.array[0][brain], volume.array[0][brain])
    assert not (tmp_path / "out" / "pictures").exists()


def test_what_is_no_head_is_refused_and_other_objects_stay(tmp_path, series, head):
    volume, _, _ = head
    slab = np.full(SHAPE, -1000, np.int16)
    slab[14:-14, 14:-14] = 40
    source = tmp_path / "both"
    source.mkdir()
    write_series(series, "both/slab", slab)
    write_series(series, "both/other", volume.array[0], bare=True)
    report = deidentify(source, tmp_path / "out", DeidentifyOptions(deface=True), key=tmp_path / "k")
    assert {one.code for one in report.refused} == {"E-DEFACE"}
    assert (len(report.refused), report.num_written, report.num_defaced) == (SHAPE[2], SHAPE[2], 0)


def test_pixels_that_cannot_be_rewritten(tmp_path, series, head, monkeypatch):
    volume, _, found = head
    monkeypatch.setattr(deidentify_faces, "find_face", lambda *_, **__: found)
    source = write_series(series, "scan", volume.array[0])
    path = sorted(source.iterdir())[10]
    data = pydicom.dcmread(path)
    data.Modality, data.PhotometricInterpretation = "MR", "MONOCHROME1"
    data.save_as(path)
    report = deidentify(path, tmp_path / "out", DeidentifyOptions(deface=True), key=tmp_path / "k")
    assert [one.code for one in report.refused] == ["E-DEFACE"]
    assert not list((tmp_path / "out").rglob("*.dcm"))
