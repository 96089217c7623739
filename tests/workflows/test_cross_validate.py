"""Folds: trained, predicted by the one that did not see the case, scored together, put together."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from medseg.core.crossvalidation import CrossValidation
from medseg.core.errors import MedsegError, UsageError
from medseg.core.findings import CasePrediction, CohortReport
from medseg.core.settings import EvaluateSettings, InferSettings, Settings, TrainSettings
from medseg.data.manifest import read_manifest
from medseg.io.bundle import read_bundle
from medseg.io.documents import read_document
from medseg.ops.calibration import calibrate
from medseg.workflows.cross_validate import CrossValidated, Watchers, cross_validate
from medseg.workflows.evaluate import evaluate
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace


def _settings(**train):
    return Settings(
        train=TrainSettings(epochs=1, warmup_steps=1, num_folds=2, **train),
        infer=InferSettings(amp=False, overlap=0, backend="torch"),
        evaluate=EvaluateSettings(pictures=False, jobs=1),
    )


@pytest.fixture(scope="module")
def place(workspace, tmp_path_factory):
    """A workspace of its own with the store of the suite."""
    own = Workspace(tmp_path_factory.mktemp("folds"))
    shutil.copytree(workspace.store, own.store)
    return own


@pytest.fixture(scope="module")
def said(place):
    """What was told while fold 1 was trained alone, which leaves the table to whoever comes last."""
    words: list[str] = []
    alone = cross_validate(place, _settings(fold=1), watchers=Watchers(say=words.append))
    assert (alone.report, alone.missing) == (None, (0,))
    assert not (place.runs / "folds" / "bundle").exists()
    return words


@pytest.fixture(scope="module")
def made(place, said):
    """Of fold 1 that was trained alone, and fold 0 by the plain command, as each is under torchrun: nothing is left."""
    train(place, _settings(fold=0).train, name="folds/fold0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medseg.workflows.train.fit", None)
        return cross_validate(place, _settings())


def test_a_fold_alone_is_said_and_kept(said, made):
    assert [words for words in said if not words.startswith("W-")] == ["fold 1 of 2: 3 cases teach, 3 judge"]
    assert made.report is not None


def test_every_case_is_judged_once_by_the_fold_that_did_not_see_it(place, made):
    judged = []
    for fold in made.report.folds:
        bundle = read_bundle(made.folder / fold.bundle)
        assert not set(bundle.manifest.training_cases) & set(fold.held_back)
        for case in fold.held_back:
            answer = read_document(made.folder / "oof" / f"{case}.json", CasePrediction)
            assert answer.provenance.weights_sha256 == bundle.manifest.provenance.weights_sha256
            assert answer.classes
            assert not any(flag.startswith("W-TRAINING-CASE") for flag in answer.flags)
        judged += fold.held_back
    dataset = read_manifest(made.folder / "held-back.json")
    assert sorted(judged) == sorted(case.id for case in dataset.cases)
    assert all(case.id in made.report.folds[case.fold].held_back for case in dataset.cases)
    stored = json.loads((place.store / "dataset.json").read_text())["cases"]
    assert not set(judged) & {case["id"] for case in stored if case["split"] == "test"}


def test_the_name_of_one_training_is_refused_for_folds_whose_model_would_take_its_place(place):
    checkpoint = place.runs / "single" / "checkpoint.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    with pytest.raises(UsageError, match="of one training") as caught:
        cross_validate(place, _settings(), name="single", restart=True)
    assert caught.value.code == "E-RUN-KIND"
    assert list((place.runs / "single").iterdir()) == [checkpoint]


def test_evaluate_gives_the_same_numbers(place, made, tmp_path):
    held_back = made.folder / "held-back.json"
    report = evaluate(place, made.folder / "oof", tmp_path, _settings().evaluate, manifest=held_back).report
    assert report.mean_dice == made.report.pooled.mean_dice
    assert report.labels == made.report.pooled.labels
    assert not report.failures
    by_fold = [fold.scores.mean_dice for fold in made.report.folds]
    assert sum(one.mean * one.n for one in by_fold) / 6 == pytest.approx(report.mean_dice.mean)


def test_the_calibration_is_that_of_the_answers(made):
    report = read_document(made.folder / "reports" / "cohort.json", CohortReport)
    rows = [(case.case, answer) for case in report.cases for answer in case.classes]
    folds = [next(fold.fold for fold in made.report.folds if case in fold.held_back) for case, _ in rows]
    names = made.report.pooled.classes[0].classes
    expected = calibrate(
        "lesion_type",
        np.array([[answer.probabilities[name] for name in names] for _, answer in rows]),
        np.array([names.index(answer.reference) for _, answer in rows]),
        folds,
    )
    assert made.report.calibration == (expected,)
    temperatures = read_bundle(made.folder / "bundle").manifest.answering.temperatures
    assert temperatures == ({} if expected.temperature == 1 else {"lesion_type": expected.temperature})


def test_the_folds_become_the_model_of_the_workspace(place, made):
    assert place.newest_bundle() == made.folder / "bundle"
    bundle = read_bundle(place.newest_bundle())
    assert len(bundle.weights) == 2
    assert bundle.manifest.answering.combine == "probabilities"
    metrics = json.loads((bundle.folder / "metrics.json").read_text())
    assert metrics["out_of_fold"]["mean_dice"]["mean"] == made.report.pooled.mean_dice.mean


def test_the_same_command_keeps_what_is_done(place, made, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in (made.folder / "oof").glob("phantom*")}
    monkeypatch.setattr("medseg.workflows.train.fit", None)
    again = cross_validate(place, _settings())
    assert again.report.pooled == made.report.pooled
    assert before == {path: path.stat().st_mtime_ns for path in (made.folder / "oof").glob("phantom*")}
    assert read_document(made.folder / "cross-validation.json", CrossValidation) == again.report


def test_other_folds_are_refused(place, made):
    with pytest.raises(MedsegError, match="stratify_by") as caught:
        cross_validate(place, _settings(stratify_by="none"))
    assert caught.value.code == "E-RESUME"


def test_a_model_of_other_cases_is_no_fold(place, made):
    shutil.copytree(made.folder / "fold1" / "bundle", place.runs / "foreign" / "fold0" / "bundle")
    with pytest.raises(MedsegError, match="trained on other cases") as caught:
        cross_validate(place, _settings(), name="foreign")
    assert caught.value.code == "E-RESUME"


@pytest.mark.parametrize(
    ("train", "words"), [({"fold": 2}, "fold 2 does not exist"), ({"stratify_by": "site"}, "no case of the manifest")]
)
def test_refusals_come_before_any_training(place, train, words):
    with pytest.raises(MedsegError, match=words) as caught:
        cross_validate(place, _settings(**train), name="none")
    assert caught.value.code == "E-SPLIT"
    assert not (place.runs / "none").exists()


def test_a_stopped_fold_ends_the_command(place):
    folder = place.runs / "stopped" / "fold0"
    folder.mkdir(parents=True)
    (folder / "stop").touch()
    assert cross_validate(place, _settings(fold=0), name="stopped") == CrossValidated(place.runs / "stopped", None)
    assert not (place.runs / "stopped" / "fold1").exists()


def test_a_stop_file_of_the_whole_ends_the_fold_that_trains(place):
    folder = place.runs / "whole"

    def step(status):
        if status.step == 1:
            (folder / "stop").touch()

    assert cross_validate(place, _settings(), name="whole", watchers=Watchers(step=step)).report is None
    assert (folder / "fold0" / "checkpoint.safetensors").is_file()
    assert not (folder / "fold0" / "bundle" / "bundle.json").is_file()
    assert not (folder / "stop").exists()


def test_a_stop_file_is_heard_between_predictions(place, made):
    """The trainings are done; what is left has no step that would hear it."""
    folder = place.runs / "predicted"
    shutil.copytree(made.folder, folder, ignore=shutil.ignore_patterns("oof", "reports"))
    (folder / "stop").touch()
    assert cross_validate(place, _settings(), name="predicted").report is None
    assert not (folder / "stop").exists()
    assert len(list((folder / "oof").glob("phantom*.json"))) < 3
    assert cross_validate(place, _settings(), name="predicted").report.pooled == made.report.pooled
