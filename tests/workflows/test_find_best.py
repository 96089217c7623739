"""From folders of cross-validations to one model, chosen and judged by out-of-fold scores."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from medseg.core.answering import Cleanup
from medseg.core.choice import BestReport
from medseg.core.errors import MedsegError
from medseg.core.settings import EvaluateSettings, InferSettings, Settings
from medseg.data.manifest import read_manifest, write_manifest
from medseg.data.splits import Split
from medseg.engine.predict import Predictor
from medseg.io.bundle import read_bundle, write_bundle
from medseg.io.documents import read_document
from medseg.io.volumes import read_labels, write_labels
from medseg.ops.cleanup import cleaned
from medseg.workflows.cross_validate import conclude
from medseg.workflows.find_best import Search, find_best, forecast_find_best
from medseg.workflows.workspace import Workspace

SETTINGS = Settings(
    infer=InferSettings(amp=False, overlap=0, backend="torch"),
    evaluate=EvaluateSettings(pictures=False, jobs=1, tolerance_mm=2),
)


@pytest.fixture(scope="module")
def make_run(workspace, cohort, inferred, tmp_path_factory):
    """Makes what a cross-validation of two folds leaves, with masks of one's own."""
    bundle, dataset = read_bundle(workspace.newest_bundle()), read_manifest(cohort)
    cases = tuple(
        case.model_copy(update={"fold": number % 2, "split": None}) for number, case in enumerate(dataset.cases[:6])
    )
    dataset = dataset.model_copy(update={"cases": cases, "generator": None})
    parts = [tuple(case.id for case in cases if case.fold == fold) for fold in range(2)]
    folds = [Split(parts[1 - fold], parts[fold]) for fold in range(2)]

    def make(name, change):
        folder = tmp_path_factory.mktemp("runs") / name
        write_manifest(dataset, folder / "held-back.json")
        for fold, split in enumerate(folds):
            taught = bundle.manifest.model_copy(update={"training_cases": split.train})
            place = folder / f"fold{fold}"
            write_bundle(place / "bundle", taught, bundle.plan, weights=bundle.weights, metrics="{}\n", card="")
            own = tuple(case for case in cases if case.fold == fold)
            write_manifest(dataset.model_copy(update={"cases": own}), place / "held-back.json")
        shutil.copytree(inferred.out, folder / "oof")
        for number, case in enumerate(cases):
            mask = read_labels(case.label)
            changed = replace(mask, array=change(mask.array.copy(), number))
            write_labels(changed, folder / "oof" / f"{case.id}.nii.gz", names=dataset.labels)
        conclude(Workspace(folder), folder, dataset, folds, SETTINGS)
        return folder

    return make


def _stray(array, number):
    """An organ with a large island in every case, and lesions with one of a voxel in the first case only."""
    array[:6, :6, : 6 + number % 3] = 1
    if number == 0:
        array[-1, -1, -1] = 2
    return array


def _poor(array, number):
    """As that, the upper half of the organ missed."""
    array = _stray(array, number)
    inside = np.flatnonzero((array == 1).any(axis=(0, 1)))
    half = array[:, :, int(inside.mean()) :]
    half[half == 1] = 0
    return array


@pytest.fixture(scope="module")
def runs(make_run):
    return make_run("poor", _poor), make_run("stray", _stray)


