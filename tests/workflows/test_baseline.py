"""Baselines from images to verdict: tiny volumes whose class shows in the size or the brightness of a ball."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from medseg.apps.cli import app
from medseg.apps.show_baseline import judged
from medseg.apps.terminal import Terminal
from medseg.core.baseline import BaselineModel, BaselineReport, BaselineSettings
from medseg.core.case import Case, Dataset
from medseg.core.errors import InputError, ModelError, UsageError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.data.manifest import read_manifest, write_manifest
from medseg.io.bundle import read_bundle
from medseg.io.volumes import write_labels, write_volume
from medseg.workflows.baseline import Request, baseline
from medseg.workflows.baseline_cases import Measuring
from medseg.workflows.baseline_sides import choose_sides, inner_folds
from medseg.workflows.baseline_verdict import Judges, contrast_with
from medseg.workflows.workspace import Workspace

SHAPE = (12, 11, 9)
QUICK = BaselineSettings(models=("logistic", "tree"), contain=False)


def ball(radius: float) -> np.ndarray:
    steps = np.stack(np.meshgrid(*(np.arange(size) - size // 2 for size in SHAPE), indexing="ij"))
    return np.linalg.norm(steps, axis=0) <= radius


def oblique() -> Geometry:
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag((1.0, 1.5, 2.5))
    affine[:3, 3] = (-30, 12, 7)
    return Geometry(SHAPE, affine)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty-four cases of twelve patients, twelve of each class: the ball is larger in class `large`."""
    place, random, cases = tmp_path_factory.mktemp("balls"), np.random.default_rng(0), []
    for number in range(24):
        name = "large" if number // 2 % 2 else "small"
        mask = ball(3.6 if name == "large" else 2.4)
        image = (random.normal(0, 5, SHAPE) + 100 * mask).astype(np.float32)
        files = place / f"case{number:02d}.nii.gz", place / f"case{number:02d}_mask.nii.gz"
        write_volume(Volume(image[None], oblique()), files[0])
        write_labels(LabelMap(mask.astype(np.uint8), oblique()), files[1])
        cases.append(
            Case(
                id=f"case{number:02d}",
                patient=f"p{number // 2:02d}",
                images=(files[0],),
                label=files[1],
                classes={"size": name},
                split="train" if number < 16 else "val",
            )
        )
    dataset = Dataset(
        name="balls", channels=("CT",), labels={"ball": 1}, heads={"size": ("small", "large")}, cases=tuple(cases)
    )
    write_manifest(dataset, place / "balls.json")
    return place


@pytest.fixture
def balls(folder):
    return read_manifest(folder / "balls.json")


def run(dataset, tmp_path, settings=QUICK, **request) -> BaselineReport:
    write_manifest(dataset, tmp_path / "manifest.json")
    request = Request(tmp_path / "manifest.json", **({"network": False} | request))
    made = baseline(Workspace(tmp_path / "work"), settings, request, tmp_path / "out")
    assert BaselineReport.model_validate_json(made.file.read_text(encoding="utf-8")) == made.report
    return made.report


def changed(dataset, **changes):
    """Some cases changed by their id."""
    cases = tuple(case.model_copy(update=changes.get(case.id, {})) for case in dataset.cases)
    return dataset.model_copy(update={"cases": cases})


def test_balls_are_told_apart_by_the_manifests_split(balls, tmp_path):
    report = run(balls, tmp_path)
    (head,) = report.heads
    assert (head.num_training_cases, head.num_training_patients) == (16, 8)
    assert (head.num_judged_cases, head.num_judged_patients) == (8, 4)
    assert {model.family for model in head.models} == {"logistic", "tree"}
    for model in head.models:
        assert model.summary.auroc == model.training_auroc == 1
        assert model.summary.n == 8
        assert model.num_features > 70
    assert head.network is None
    assert head.contrast is None
    assert report.model == ""
    assert report.missing == report.failures == ()
    assert "judged cases: reference masks" in report.region_words


