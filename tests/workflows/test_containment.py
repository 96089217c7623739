"""A case that kills its parser is one failed case of every verb that reads many."""

from __future__ import annotations

import json
import sys
import textwrap

import numpy as np
import pytest

from medseg.apps import cli
from medseg.core.geometry import Geometry
from medseg.core.reading import Containment
from medseg.core.settings import EvaluateSettings, InferSettings, PreprocessSettings
from medseg.core.volume import Volume
from medseg.data.manifest import read_manifest, write_manifest
from medseg.io.contained import can_contain
from medseg.io.volumes import write_volume
from medseg.workflows.check import check
from medseg.workflows.evaluate import evaluate
from medseg.workflows.infer import infer
from medseg.workflows.preprocess import preprocess
from medseg.workflows.workspace import Workspace

OWN_READERS = True
pytestmark = pytest.mark.skipif(not can_contain(), reason="reading is contained on Linux only")

# Python imports a module of this name when it starts: the reading process then has a parser that a file can kill.
DEADLY = """
    import ctypes
    from medseg.io import nrrd

    nrrd.read_nrrd = lambda path, options: ctypes.string_at(1)
"""


@pytest.fixture
def deadly(tmp_path, cohort, monkeypatch):
    """A manifest of three cases of which the second kills its parser."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(textwrap.dedent(DEADLY))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "path"), *sys.path])
    voxels = np.arange(512, dtype=np.int16).reshape(1, 8, 8, 8)
    write_volume(Volume(voxels, Geometry.from_parts((8, 8, 8))), tmp_path / "deadly.nrrd")
    dataset = read_manifest(cohort)
    first, second, third = dataset.cases[:3]
    spoilt = second.model_copy(update={"images": (tmp_path / "deadly.nrrd",)})
    write_manifest(dataset.model_copy(update={"cases": (first, spoilt, third)}), tmp_path / "manifest.json")
    return tmp_path / "manifest.json", spoilt.id, {first.id, third.id}


def test_check(deadly, tmp_path):
    manifest, killed, _ = deadly
    report = check(Workspace(tmp_path / "work"), manifest)
    errors = [(finding.case, finding.code) for finding in report.findings if finding.severity == "error"]
    assert errors == [(killed, "E-CRASH")]
    assert report.num_ok >= 1


def test_preprocess_and_its_exit_code(deadly, tmp_path, monkeypatch, capsys):
    manifest, killed, others = deadly
    words = ["--manifest", manifest, "--workspace", tmp_path / "work", "--target", "cpu", "--json"]
    monkeypatch.setattr(sys, "argv", ["medseg", "preprocess", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 7
    captured = capsys.readouterr()
    assert "E-CRASH" in captured.err
    assert killed in captured.err
    assert json.loads(captured.out)
    stored = {path.stem for path in (tmp_path / "work" / "store" / "cases").iterdir()}
    assert stored == others


def test_infer(deadly, workspace, tmp_path):
    manifest, killed, others = deadly
    result = infer(workspace.newest_bundle(), tmp_path / "out", InferSettings(), folder=manifest)
    assert [(failure.case, failure.code) for failure in result.failures] == [(killed, "E-CRASH")]
    assert {prediction.case for prediction in result.predictions} == others


def test_evaluate(deadly, workspace, inferred, tmp_path):
    manifest, killed, others = deadly
    settings = EvaluateSettings()
    result = evaluate(workspace, inferred.out, tmp_path / "out", settings, manifest=manifest)
    codes = {failure.case: failure.code for failure in result.report.failures if failure.code != "E-NO-REFERENCE"}
    assert codes == {killed: "E-CRASH"}
    assert {case.case for case in result.report.cases} == others


def test_a_case_too_large_for_the_limit_fails_alone(cohort, tmp_path):
    dataset = read_manifest(cohort)
    grid = Geometry.from_parts((512, 512, 160))
    array = np.zeros((1, *grid.shape), np.int16)
    array[0, 0, 0, 0] = 1
    write_volume(Volume(array, grid), tmp_path / "large.nii.gz")
    large = dataset.cases[1].model_copy(update={"images": (tmp_path / "large.nii.gz",)})
    write_manifest(dataset.model_copy(update={"cases": (dataset.cases[0], large)}), tmp_path / "manifest.json")
    limits = Containment(read_memory_gib=0.06)
    report = check(Workspace(tmp_path / "work"), tmp_path / "manifest.json", containment=limits)
    errors = [(finding.case, finding.code) for finding in report.findings if finding.severity == "error"]
    assert errors == [(large.id, "E-MEMORY")]
    settings = PreprocessSettings(
        manifest=tmp_path / "manifest.json", read_memory_gib=0.06, target="cpu", spacing_mm=(6.0, 6.0, 8.0)
    )
    store = preprocess(Workspace(tmp_path / "work"), settings)
    assert [(failure.case, failure.code) for failure in store.index.failures] == [(large.id, "E-MEMORY")]
