"""`medseg to-dicom` and `medseg infer --format`, as they are typed."""

from __future__ import annotations

import json
import sys

import numpy as np
import pydicom
import pytest

from medseg.apps import cli
from medseg.core.volume import LabelMap
from medseg.io.volumes import read_volume, write_labels

LPS = np.diag([-9.0, -9.0, 9.0, 1.0])


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def case(series):
    folder = series.write("scan", (12, 10, 6), LPS)
    array = np.zeros((12, 10, 6), np.uint8)
    array[2:8, 2:8, 1:5], array[4, 4, 2:4], array[6, 6, 4] = 1, 2, 2
    mask = series.folder / "theirs.nii.gz"
    write_labels(LabelMap(array, read_volume(folder).geometry), mask)
    return mask, folder


def test_a_mask_is_written_and_named(run, case):
    mask, folder = case
    code, out, err = run("to-dicom", mask, "--series", folder, "--labels", "liver=1,tumour=2")
    assert (code, err) == (0, "")
    assert "Liver" in out
    assert "tumour-2" in out
    assert "theirs.seg.dcm" in out
    assert (mask.parent / "theirs.seg.dcm").is_file()


def test_json_and_dry_run(run, case):
    mask, folder = case
    words = ("to-dicom", mask, "-s", folder, "--labels", "left kidney=1,kidney cyst=2", "--format", "dicom-rtstruct")
    code, out, _ = run(*words, "--dry-run", "--json")
    plan = json.loads(out)
    assert (code, plan["files"]) == (0, ["theirs.rtstruct.dcm"])
    assert [label["meaning"] for label in plan["labels"]] == ["Kidney, Left", "Cyst, Kidney"]
    assert not list(mask.parent.glob("*.dcm"))
    code, out, _ = run(*words, "--format", "dicom-sr,dicom-seg", "--json", "--out", mask.parent / "out")
    found = json.loads(out)
    assert sorted(found["files"]) == ["dicom-rtstruct", "dicom-seg", "dicom-sr"]
    assert [segment["label"] for segment in found["segments"]] == ["left kidney", "kidney cyst-1", "kidney cyst-2"]
    code, out, _ = run(*words, "--dry-run")
    assert "would write theirs.rtstruct.dcm, on 6 slices" in out


def test_unknown_labels_need_a_code_or_leave(run, case):
    mask, folder = case
    words = ("to-dicom", mask, "-s", folder, "--labels", "liver=1,tooth=2")
    code, _, err = run(*words)
    assert code == 2
    assert "[E-CODE]" in err
    code, _, _ = run(*words, "--private-codes")
    assert code == 0
    item = pydicom.dcmread(mask.parent / "theirs.seg.dcm").SegmentSequence[1]
    assert item.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99MEDSEG"


def test_which_of_several_series(run, case, series):
    """The folder is --series here, so the one of several is --which, and the refusal says so."""
    mask, folder = case

    def second(data):
        data.SeriesInstanceUID = "1.2.3.4.5"

    for path in series.write("second", (12, 10, 6), LPS, change=second).iterdir():
        path.rename(folder / f"second-{path.name}")
    words = ("to-dicom", mask, "-s", folder, "--labels", "liver=1,tumour=2")
    code, _, err = run(*words)
    assert code == 3
    assert "[E-SERIES]" in err
    assert "--which NUMBER" in " ".join(err.split())
    code, _, _ = run(*words, "--which", "1.2.3.4.5")
    assert code == 0
    seg = pydicom.dcmread(mask.parent / "theirs.seg.dcm")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.4.5"


def test_unnamed_values_are_refused(run, case):
    mask, folder = case
    code, _, err = run("to-dicom", mask, "-s", folder)
    assert code == 2
    assert "label_1" in err


def test_who_made_it(run, case):
    mask, folder = case
    words = ("to-dicom", mask, "-s", folder, "--labels", "liver=1,tumour=2")
    code, _, _ = run(*words, "--algorithm", "other tool:4.2", "--made-by", "semiautomatic", "--labelmap", "--per-label")
    assert code == 0
    data = pydicom.dcmread(mask.parent / "theirs.seg.dcm")
    item = data.SegmentSequence[-1]
    assert (item.SegmentAlgorithmType, item.SegmentAlgorithmName) == ("SEMIAUTOMATIC", "other tool")
    assert (data.SegmentationType, item.SegmentLabel) == ("LABELMAP", "tumour")
    code, _, err = run(*words, "--made-by", "nobody")
    assert code == 2
    assert "nobody" in err


def test_infer_with_formats(run, case, workspace, tmp_path):
    _, folder = case
    bundle = workspace.newest_bundle()
    words = ("infer", "--volume", folder, "--bundle", bundle, "-o", tmp_path / "p", "--format", "mha,dicom-rtstruct")
    code, out, _ = run(*words, "--format", "dicom-sr", "--json")
    assert code == 0
    files = json.loads(out)["cases"][0]["files"]
    assert "mha" in files
    assert "dicom-sr" in files
    assert "nifti" not in files
    code, _, err = run("infer", "--volume", folder, "--bundle", bundle, "--format", "dicom")
    assert code == 2
    assert "dicom-seg" in err