def test_an_empty_mask_is_counted_and_filled_in(balls, folder, tmp_path):
    nothing = tmp_path / "nothing.nii.gz"
    write_labels(LabelMap(np.zeros(SHAPE, np.uint8), oblique()), nothing)
    report = run(changed(balls, case03={"label": nothing}, case20={"label": nothing}), tmp_path)
    (missing,) = report.missing
    assert (missing.label, missing.training, missing.judged) == ("ball", ("case03",), ("case20",))
    assert report.heads[0].num_judged_cases == 8
    assert np.isfinite(report.heads[0].models[0].summary.brier)


def test_a_label_that_was_not_annotated_is_missing_not_empty(balls, tmp_path):
    report = run(changed(balls, case05={"labelled": ()}), tmp_path)
    assert report.missing[0].training == ("case05",)


def test_a_case_without_mask_or_image_is_named_and_the_others_go_on(balls, tmp_path):
    report = run(changed(balls, case02={"label": None}, case17={"images": (tmp_path / "gone.nii.gz",)}), tmp_path)
    assert [(failure.case, failure.code) for failure in report.failures] == [
        ("case02", "E-BASELINE-MASK"),
        ("case17", "E-NOT-FOUND"),
    ]
    assert report.heads[0].num_training_cases == 15
    assert report.heads[0].num_judged_cases == 7


def test_nothing_that_can_be_measured(balls, tmp_path):
    cases = tuple(case.model_copy(update={"label": None}) for case in balls.cases)
    with pytest.raises(InputError, match="E-ALL-FAILED") as caught:
        run(balls.model_copy(update={"cases": cases}), tmp_path)
    assert "no reference mask" in caught.value.message
    assert not (tmp_path / "out" / "baseline.json").exists()


def test_two_valued_images_without_labels_are_shapes(balls, folder, tmp_path):
    """The masks as images: nothing but the outline tells the classes apart."""
    cases = tuple(case.model_copy(update={"images": (case.label,), "label": None}) for case in balls.cases)
    report = run(balls.model_copy(update={"labels": {}, "cases": cases}), tmp_path)
    assert "two values" in report.region_words
    assert report.heads[0].models[0].num_features == 22
    assert report.heads[0].models[0].summary.auroc == 1


def test_images_without_labels_are_measured_whole(balls, tmp_path):
    cases = tuple(case.model_copy(update={"label": None}) for case in balls.cases)
    report = run(balls.model_copy(update={"labels": {}, "cases": cases}), tmp_path)
    assert "whole image" in report.region_words
    assert report.heads[0].models[0].summary.auroc == 1


def test_every_channel_is_measured(balls, folder):
    case = balls.cases[0].model_copy(update={"images": (balls.cases[0].images[0],) * 2})
    two = balls.model_copy(update={"channels": ("CT", "PET")})
    names = Measuring(two, ("ball",)).teaching(case).features["radiomics"]
    assert names["ball.channel 1.intensity.mean"] == names["ball.channel 2.intensity.mean"]
    assert names["ball.channel 1.intensity.mean"] == pytest.approx(100, abs=3)
    assert names["ball.shape.voxel_volume_mm3"] == pytest.approx(ball(2.4).sum() * 1.0 * 1.5 * 2.5)


def test_inner_folds_keep_patients_and_classes(balls):
    teach = [case for case in balls.cases if case.split == "train"]
    folds = inner_folds(teach, balls, "size", num_folds=3)
    assert sorted(np.concatenate(folds)) == list(range(16))
    for fold in folds:
        held_back = {teach[place].patient for place in fold}
        assert held_back.isdisjoint(case.patient for place, case in enumerate(teach) if place not in fold)
        assert {teach[place].classes["size"] for place in range(16) if place not in fold} == {"small", "large"}


def test_a_class_with_one_training_patient_is_refused(balls, tmp_path):
    small = {case.id: {"classes": {"size": "small"}} for case in balls.cases[2:16]}
    with pytest.raises(UsageError, match="E-BASELINE-CLASS") as caught:
        run(changed(balls, **small, case00={"classes": {"size": "large"}}), tmp_path)
    assert "'large' of head 'size' has 1 training patient" in caught.value.message


