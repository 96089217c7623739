"""DICOM at the command line: `medseg series` lists, `medseg infer` and manifests choose and repair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medseg.apps import cli


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["medseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return call


def series(folder: Path, *, uid: str = "1.2.3", without: int | None = None, echo: float | None = None) -> Path:
    """Twelve slices of 24 x 24 pixels, 4 mm and 5 mm apart."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(1).integers(0, 1200, (12, 24, 24)).astype(np.uint16)
    for index in range(12):
        if index == without:
            continue
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
        data.Modality, data.SeriesDescription, data.SeriesInstanceUID = "CT", f"scan {uid}", uid
        data.ImagePositionPatient, data.ImageOrientationPatient = [-48, -48, 5 * index], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness, data.Rows, data.Columns = [4, 4], 5, 24, 24
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = pixels[index].tobytes()
        if echo is not None:
            data.EchoTime = echo
        data.save_as(folder / f"{uid}-{echo}-{index}", enforce_file_format=True)
    return folder


def test_what_a_folder_holds_is_listed(run, tmp_path):
    series(tmp_path / "a", uid="1.2.4", without=5)
    for echo in (4.6, 11.5):
        series(tmp_path / "a", echo=echo)
    code, out, _ = run("series", tmp_path / "a")
    assert code == 0
    assert "1  CT  scan 1.2.3" in out
    assert "24 x 24 x 12, 4 x 4 x 5 mm, 24 file(s)" in out
    assert "--phase 2: EchoTime 11.5 (12 slices)" in out
    assert "refused as it is: [E-SERIES-GAP]" in out
    code, out, _ = run("series", tmp_path / "a", "--json")
    first, second = json.loads(out)
    assert (first["num_slices"], first["phases"][0]) == (12, "1: EchoTime 4.6 (12 slices)")
    assert (second["uid"], second["fault"]) == ("1.2.4", "E-SERIES-GAP")


def test_a_folder_without_images_has_no_list(run, tmp_path):
    code, _, err = run("series", tmp_path)
    assert code == 3
    assert "E-NO-DICOM" in err


def test_series_phase_and_repair_are_chosen_for_inference(run, workspace, tmp_path):
    folder = series(tmp_path / "case", uid="1.2.4", without=5)
    for echo in (4.6, 11.5):
        series(folder, echo=echo)
    asked = ("infer", "--volume", folder, "--bundle", workspace.newest_bundle(), "--out", tmp_path / "out", "--json")
    for more, expected in (((), "E-SERIES"), (("--series", "1"), "E-SERIES-4D"), (("--series", "2"), "E-SERIES-GAP")):
        code, _, err = run(*asked, *more)
        assert code == (4 if expected == "E-SERIES-GAP" else 3)
        assert f"[{expected}]" in err
    code, out, _ = run(*asked, "--series", "1", "--phase", "11.5")
    assert code == 0
    assert json.loads(out)["cases"][0]["grid"]["shape"] == [24, 24, 12]
    code, out, _ = run(*asked, "--series", "2", "--fix-geometry")
    assert code == 0
    (case,) = json.loads(out)["cases"]
    assert "W-GAPS-FILLED" in case["flags"]
    assert case["grid"]["shape"] == [24, 24, 12]
    code, _, err = run(*asked, "--series", "1", "--phase", "1", "--suv")
    assert code == 3
    assert "[E-SUV]" in err


def test_a_manifest_keeps_how_its_images_are_read(run, workspace, tmp_path):
    """A series with a gap is imported, checked and predicted, because the manifest says that gaps are filled."""
    for number in (1, 2):
        folder = series(tmp_path / f"case{number}", without=5)
        for path in list(folder.iterdir()):
            path.rename(path.with_name(f"{path.name}.dcm"))
    manifest = tmp_path / "manifest.json"
    table = tmp_path / "table.csv"
    table.write_text("case_id,image\na,case1\nb,case2\n")
    code, _, err = run("import", table, "--out", manifest, "--channels", "CT", "--fix-geometry", "--series", "1")
    assert (code, err) == (0, "")
    assert json.loads(manifest.read_text())["reading"] == {"series": "1", "fix_geometry": True}
    code, out, _ = run("check", "--manifest", manifest, "--json")
    assert {finding["code"] for finding in json.loads(out)["findings"]} >= {"W-GAPS-FILLED"}
    asked = ("infer", "--input", manifest, "--bundle", workspace.newest_bundle(), "--out", tmp_path / "out", "--json")
    code, out, _ = run(*asked)
    assert [case["grid"]["shape"][2] for case in json.loads(out)["cases"]] == [12, 12]