@pytest.fixture(scope="module")
def found(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("best")
    return find_best(Workspace(out), runs, out, SETTINGS, search=Search(pairs=False))


def test_the_better_configuration_and_the_cleaning_that_helps_are_chosen(found):
    report = found.report
    assert [candidate.name for candidate in report.candidates] == ["poor", "stray"]
    assert report.not_paired == ()
    assert report.choice.candidate == "stray"
    assert report.choice.cleanup == {"organ": Cleanup(keep_largest=True)}
    taken = [(step.subject, step.change) for step in report.steps if step.taken]
    assert taken[0] == ("stray", "instead of poor")
    assert taken[-1] == ("organ", "largest part only")
    assert report.plain.mean < report.candidates[1].score.mean < report.chosen.mean <= 1
    assert {choice.candidate for choice in report.choices_by_fold} == {"stray"}
    assert report.plain.mean < report.honest.mean <= report.chosen.mean
    assert read_document(found.bundle.parent / "find-best.json", BestReport) == report


def test_the_score_is_that_of_evaluate(found, runs):
    pooled = json.loads((runs[0] / "cross-validation.json").read_text())["pooled"]
    assert found.report.plain.mean == pytest.approx(pooled["mean_dice"]["mean"])
    assert found.report.plain.low == pytest.approx(pooled["mean_dice"]["low"])


def test_the_model_cleans_as_was_measured(found, cohort):
    bundle = read_bundle(found.bundle)
    assert bundle.manifest.answering.cleanup == found.report.choice.cleanup
    assert len(bundle.weights) == 2
    image = next((cohort.parent / "images").glob("*.nii.gz"))
    answering = bundle.manifest.answering.model_copy(update={"cleanup": {}})
    raw = replace(bundle, manifest=bundle.manifest.model_copy(update={"answering": answering}))
    ours, theirs = (Predictor(one, SETTINGS.infer).predict(image).labels for one in (bundle, raw))
    volume_mm3 = theirs.geometry.voxel_volume_mm3
    expected = cleaned(theirs.array, bundle.plan.labels, found.report.choice.cleanup, voxel_volume_mm3=volume_mm3)
    np.testing.assert_array_equal(ours.array, expected)


def test_chosen_by_a_distance(runs, tmp_path):
    report = find_best(
        Workspace(tmp_path), runs[1:], tmp_path, SETTINGS, search=Search(metric="hd_mm", min_volumes_ml=())
    ).report
    assert report.choice.cleanup["organ"] == Cleanup(keep_largest=True)
    assert report.chosen.mean < report.plain.mean


def test_two_configurations_answer_together_and_those_that_cannot_are_tried_alone(runs, make_run, tmp_path):
    other = make_run("coarse", _stray)
    for fold in ("fold0", "fold1"):
        bundle = read_bundle(other / fold / "bundle")
        plan = bundle.plan.model_copy(update={"spacing_mm": (9.0, 9.0, 9.0)})
        write_bundle(other / fold / "bundle", bundle.manifest, plan, weights=bundle.weights, metrics="{}\n", card="")
    tried, search = (*runs, other), Search(min_volumes_ml=())
    report = find_best(Workspace(tmp_path), tried, tmp_path, SETTINGS, search=search).report
    assert [candidate.name for candidate in report.candidates] == ["poor", "stray", "coarse", "poor+stray"]
    assert report.not_paired == ("poor+coarse", "stray+coarse")
    told = [value for what, value in forecast_find_best(tried, tmp_path, search).rows if what == "not paired"]
    assert told == ["poor+coarse", "stray+coarse"]
    pair = tmp_path / "poor+stray"
    assert len(read_bundle(pair / "fold0" / "bundle").weights) == 2
    assert len(read_bundle(pair / "bundle").weights) == 4
    assert {path.stem.removesuffix(".nii") for path in (pair / "oof").glob("*.nii.gz")} == {
        case.id for case in read_manifest(pair / "held-back.json").cases
    }
    assert "not paired" not in dict(forecast_find_best(tried, tmp_path, Search(pairs=False)).rows)


def test_the_forecast_names_what_is_predicted_anew(runs, tmp_path):
    rows = dict(forecast_find_best(runs, tmp_path, Search()).rows)
    assert rows["configurations"] == "poor, stray"
    assert rows["predicted anew"].startswith("poor+stray: 6 cases")
    assert not list(tmp_path.iterdir())


def test_refusals(runs, make_run, tmp_path):
    place = Workspace(tmp_path)

    def refused(*folders, metric="dice"):
        with pytest.raises(MedsegError) as caught:
            find_best(place, folders, tmp_path / "out", SETTINGS, search=Search(metric=metric))
        assert caught.value.code == "E-FIND-BEST"
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert "no cross-validation.json" in refused(tmp_path)
    assert "two cross-validations are called 'poor'" in refused(runs[0], runs[0])
    assert "cannot choose by 'luck'" in refused(runs[0], metric="luck")
    other = tmp_path / "other"
    shutil.copytree(runs[0], other)
    record = json.loads((other / "cross-validation.json").read_text())
    record["folds"][0]["held_back"] = record["folds"][0]["held_back"][1:]
    (other / "cross-validation.json").write_text(json.dumps(record))
    assert "hold back other cases" in refused(runs[0], other)
    empty = tmp_path / "empty"
    shutil.copytree(runs[0], empty)
    for mask in (empty / "oof").glob("*.nii.gz"):
        mask.unlink()
    with pytest.raises(MedsegError, match="no case has both") as caught:
        find_best(place, [empty], tmp_path / "none", SETTINGS, search=Search(pairs=False))
    assert caught.value.code == "E-FIND-BEST"
