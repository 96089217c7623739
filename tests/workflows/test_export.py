"""A model in another format answers as the original does, or is not kept."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest

import medseg
from medseg.core.errors import MedsegError
from medseg.core.export import ExportRecord
from medseg.core.plan import Normalisation
from medseg.engine import export_formats
from medseg.engine.exports import export_member
from medseg.io.bundle import read_bundle, write_bundle
from medseg.io.documents import read_document
from medseg.nn.build import build_network
from medseg.workflows.ensemble import ensemble
from medseg.workflows.export import export

GRAPHS = {"onnx": "onnxruntime", "openvino": "openvino", "torch-export": "torch"}


@pytest.fixture(scope="module")
def case(cohort):
    return min((cohort.parent / "images").glob("*.nii.gz"))


@pytest.fixture(scope="module")
def bundle(workspace):
    return workspace.newest_bundle()


def _changed(bundle, folder, **changes):
    model = read_bundle(bundle)
    plan = model.plan.model_copy(update=changes)
    write_bundle(folder, model.manifest, plan, weights=model.weights, metrics="{}\n", card="")
    return folder


@pytest.mark.parametrize("form", GRAPHS)
def test_a_graph_answers_as_the_model(form, bundle, case, tmp_path):
    pytest.importorskip(GRAPHS[form])
    made = export(bundle, tmp_path / "out", form=form, case=[case])
    assert made == read_document(tmp_path / "out" / "export.json", ExportRecord)
    [check] = made.checks
    assert check.relative_difference < 1e-3
    assert check.class_difference < 1e-3
    assert set(check.dice) == set(made.labels)
    assert min(check.dice.values()) > 0.99
    assert made.checked_on == f"case {case.name}"
    assert [part.what for part in made.parts] == ["segmentation", "classification"]
    for part in made.parts:
        assert all((tmp_path / "out" / name).is_file() for name in part.files)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "export.json",
        *(name for part in made.parts for name in part.files),
    }
    assert "softmax" in made.how_to_run[-1]
    _require_placeless(tmp_path / "out")
    if form != "torch-export":
        _require_recorded_ports(made, tmp_path / "out", PORTS[form])


def _require_placeless(folder):
    """No file tells where this machine keeps its code: nobody who gets the model needs to know."""
    for path in filter(Path.is_file, folder.rglob("*")):
        data = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                data += b"".join(map(archive.read, archive.namelist()))
        for place in (Path(medseg.__file__).parent, sys.prefix):
            assert str(place).encode() not in data, f"{path.name} names {place}"


def _onnx_ports(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return [[(port.name, port.shape) for port in ports] for ports in (session.get_inputs(), session.get_outputs())]


def _openvino_ports(path):
    import openvino

    graph = openvino.Core().read_model(path)
    return [[(port.any_name, list(port.shape)) for port in ports] for ports in (graph.inputs, graph.outputs)]


PORTS = {"onnx": _onnx_ports, "openvino": _openvino_ports}


def _require_recorded_ports(made, folder, ports_of):
    """What is written runs without medseg: the names and shapes of the record are those of the files."""
    for part in made.parts:
        recorded = [[(port.name, list(port.shape)) for port in ports] for ports in (part.inputs, part.outputs)]
        assert ports_of(folder / next(iter(part.files))) == recorded


@pytest.mark.parametrize(
    "form", ["openvino", *(pytest.param(form, marks=pytest.mark.slow) for form in ("onnx", "torch-export"))]
)
def test_a_diagnosis_by_direction_and_thickness_is_exported(form, bundle, case, tmp_path):
    pytest.importorskip(GRAPHS[form])
    model = read_bundle(bundle)
    assert model.plan.classification is not None
    assert model.plan.classification.margin
    measured = model.plan.classification.model_copy(update={"directed": True, "thickness": True})
    plan = model.plan.model_copy(update={"classification": measured})
    weights = build_network(plan, seed=1).state_dict()
    write_bundle(tmp_path / "model", model.manifest, plan, weights=[weights], metrics="{}\n", card="")
    made = export(tmp_path / "model", tmp_path / "out", form=form, case=[case])
    assert made.checks[0].class_difference < 1e-3


def test_members_of_an_ensemble_have_a_file_each(bundle, case, tmp_path):
    pytest.importorskip("openvino")
    ensemble([bundle, bundle], tmp_path / "both")
    made = export(tmp_path / "both", tmp_path / "out", form="openvino", case=[case])
    assert [check.member for check in made.checks] == [1, 2]
    assert [[*part.files] for part in made.parts] == [
        ["segmentation.xml", "segmentation.bin"],
        ["classification.xml", "classification.bin"],
        ["segmentation-2.xml", "segmentation-2.bin"],
        ["classification-2.xml", "classification-2.bin"],
    ]
    assert any("mean of the 2 members" in step for step in made.how_to_run)


def test_another_answer_is_refused_and_removed(bundle, case, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    load = export_formats._load_openvino
    shifted = export_formats.Kind(
        ".xml", (), "", export_formats._write_openvino, lambda path: lambda *x: [0.01 + y for y in load(path)(*x)]
    )
    monkeypatch.setitem(export_formats.KINDS, "openvino", shifted)
    with pytest.raises(MedsegError, match="logits differ by") as caught:
        export(bundle, tmp_path / "out", form="openvino", case=[case])
    assert (caught.value.code, caught.value.exit_code) == ("E-EXPORT", 5)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_a_diagnosis_that_is_gathered_all_over_a_case_is_refused(bundle, tmp_path, name):
    plan = read_bundle(bundle).plan
    attending = plan.model_copy(
        update={"classification": plan.classification.model_copy(update={"pooling": "attention"})}
    )
    with pytest.raises(MedsegError, match="as many tiles as the case is large") as caught:
        export_member(build_network(attending), attending, name, tmp_path, member=1)
    assert (caught.value.code, "monai-bundle" in caught.value.remedy) == ("E-EXPORT", True)
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_and_a_missing_package_are_named(bundle, tmp_path, monkeypatch):
    with pytest.raises(MedsegError, match="tensorrt") as caught:
        export(bundle, tmp_path / "out", form="tensorrt")
    assert caught.value.code == "E-FORMAT"
    monkeypatch.setattr(export_formats, "find_spec", lambda _: None)
    with pytest.raises(MedsegError, match=r"pip install 'medseg\[openvino\]'") as caught:
        export(bundle, tmp_path / "out", form="openvino")
    assert (caught.value.code, caught.value.exit_code) == ("E-EXTRA", 2)
    assert not (tmp_path / "out").exists()


def test_monai_alone_runs_the_monai_bundle(bundle, case, tmp_path):
    made = export(bundle, tmp_path / "out", form="monai-bundle", case=[case])
    assert made.checks[0].relative_difference < 1e-5
    assert 0.8 < made.pipeline_dice["foreground"] < 1
    assert any("classification head" in words for words in made.left_out)
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {
        "LICENSE",
        "export.json",
        "configs/inference.json",
        "configs/metadata.json",
        "docs/README.md",
        "models/model.ts",
    }
    _require_placeless(tmp_path / "out")
    metadata = json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert set(metadata) >= {
        *("version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
        *("task", "description", "authors", "copyright", "network_data_format"),
    }
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == len(made.outputs)


def test_without_resampling_monai_gives_the_same_mask(bundle, tmp_path):
    made = export(bundle, tmp_path / "out", form="monai-bundle")
    assert made.pipeline_dice["foreground"] > 0.99
    assert "no real case" in made.checked_on


def test_what_monai_cannot_express_is_refused(bundle, tmp_path):
    rule = Normalisation(scheme="per_image", correct_bias_field=True)
    changed = _changed(bundle, tmp_path / "changed", normalisation=(rule,))
    with pytest.raises(MedsegError, match="no transform") as caught:
        export(changed, tmp_path / "out", form="monai-bundle")
    assert caught.value.code == "E-EXPORT"


def test_regions_of_two_channels_are_painted_by_monai_too(bundle, tmp_path):
    """Overlapping targets, an open bound, a per-image channel, a coarse axis and two members."""
    model = read_bundle(bundle)
    rules = (
        Normalisation(scheme="fixed", lower=60.0, mean=100.0, std=20.0),
        Normalisation(scheme="per_image", upper=150.0, nonzero=True),
    )
    changes = {
        "channels": ("ct", "pet"),
        "normalisation": rules,
        "labels": {"core": 3, "whole": 1},
        "regions": {"core": (3,), "whole": (1, 3)},
        "classification": None,
        "coarse_axis": 2,
        "left_right_pairs": (),
    }
    plan = model.plan.model_copy(update=changes)
    manifest = model.manifest.model_copy(update={"labels": plan.labels, "heads": {}, "channels": plan.channels})
    weights = [build_network(plan, seed=seed).state_dict() for seed in (1, 2)]
    write_bundle(tmp_path / "model", manifest, plan, weights=weights, metrics="{}\n", card="")
    made = export(tmp_path / "model", tmp_path / "out", form="monai-bundle")
    assert set(made.pipeline_dice) == {"foreground", "core", "whole"}
    assert min(made.pipeline_dice.values()) > 0.97
    assert set(made.checks[0].dice) == {"core", "whole"}
    assert made.outputs == ("core", "whole")
