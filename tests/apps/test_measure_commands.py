"""`medseg measure` at the command line."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from medseg.apps.cli import main
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap
from medseg.io.volumes import write_labels


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["medseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def mask(tmp_path):
    array = np.zeros((20, 20, 10), np.uint8)
    array[2:18, 2:18, 2:8] = 1
    array[4:10, 4:8, 4:6] = 2
    write_labels(LabelMap(array, Geometry(array.shape, np.diag([2.0, 2, 3, 1]))), tmp_path / "case.nii.gz")
    return tmp_path / "case.nii.gz"


def test_a_table_on_the_terminal(run, mask):
    code, out, _ = run("measure", mask, "--labels", "liver=1,tumour=2")
    assert code == 0
    assert "14.4 x 9.6 ± 2.8" in " ".join(out.split())
    assert "One lesion, tumour-1 in liver: long axis 14.4 ± 2.8 mm." in out
    assert (mask.parent / "measurements" / "case.measurements.html").is_file()


def test_json(run, mask, tmp_path):
    code, out, _ = run("measure", mask, "--labels", "liver=1,tumour=2", "--json", "-o", tmp_path / "out")
    assert code == 0
    found = json.loads(out)["cases"][0]["measurements"]
    assert [one["id"] for one in found] == ["liver", "tumour-1"]


def test_a_dry_run_writes_nothing(run, mask):
    code, out, _ = run("measure", mask, "--labels", "liver=1", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["cases"][0]["labels"] == "liver"
    assert not (mask.parent / "measurements").exists()


def test_a_lesion_that_does_not_exist(run, mask):
    code, _, err = run("measure", mask, "--labels", "liver=1,tumour=2", "--lesions", "tumor")
    assert code == 2
    assert "E-LESION-NAME" in err
    assert "did you mean 'tumour'" in err


def test_stage_from_a_mask(run, mask):
    code, out, _ = run("stage", mask, "--labels", "liver=1,tumour=2", "-t", "liver_hcc_tnm8", "--given", "extension=no")
    assert code == 0
    assert "needs to know vascular_invasion (no, minor, major)" in out
    assert (mask.parent / "measurements" / "case.staging.json").is_file()


def test_stage_from_measurements_as_json(run, mask):
    run("measure", mask, "--labels", "liver=1,tumour=2")
    code, out, _ = run("stage", mask.parent / "measurements", "-t", "lung_tnm9", "--json")
    assert code == 0
    assert json.loads(out)["cases"][0]["results"][0]["category"] == "T1b"


def test_the_tables_are_listed(run):
    code, out, _ = run("stage", "--list")
    assert code == 0
    assert "lung_tnm9" in out
    code, out, _ = run("stage", "--list", "--json")
    assert {"edition", "source", "scope", "licence"} <= json.loads(out)[0].keys()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("stage",), "E-NO-INPUT"),
        (("stage", "MASK"), "E-STAGE-TABLE"),
        (("stage", "MASK", "-t", "lung"), "E-STAGE-TABLE"),
        (("stage", "MASK", "-t", "lung_tnm9", "--given", "solid"), "E-OPTION"),
    ],
)
def test_stage_refuses(run, mask, arguments, code):
    status, _, err = run(*[mask if word == "MASK" else word for word in arguments])
    assert status == 2
    assert code in err
