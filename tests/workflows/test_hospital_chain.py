"""One patient, two CT examinations, every command of the hospital's chain as it is typed, on what the one before wrote.

The network is replaced by a threshold, which finds on this patient what is there: a liver of 60 HU, lesions of 150.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread

from medseg.apps import cli
from medseg.core.followup import FollowUp
from medseg.core.prediction import Prediction
from medseg.core.volume import LabelMap
from medseg.engine.predict import Predictor
from medseg.io.documents import read_document
from medseg.io.volumes import read_labels, read_volume

SHAPE = (44, 40, 22)
# pixel (column, row, slice) to LPS mm, without the offset: slices run downwards
AXES = np.diag([3.5, 3.5, -5.0])
EXAMINATIONS = {
    "ct_january": ("20260110", (-75, -68, 55), (((-35, 5, 5), 12), ((-5, -12, -10), 9))),
    "ct_april": ("20260412", (-72, -70, 57), (((-35, 5, 5), 16), ((-5, -12, -10), 9), ((-12, 22, 12), 8))),
}
TABLE = ("--table", "liver_hcc_tnm8", "--given", "extension=no", "--given", "vascular_invasion=no")


def hounsfield(lps, tumours):
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    points = index @ lps[:3, :3].T + lps[:3, 3]
    values = np.full(SHAPE, -1000)
    for centre, radii, value in (
        ((0, 0, 0), (66, 56, 52), 20),
        ((30, 20, 8), (12, 10, 22), 500),
        ((-20, 0, 0), (40, 38, 36), 60),
        *((centre, (radius,) * 3, 150) for centre, radius in tumours),
    ):
        values[np.linalg.norm((points - centre) / np.array(radii), axis=-1) < 1] = value
    return values


def see(_, volume, **_options):
    """What a good network would answer."""
    values = volume.array[0]
    array = (np.abs(values - 60) < 20).astype(np.uint8)
    array[np.abs(values - 150) < 40] = 2
    return Prediction(LabelMap(array, volume.geometry), classes={"kind": {"a": 0.3, "b": 0.7}})


@pytest.fixture
def patient(series, monkeypatch, workspace, tmp_path):
    """The working folder: `ct_january` and `ct_april`, and a model called `model`."""
    for number, (name, (date, offset, tumours)) in enumerate(EXAMINATIONS.items(), start=1):
        lps = np.eye(4)
        lps[:3, :3], lps[:3, 3] = AXES, offset
        values = hounsfield(lps, tumours)

        def draw(data, values=values, number=number, date=date):
            data.PixelData = (values[:, :, data.InstanceNumber - 1].T + 1024).astype(np.uint16).tobytes()
            data.StudyInstanceUID, data.SeriesInstanceUID = f"1.2.3.{number}", f"1.2.3.{number}.1"
            data.FrameOfReferenceUID, data.StudyDate = f"1.2.3.{number}.2", date

        series.write(name, SHAPE, lps, change=draw)
    (tmp_path / "model").symlink_to(workspace.newest_bundle())
    monkeypatch.setattr(Predictor, "predict", see)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["medseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        assert (caught.value.code or 0) == code, captured.err
        return captured.err if code else captured.out

    return call


def in_objects(folder: Path, case: str) -> tuple[dict[str, str], dict[str, str]]:
    """Tracking UIDs of lesions by id, as SEG and as SR hold them."""
    seg = pydicom.dcmread(folder / f"{case}.seg.dcm")
    segments = {item.TrackingID: item.TrackingUID for item in seg.SegmentSequence if "TrackingUID" in item}
    groups = _groups(folder, case)
    reported = {group.tracking_identifier: group.tracking_uid for group in groups}
    return segments, {name: str(uid) for name, uid in reported.items() if name != "organ"}


def _groups(folder: Path, case: str):
    return srread(folder / f"{case}.sr.dcm").content.get_volumetric_roi_measurement_groups()


def test_from_series_to_the_same_lesion_in_every_object(run, patient):
    assert "44 x 40 x 22" in run("series", "ct_april")
    volumes = ("--volume", "ct_january", "--volume", "ct_april")
    run("infer", *volumes, "--bundle", "model", "--format", "nifti,dicom-seg,dicom-sr", "--out", "found")
    before = {case: in_objects(patient / "found", case) for case in EXAMINATIONS}
    assert all(segments == reported and segments for segments, reported in before.values())

    # slices run downwards, and are sorted upwards: image 12 of 22 is the eleventh
    assert "11 (image 12)" in run("measure", "found", "--image", ".", "--out", "measured", "--no-pictures")
    run("stage", "measured", *TABLE)
    staging = json.loads((patient / "measured" / "ct_april.staging.json").read_text())
    assert {result["category"] for result in staging["results"]} == {"T2"}

    run("follow-up", "ct_january", "ct_april", "--predictions", "found", "--out", "followed", "--no-pictures")
    folder = patient / "followed" / "ct_january"
    report = read_document(folder / "followup.json", FollowUp)
    first, last = report.time_points
    assert [lesion.state for lesion in first.lesions] == ["baseline", "baseline"]
    assert [lesion.state for lesion in last.lesions] == ["grown", "stable", "new"]
    assert last.days == 92

    for point in report.time_points:
        case = point.case
        words = ("--series", case, "--measurements", folder / f"{case}.measurements.json", "--out", "archive")
        run("to-dicom", f"found/{case}.nii.gz", *words, "--format", "dicom-seg,dicom-sr,dicom-rtstruct")
        expected = {lesion.id: lesion.tracking_uid for lesion in point.lesions if lesion.measurement}
        assert in_objects(patient / "archive", case) == (expected, expected)
        numbers = _groups(patient / "archive", case)[1].get_measurements()
        assert (150, "[hnsf'U]") in {(number.value, number.unit.value) for number in numbers}
    # what was called so at the baseline, before anything was followed, is still called so
    assert before["ct_january"] == in_objects(patient / "archive", "ct_january")


def test_dicom_alone_says_as_much_as_a_file_of_voxels(run, patient):
    """SEG and SR as the only outputs: measured, followed and evaluated as the NIfTI beside them would be."""
    for name, formats in (("both", "nifti,dicom-seg,dicom-rtstruct,dicom-sr"), ("objects", "dicom-sr")):
        run("infer", "--volume", "ct_april", "--bundle", "model", "--format", formats, "--out", name)
        run("measure", name, "--image", ".", "--out", f"measured_{name}", "--no-pictures")
    assert not list((patient / "objects").glob("*.nii.gz"))
    texts = [
        json.loads((patient / f"measured_{name}" / "ct_april.measurements.json").read_text())
        for name in ("both", "objects")
    ]
    assert texts[0]["measurements"] == texts[1]["measurements"]
    assert [row["id"] for row in texts[1]["measurements"]] == ["organ", "lesion-1", "lesion-2", "lesion-3"]
    labels = ("--labels", "organ=1,lesion=2")
    run("evaluate", "--predictions", "objects", "--references", "both", *labels, "--out", "scores", "--no-pictures")
    (case,) = json.loads((patient / "scores" / "cohort.json").read_text())["cases"]
    assert [row["dice"] for row in case["metrics"]] == [1, 1]
    (patient / "both" / "ct_april.nii.gz").unlink()
    words = ("--predictions", "objects", "--references", "both", *labels, "--out", "scores")
    assert "no image tells the grid" in run("evaluate", *words, code=3)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_every_object_of_the_chain_is_valid(run, patient):
    run("infer", "--volume", "ct_april", "--bundle", "model", "--format", "dicom-sr,dicom-rtstruct", "--out", "found")
    run("to-dicom", "found/ct_april.seg.dcm", "--series", "ct_april", "--format", "dicom-sr,dicom-rtstruct", "-o", "a")
    paths = sorted(patient.glob("*/*.dcm"))
    written = [path for path in paths if path.parent.name in {"found", "a"}]
    assert len(written) == 6
    for path in written:
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        said = [line for line in done.stderr.splitlines() if line.startswith(("Error", "Warning"))]
        assert [line for line in said if "99MEDSEG" not in line] == [], path


def test_a_segmentation_is_not_written_over_itself(run, patient):
    from medseg.core.errors import UsageError
    from medseg.core.outputs import Outputs
    from medseg.workflows.mask_inputs import MaskRequest
    from medseg.workflows.to_dicom import ToDicomRequest, to_dicom

    run("infer", "--volume", "ct_april", "--bundle", "model", "--format", "dicom-seg", "--out", "found")
    mask = patient / "found" / "ct_april.seg.dcm"
    kept = mask.read_bytes()
    request = ToDicomRequest(patient / "ct_april", MaskRequest(), Outputs(formats="dicom-seg"))
    with pytest.raises(UsageError) as caught:
        to_dicom(mask, mask.parent, request)
    assert caught.value.code == "E-WOULD-OVERWRITE"
    assert mask.read_bytes() == kept
    image = read_volume(patient / "ct_april")
    back = read_labels(mask, onto=image.geometry, names={"organ": 1, "lesion": 2})
    np.testing.assert_array_equal(back.array, see(None, image).labels.array)
