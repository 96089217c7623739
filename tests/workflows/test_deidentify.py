from __future__ import annotations

import json
import shutil
import sys

import nibabel as nib
import numpy as np
import pytest

from medseg.apps import cli
from medseg.core.deidentification import DeidentifyOptions
from medseg.core.errors import UsageError
from medseg.io.volumes import read_volume
from medseg.workflows.deidentify import deidentify


def _marked(data):
    data.PatientName, data.PatientID, data.SeriesDescription = "ZZCANARY^DOE", "ZZCANARY-7", "ZZCANARY chest"
    data.private_block(0x0029, "ZZCANARY", create=True).add_new(1, "LO", "ZZCANARY")


@pytest.fixture
def source(tmp_path, series):
    folder = tmp_path / "ZZCANARY^DOE"
    folder.mkdir()
    lps = np.diag([0.8, 0.7, 2.5, 1.0])
    series.write("ZZCANARY^DOE/ZZCANARY ct", (6, 5, 4), lps, change=_marked)
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([2.0, 2, 3, 1]))
    image.header["descrip"], image.header["db_name"], image.header["aux_file"] = (
        b"ZZCANARY1",
        b"ZZCANARY2",
        b"ZZCANARY3",
    )
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"ZZCANARY4"))
    nib.save(image, folder / "ZZCANARY.nii")
    (folder / "notes.txt").write_text("ZZCANARY")
    (folder / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\2\0\0\0ULZZCANARY")
    return folder


def everything(folder):
    return b"\n".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in folder.rglob("*") if p.is_file())


def test_a_folder_through_the_command(source, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    words = ["deidentify", str(source), "--out", str(out), "--key", str(tmp_path / "k"), "--json", "-v", "--mapping"]
    monkeypatch.setattr(sys, "argv", ["medseg", *words, str(tmp_path / "who.json")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 7
    report = json.loads(said.out)
    assert [one["code"] for one in report["refused"]] == ["E-DICOM"]
    assert report["num_left_out"] == 1
    assert report["num_written"] == report["num_files"] - 2
    assert report["num_patients"] == 1
    written = everything(out)
    key = (tmp_path / "k").read_bytes().strip()
    for secret in (b"ZZCANARY", key):
        assert secret not in written
        assert secret not in (said.out + said.err).replace(str(source), "").encode()
    assert (tmp_path / "who.json").stat().st_mode & 0o777 == 0o600
    assert "ZZCANARY" in (tmp_path / "who.json").read_text()


def test_voxels_stay_and_a_second_run_writes_the_same(source, tmp_path):
    out = tmp_path / "out"
    deidentify(source, out, DeidentifyOptions(), key=tmp_path / "k")
    first = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.suffix != ".json"}
    deidentify(source, out, DeidentifyOptions(), key=tmp_path / "k")
    assert first == {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.suffix != ".json"}
    before, after = read_volume(source / "ZZCANARY ct"), read_volume(next(out.glob("P-*")))
    np.testing.assert_array_equal(before.array, after.array)
    assert before.geometry.agrees_with(after.geometry)
    np.testing.assert_array_equal(
        read_volume(next(out.glob("images/*"))).array, read_volume(source / "ZZCANARY.nii").array
    )


def test_a_dry_run_counts_and_writes_nothing(source, tmp_path):
    report = deidentify(source, tmp_path / "out", DeidentifyOptions(), key=None)
    assert report.num_written > 1
    assert not (tmp_path / "out").exists()


def test_two_objects_of_one_identity(source, tmp_path):
    one = next((source / "ZZCANARY ct").iterdir())
    shutil.copy(one, source / "copy.dcm")
    report = deidentify(source, tmp_path / "out", DeidentifyOptions(), key=tmp_path / "k")
    assert sorted(r.code for r in report.refused) == ["E-DEID-DUPLICATE", "E-DICOM"]


def test_output_and_secrets_stay_apart(source, tmp_path):
    with pytest.raises(UsageError, match="E-DEID-OUT"):
        deidentify(source, source / "out", DeidentifyOptions(), key=tmp_path / "k")
    with pytest.raises(UsageError, match="E-DEID-OUT"):
        deidentify(source, tmp_path / "out", DeidentifyOptions(), key=tmp_path / "out" / "k")


def test_what_pydicom_remarks_on_values_is_not_logged(source, tmp_path, series, caplog):
    place = next((source / "ZZCANARY ct").iterdir())
    place.write_bytes(place.read_bytes().replace(b"20260102", b"ZZCANARY"))
    deidentify(source, tmp_path / "out", DeidentifyOptions(shift_dates=True), key=tmp_path / "k")
    assert "ZZCANARY" not in caplog.text