def test_no_head_and_an_unknown_head(balls, tmp_path):
    bare = tuple(case.model_copy(update={"classes": {}}) for case in balls.cases)
    with pytest.raises(UsageError, match="no classification head") as caught:
        run(balls.model_copy(update={"heads": {}, "cases": bare}), tmp_path)
    assert caught.value.code == "E-NO-HEAD"
    with pytest.raises(UsageError, match="'sise'"):
        run(balls, tmp_path, QUICK.model_copy(update={"heads": ("sise",)}))
    with pytest.raises(UsageError, match="E-LABEL-NAME"):
        run(balls, tmp_path, QUICK.model_copy(update={"labels": ("bell",)}))
    for wish in ({"masks": "predicted"}, {"features": ("encoder",)}):
        with pytest.raises(UsageError, match="E-OPTION"):
            run(balls, tmp_path, QUICK.model_copy(update=wish))


def test_a_head_that_no_judged_case_has(balls, tmp_path):
    bare = {case.id: {"classes": {}} for case in balls.cases[16:]}
    with pytest.raises(UsageError, match="no judged case has a class") as caught:
        run(changed(balls, **bare), tmp_path)
    assert caught.value.code == "E-BASELINE-CLASS"


def test_nobody_to_judge(balls):
    cases = tuple(case.model_copy(update={"split": "train"}) for case in balls.cases)
    with pytest.raises(UsageError, match="E-SPLIT"):
        choose_sides(balls.model_copy(update={"cases": cases}), BaselineSettings(judge="test"), None)


def test_the_models_split_decides(workspace, cohort):
    """Its training cases teach and the others judge; patients it has seen, other labels and classes are refused."""
    dataset, model = read_manifest(cohort), read_bundle(workspace.newest_bundle())
    sides = choose_sides(dataset, BaselineSettings(), model)
    assert {case.id for case in sides.teach} == set(model.manifest.training_cases)
    assert {case.id for case in sides.teach}.isdisjoint(case.id for case in sides.judge)
    assert {case.group for case in sides.teach}.isdisjoint(case.group for case in sides.judge)
    moved = sides.judge[0].model_copy(update={"patient": sides.teach[0].group})
    cases = tuple(moved if case.id == moved.id else case for case in dataset.cases)
    for faulty, words in (
        (dataset.model_copy(update={"cases": cases}), "is to judge"),
        (dataset.model_copy(update={"labels": {"other": 1}}), "its labels"),
        (dataset.model_copy(update={"heads": dict.fromkeys(dataset.heads, ("a", "b"))}), "its classes"),
        (dataset.model_copy(update={"cases": dataset.cases[-2:]}), "that the dataset lacks"),
    ):
        with pytest.raises((ModelError, UsageError), match=words) as caught:
            choose_sides(faulty, BaselineSettings(), model)
        assert caught.value.code == "E-BASELINE-MODEL"
        assert words != "is to judge" or "--bundle" in caught.value.remedy


def verdict(network, other, reference, patients=None):
    judges = Judges("stage", ("low", "high"), np.array(reference), patients or [str(n) for n in range(len(reference))])
    tables = [np.stack([1 - np.array(scores), np.array(scores)], axis=1) for scores in (network, other)]
    best = BaselineModel(
        family="svm",
        features="radiomics",
        num_features=3,
        chosen={},
        training_auroc=0.7,
        summary=judges.summary(tables[1]),
    )
    return contrast_with(tables[0], best, tables[1], judges)


def test_the_verdict_says_it_plainly():
    random, truth = np.random.default_rng(0), np.arange(80) % 2
    good, bad = np.clip(truth * 0.6 + random.random(80) * 0.4, 0, 1), random.random(80)
    better, worse, same = verdict(good, bad, truth), verdict(bad, good, truth), verdict(good, good, truth)
    assert [one.outcome for one in (better, worse, same)] == [
        "network_better",
        "baseline_better",
        "not_distinguishable",
    ]
    assert "beats the best baseline, support vector machine on radiomics" in better.sentence
    assert "is WORSE" in worse.sentence
    assert "does NOT beat" in same.sentence
    assert better.auroc_difference == pytest.approx(-worse.auroc_difference)
    assert better.auroc_low > 0
    assert same.balanced_accuracy_difference == 0


