"""Clinical columns on their whole way: images of noise, and a class that follows from age alone."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medseg.apps.cli import app
from medseg.core.case import Case, Dataset
from medseg.core.clinical import ClinicalColumn
from medseg.core.errors import MedsegError
from medseg.core.export import ExportRecord
from medseg.core.findings import CasePrediction
from medseg.core.geometry import Geometry
from medseg.core.settings import InferSettings, PreprocessSettings, TrainSettings
from medseg.core.values import Target
from medseg.core.volume import Volume
from medseg.data.manifest import read_manifest, write_manifest
from medseg.data.store import open_store
from medseg.engine.predict import Predictor
from medseg.io.bundle import read_bundle, write_bundle
from medseg.io.documents import read_document
from medseg.io.volumes import write_volume
from medseg.nn.build import build_network
from medseg.workflows.export import export
from medseg.workflows.infer import infer
from medseg.workflows.preprocess import preprocess
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

NUM_CASES = 30
CLASSES = ("benign", "malignant")


def _age(number: int) -> int:
    """Old and young in turn, ten years apart at least."""
    return 40 + number % 7 if number % 2 else 60 + number % 7


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(5)
    turned = np.array([[0, 2.0, 0, 9], [-2.0, 0, 0, 7], [0, 0, 3.0, -40], [0, 0, 0, 1]])
    cases = []
    for number in range(NUM_CASES):
        image = folder / f"n{number:02d}.nii.gz"
        write_volume(
            Volume(random.normal(size=(1, 12, 12, 8)).astype(np.float32), Geometry((12, 12, 8), turned)), image
        )
        attributes = {"age": str(_age(number)), "sex": "FM"[number // 2 % 2], "name": "Eve"}
        cases.append(
            Case(
                id=image.name.split(".")[0],
                images=(image,),
                classes={"finding": CLASSES[1 - number % 2]},
                split="val" if number >= 20 else "train",
                attributes=attributes,
            )
        )
    dataset = Dataset(name="noise", channels=("MRI",), heads={"finding": CLASSES}, cases=tuple(cases))
    write_manifest(dataset, folder / "manifest.json")
    return folder / "manifest.json"


def _trained(manifest, folder, **chosen):
    place = Workspace(folder)
    preprocess(place, PreprocessSettings(manifest=manifest, target="cpu", patch_size=(8, 8, 8), **chosen))
    return place, train(place, TrainSettings(epochs=4, warmup_steps=2, augment=False))


@pytest.fixture(scope="module")
def old_and_young(manifest, tmp_path_factory):
    return _trained(manifest, tmp_path_factory.mktemp("work"), clinical="age,sex")


@pytest.fixture(scope="module")
def bundle(old_and_young):
    return old_and_young[1].bundle


def test_a_class_that_age_alone_tells_is_learnt(old_and_young, manifest, tmp_path):
    place, made = old_and_young
    assert made.validation["finding/auroc"] == 1.0
    plan = open_store(place.store).plan
    assert [(column.name, column.levels) for column in plan.clinical] == [("age", ()), ("sex", ("F", "M"))]
    assert {"clinical column age", "clinical column sex"} <= {decision.what for decision in plan.decisions}
    _, blind = _trained(manifest, tmp_path / "blind")
    assert blind.validation["finding/auroc"] < 0.9
    assert read_bundle(blind.bundle).plan.clinical == ()


def test_the_store_keeps_numbers_and_no_words(old_and_young):
    store = open_store(old_and_young[0].store)
    (column, _), case = store.plan.clinical, store.load("n03")
    expected = [(_age(3) - column.mean) / column.deviation, 0, 0, 1, 0]
    assert case.clinical.tolist() == pytest.approx(expected)
    assert column.mean == pytest.approx(np.mean([_age(number) for number in range(NUM_CASES)]))


def test_a_missing_value_says_nothing_and_says_so(bundle, manifest, tmp_path):
    dataset = read_manifest(manifest)
    found = infer(bundle, tmp_path / "a", InferSettings(), folder=manifest, split="val").predictions
    assert all(one.flags == () and set(one.clinical) == {"age", "sex"} for one in found)
    correct = [max(one.classes[0].probabilities, key=one.classes[0].probabilities.get) for one in found]
    assert correct == [dataset.case(one.case).classes["finding"] for one in found]
    image = dataset.cases[0].images[0]
    with Predictor(bundle, InferSettings()) as predictor:
        told, untold, odd = (
            predictor.predict(image, attributes=given)
            for given in ({"age": "64", "sex": "M"}, {}, {"age": "64", "sex": "X"})
        )
        with pytest.raises(MedsegError, match="age is 'old'"):
            predictor.predict(image, attributes={"age": "old"})
    assert told.flags == ()
    assert [flag[:10] for flag in untold.flags] == ["W-CLINICAL"] * 2
    assert odd.flags == ("W-CLINICAL: sex has a value that no training case had; the diagnosis was made without it",)
    assert told.classes["finding"]["malignant"] > untold.classes["finding"]["malignant"]
    weights = read_bundle(bundle).weights[0]["head.heads.finding.weight"]
    assert torch.count_nonzero(weights[:, [-4, -1]]) == 0  # of what no training case lacked
    assert torch.count_nonzero(weights[:, [-5, -3, -2]]) == 6


def test_another_value_makes_another_result(bundle, manifest, tmp_path):
    first = infer(bundle, tmp_path, InferSettings(), folder=manifest, split="val")
    assert infer(bundle, tmp_path, InferSettings(), folder=manifest, split="val").skipped == tuple(
        one.case for one in first.predictions
    )
    dataset = read_manifest(manifest)
    changes = {"n20": {"age": "41"}, "n21": {"name": "Ada"}}
    cases = tuple(
        case.model_copy(update={"attributes": case.attributes | changes.get(case.id, {})}) for case in dataset.cases
    )
    write_manifest(dataset.model_copy(update={"cases": cases}), tmp_path / "other.json")
    again = infer(bundle, tmp_path, InferSettings(), folder=tmp_path / "other.json", split="val")
    assert again.redone == {"n20": "what is known of the patient has changed"}
    made = read_document(tmp_path / "n20.json", CasePrediction)
    assert made.clinical == {"age": "41", "sex": "F"}
    assert "Eve" not in (tmp_path / "n20.json").read_text()


def test_the_command_line_takes_values_beside_one_volume(bundle, manifest, tmp_path):
    image = read_manifest(manifest).cases[0].images[0]
    command = ["infer", "--bundle", str(bundle), "--volume", str(image), "--out", str(tmp_path)]
    run = CliRunner().invoke(app, [*command, "--attribute", "age=44", "--attribute", "sex=F"])
    assert run.exit_code == 0, run.output
    assert read_document(tmp_path / "n00.json", CasePrediction).clinical == {"age": "44", "sex": "F"}


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        (["--attribute", "agee=44"], "E-ATTRIBUTE"),
        (["--attribute", "age"], "E-OPTION"),
        (["--attribute", "age=44", "--volume", "second"], "E-ATTRIBUTE"),
        (["--attribute", "agee=44", "--dry-run"], "E-ATTRIBUTE"),
        (["--attribute", "age=old"], "E-CLINICAL-VALUE"),
    ],
)
def test_values_that_cannot_be_used_are_refused(extra, code, bundle, manifest, tmp_path):
    images = [case.images[0] for case in read_manifest(manifest).cases[:2]]
    extra = [str(images[1]) if word == "second" else word for word in extra]
    command = ["infer", "--bundle", str(bundle), "--volume", str(images[0]), "--out", str(tmp_path / "out"), *extra]
    with pytest.raises(MedsegError) as refused:
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert refused.value.code == code
    assert not list((tmp_path / "out").glob("*.json")) or code == "E-CLINICAL-VALUE"


@pytest.mark.parametrize("form", ["openvino", pytest.param("onnx", marks=pytest.mark.slow)])
def test_what_is_exported_reads_the_columns_too(form, bundle, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime"}.get(form, form))
    export(bundle, tmp_path / "out", form=form)
    record = read_document(tmp_path / "out" / "export.json", ExportRecord)
    assert [port.name for port in record.parts[-1].inputs] == ["view", "clinical"]
    assert "1 if it is F, 1 if it is M, then 0; or all 0, then 1" in record.parts[-1].inputs[-1].meaning
    assert record.checks[0].class_difference < 1e-3


@pytest.mark.parametrize(
    "form", ["openvino", *(pytest.param(form, marks=pytest.mark.slow) for form in ("onnx", "torch-export"))]
)
def test_under_a_mask_three_things_are_read_and_a_class_and_a_number_answered(form, workspace, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime", "torch-export": "torch"}.get(form, form))
    model = read_bundle(workspace.newest_bundle())
    columns = (ClinicalColumn(name="age", mean=60, deviation=8), ClinicalColumn(name="sex", levels=("F", "M")))
    targets = {"bmd": Target(unit="g/cm2", n=9, mean=1.0, std=0.2, low=0.7, high=1.4)}
    diagnosis = model.plan.classification.model_copy(update={"clinical": columns, "targets": targets})
    plan = model.plan.model_copy(update={"classification": diagnosis})
    network = build_network(plan, seed=2)
    for layer in network.head.layers().values():
        torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    write_bundle(tmp_path / "bundle", model.manifest, plan, weights=[network.state_dict()], metrics="{}\n", card="")
    made = export(tmp_path / "bundle", tmp_path / "out", form=form)
    part = made.parts[-1]
    assert [port.name for port in part.inputs] == ["view", "probabilities", "clinical"]
    assert [(port.name, port.shape) for port in part.outputs] == [("lesion_type", (1, 2)), ("bmd", (1, 1))]
    assert part.outputs[1].meaning == "times 0.2 plus 1 g/cm2"
    assert made.checks[0].class_difference < 1e-3


def test_a_plan_is_refused_where_its_columns_are_not(old_and_young, manifest, tmp_path):
    plan = old_and_young[0].store / "plan.json"
    dataset = read_manifest(manifest)
    cases = tuple(case.model_copy(update={"attributes": {"age": "60"}}) for case in dataset.cases)
    write_manifest(dataset.model_copy(update={"cases": cases}), tmp_path / "sexless.json")
    for chosen, words in [
        ({"manifest": tmp_path / "sexless.json"}, "no training case has a value of 'sex'"),
        ({"manifest": manifest, "clinical": ("sex",)}, "this plan reads age, sex, not sex"),
    ]:
        with pytest.raises(MedsegError, match=words) as refused:
            preprocess(Workspace(tmp_path / "w"), PreprocessSettings(plan=plan, **chosen))
        assert refused.value.code == "E-CLINICAL-COLUMN"


def test_an_edited_column_asks_for_preprocessing_again(old_and_young, tmp_path):
    shutil.copytree(old_and_young[0].store, tmp_path / "store")
    path = tmp_path / "store" / "plan.json"
    path.write_text(path.read_text().replace('"F"', '"f"', 1))
    with pytest.raises(MedsegError, match="preprocessing was changed"):
        open_store(tmp_path / "store")


def test_a_bad_value_of_a_training_case_is_named_before_any_image_is_read(manifest, tmp_path):
    dataset = read_manifest(manifest)
    first = dataset.cases[0].model_copy(update={"attributes": {"age": "old"}, "images": (tmp_path / "absent.nii",)})
    write_manifest(dataset.model_copy(update={"cases": (first, *dataset.cases[1:])}), tmp_path / "bad.json")
    with pytest.raises(MedsegError, match="age is 'old', and a number in 29 of 30") as refused:
        preprocess(Workspace(tmp_path / "w"), PreprocessSettings(manifest=tmp_path / "bad.json", clinical="age"))
    assert (refused.value.code, refused.value.case) == ("E-CLINICAL-VALUE", "n00")
    assert not (tmp_path / "w" / "store" / "index.json").exists()