def test_a_verdict_on_too_few_cases():
    assert verdict([0.2, 0.9], [0.4, 0.6], [0, 1]).outcome == "undecided"
    assert "too few" in verdict([0.2, 0.9], [0.4, 0.6], [0, 1]).sentence
    assert "only one class" in verdict([0.2, 0.9], [0.4, 0.6], [1, 1]).sentence


@pytest.fixture(scope="module")
def beside_the_network(workspace, cohort, inferred, tmp_path_factory):
    """The miniature cohort's model, its classes dealt anew so that eight cases are enough."""
    from medseg.core.settings import EvaluateSettings
    from medseg.workflows.evaluate import evaluate

    out = tmp_path_factory.mktemp("judged")
    dataset, model = read_manifest(cohort), read_bundle(workspace.newest_bundle())
    (head, names), *_ = dataset.heads.items()
    taught = list(model.manifest.training_cases)
    cases = tuple(
        case.model_copy(
            update={"classes": {head: names[(taught.index(case.id) if case.id in taught else place) % len(names)]}}
        )
        for place, case in enumerate(dataset.cases)
    )
    write_manifest(dataset.model_copy(update={"cases": cases}), out / "dealt.json")
    evaluate(workspace, workspace.predictions, out, EvaluateSettings(pictures=False), manifest=out / "dealt.json")
    words = ["baseline", "-w", str(workspace.folder), "-m", str(out / "dealt.json"), "--out", str(out), "--head", head]
    return out, [*words, "--models", "logistic", "--device", "cpu"]


def test_the_network_stands_beside_them(beside_the_network):
    out, words = beside_the_network
    dry = CliRunner().invoke(app, [*words, "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.output
    assert not (out / "baseline.json").exists()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    report = BaselineReport.model_validate_json((out / "baseline.json").read_text(encoding="utf-8"))
    (head,) = report.heads
    assert head.network is not None
    assert head.network.n == head.models[0].summary.n == head.num_judged_cases
    assert {model.features for model in head.models} == {"radiomics", "encoder"}
    assert report.model
    assert "Baselines beside the network" in (out / "index.html").read_text(encoding="utf-8")
    assert "judged cases: the network's masks" in report.region_words
    assert head.contrast.sentence in done.output.replace("\n", "")
    listed = CliRunner().invoke(app, [*words, "--masks", "reference", "--json"])
    assert "judged cases: reference masks" in json.loads(listed.stdout)["region_words"]


def test_a_case_with_a_gap_is_measured_without_the_intensities_of_that_channel(folder):
    """What is left has the names and values that it has in a case that is whole."""
    file, mask = folder / "case00.nii.gz", folder / "case00_mask.nii.gz"
    dataset = Dataset(name="two", channels=("CT", "PET"), labels={"ball": 1}, heads={"size": ("small", "large")})
    whole = Case(id="whole", images=(file, file), label=mask)
    gap = Case(id="gap", images=(file,), missing=(0,), label=mask)
    for labels in (("ball",), ()):
        measuring = Measuring(dataset, labels)
        full, rest = (measuring.teaching(case).features["radiomics"] for case in (whole, gap))
        assert {name for name in full if name not in rest} == {name for name in full if "channel 1." in name} != set()
        assert rest == {name: value for name, value in full.items() if "channel 1." not in name}


def test_an_unfinished_model_that_took_no_part_is_pointed_to(folder, tmp_path, workspace, monkeypatch):
    early = tmp_path / "work" / "runs" / "main" / "bundle"
    early.mkdir(parents=True)
    manifest = read_bundle(workspace.newest_bundle()).manifest.model_copy(update={"finished": False})
    (early / "bundle.json").write_text(manifest.to_json())
    settings = QUICK.model_copy(update={"models": ("logistic",)})
    made = baseline(Workspace(tmp_path / "work"), settings, Request(folder / "balls.json"), tmp_path / "out")
    assert (made.report.model, made.unfinished) == ("", early)
    said = []
    monkeypatch.setattr(Terminal, "result", lambda _, text: said.append(text))
    judged(Terminal(), made, as_json=False)
    (words,) = (text for text in said if "no network took part" in text)
    assert f"{early.parent} is unfinished" in words
    assert f"--bundle {early}" in words
