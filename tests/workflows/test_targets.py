"""A number with a unit on its whole way: import, check, preprocess, train, infer, evaluate, page."""

from __future__ import annotations

import json

import pytest

from medseg.core.case import Dataset
from medseg.core.errors import InputError, UsageError
from medseg.core.findings import CasePrediction, CohortReport
from medseg.core.settings import EvaluateSettings, InferSettings, PreprocessSettings, TrainSettings
from medseg.data.importers import import_dataset
from medseg.data.manifest import read_manifest, write_manifest
from medseg.io.bundle import read_bundle
from medseg.io.documents import read_document
from medseg.workflows import find_best
from medseg.workflows.baseline_sides import wanted_heads
from medseg.workflows.evaluate import evaluate
from medseg.workflows.evaluate_case import _value_answers
from medseg.workflows.export import export
from medseg.workflows.infer import infer
from medseg.workflows.preprocess import preprocess
from medseg.workflows.preview import preview
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

COARSE = {"spacing_mm": (8.0, 8.0, 8.0), "patch_size": (16, 16, 16), "target": "cpu"}
QUICK = EvaluateSettings(pictures=False, jobs=1)


def _manifest(cohort, path, values, **changes):
    """The first cases of the cohort, with a number each; None where it is not known."""
    dataset = read_manifest(cohort)
    cases = tuple(
        case.model_copy(update={"classes": {}, "split": None, "values": {} if value is None else {"age": value}})
        for case, value in zip(dataset.cases, values, strict=False)
    )
    plain = {**dataset.model_dump(), "heads": {}, "targets": {"age": "years"}, "cases": cases, **changes}
    write_manifest(Dataset.parse(plain), path)
    return path


@pytest.fixture(scope="module")
def aged(cohort, tmp_path_factory):
    """A manifest with ages, and the workspace of a model of it after one pass."""
    folder = tmp_path_factory.mktemp("aged")
    manifest = _manifest(cohort, folder / "aged.json", [41.0, 52.5, 63.0, None, 74.0, 85.0, 47.0])
    place = Workspace(folder / "work")
    preprocess(place, PreprocessSettings(manifest=manifest, **COARSE))
    made = train(place, TrainSettings(epochs=1, warmup_steps=1, num_folds=2))
    infer(made.bundle, place.predictions, InferSettings(), folder=manifest)
    return manifest, place, made


def test_an_age_is_learnt_and_answered_in_years_with_its_range(aged):
    _, place, made = aged
    bundle = read_bundle(made.bundle)
    target = bundle.plan.classification.targets["age"]
    assert (target.unit, target.n, target.low, target.high) == ("years", 6, 41.0, 85.0)
    assert target.mean == pytest.approx(362.5 / 6)
    assert bundle.weights[0]["head.heads.age.weight"].shape[0] == 1
    assert made.validation["age/rmse"] >= made.validation["age/mae"] > 0
    assert "age in years, 41 to 85" in (made.bundle / "README.md").read_text()
    for file in place.predictions.glob("*.json"):
        found = json.loads(file.read_text())
        if "values" not in found:
            continue
        (answer,) = found["values"]
        assert (answer["name"], answer["unit"], answer["low"], answer["high"]) == ("age", "years", 41.0, 85.0)
        is_outside = not 41 <= answer["value"] <= 85
        assert any(flag.startswith("W-OUTSIDE-RANGE") for flag in found["flags"]) == is_outside


def test_answers_are_scored_and_shown_beside_the_references(aged, tmp_path):
    manifest, place, _ = aged
    scored = evaluate(place, place.predictions, tmp_path / "reports", QUICK, manifest=manifest)
    report = read_document(tmp_path / "reports" / "cohort.json", CohortReport)
    (summary,) = report.values
    assert (summary.name, summary.unit, summary.n, summary.num_without_reference) == ("age", "years", 6, 1)
    errors = [abs(case.values[0].value - case.values[0].reference) for case in report.cases if case.values[0].reference]
    assert summary.mae.mean == pytest.approx(sum(errors) / 6)
    assert summary.rmse.low is None
    page = scored.page.read_text()
    assert "Number: age, years" in page
    assert "age: answer against reference, 6 cases" in page
    first = report.cases[0]
    assert f"age: {first.values[0].words}" in (tmp_path / "reports" / "cases" / f"{first.case}.html").read_text()
    header = (tmp_path / "reports" / "cohort.csv").read_text().splitlines()[0]
    assert header.endswith("age (years),age reference")


def test_another_unit_is_refused_and_a_missing_answer_counted(aged, cohort, tmp_path):
    _, place, _ = aged
    months = _manifest(cohort, tmp_path / "months.json", [500.0, 600.0, 700.0], targets={"age": "months"})
    with pytest.raises(InputError, match="answered in 'years'; the references are in 'months'"):
        evaluate(place, place.predictions, tmp_path / "a", QUICK, manifest=months)
    case = read_manifest(months).cases[0]
    found = read_document(place.predictions / f"{case.id}.json", CasePrediction)
    with pytest.raises(InputError) as caught:
        _value_answers(case, found, read_manifest(months))
    assert caught.value.code == "E-TARGET-UNIT"
    dataset = read_manifest(_manifest(cohort, tmp_path / "b.json", [50.0, 60.0, 70.0]))
    cases = tuple(case.model_copy(update={"values": {"bmd": 1.0}}) for case in dataset.cases)
    write_manifest(Dataset.parse({**dataset.model_dump(), "targets": {"bmd": ""}, "cases": cases}), tmp_path / "b.json")
    report = evaluate(place, place.predictions, tmp_path / "b", QUICK, manifest=tmp_path / "b.json").report
    assert report.unanswered == {"bmd": 3}
    assert all("W-NO-ANSWER: the prediction says nothing of bmd" in case.flags for case in report.cases)
    assert "bmd: 3 cases have a reference and no answer" in (tmp_path / "b" / "index.html").read_text()


def test_the_preview_says_which_value_a_patch_teaches(aged):
    _, place, _ = aged
    made = preview(place, TrainSettings(num_folds=2, augment=False))
    assert "years" in made.page.read_text()


@pytest.mark.parametrize(
    ("values", "found"), [([50.0] * 3, "the 3 with a value all have 50 years"), ([None] * 3, "none has a value")]
)
def test_numbers_that_do_not_differ_cannot_be_learnt(cohort, tmp_path, values, found):
    manifest = _manifest(cohort, tmp_path / "m.json", values)
    with pytest.raises(UsageError, match=found) as caught:
        preprocess(Workspace(tmp_path / "work"), PreprocessSettings(manifest=manifest, **COARSE))
    assert caught.value.code == "E-TARGET"


def test_the_baselines_say_that_they_answer_no_numbers(cohort, tmp_path):
    from medseg.core.baseline import BaselineSettings

    dataset = read_manifest(_manifest(cohort, tmp_path / "m.json", [50.0, 60.0]))
    with pytest.raises(UsageError, match="the baselines answer classes alone, not age"):
        wanted_heads(dataset, BaselineSettings())


def test_a_table_gives_targets_by_name_or_by_choice(cohort, tmp_path):
    images = [case.images[0] for case in read_manifest(cohort).cases[:3]]
    cells = ["61,1.02", "NA,", "48.5,.9"]
    lines = ["image,age,target_bmd", *(f"{image},{cell}" for image, cell in zip(images, cells, strict=True))]
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    dataset = import_dataset(tmp_path / "cases.csv", out=tmp_path / "m.json", targets={"age": "years", "bmd": "g/cm2"})
    assert dataset.targets == read_manifest(tmp_path / "m.json").targets == {"bmd": "g/cm2", "age": "years"}
    assert [case.values for case in dataset.cases] == [{"bmd": 1.02, "age": 61}, {}, {"bmd": 0.9, "age": 48.5}]
    assert all("age" not in case.attributes for case in dataset.cases)
    assert import_dataset(tmp_path / "cases.csv", out=tmp_path / "n.json").targets == {"bmd": ""}
    with pytest.raises(UsageError, match="no case has a value of target 'weight'"):
        import_dataset(tmp_path / "cases.csv", out=tmp_path / "o.json", targets={"weight": "kg"})
    assert not (tmp_path / "o.json").exists()


@pytest.mark.parametrize("cell", ["old", "inf", "nan"])
def test_a_cell_that_is_no_finite_number_is_refused(cohort, tmp_path, cell):
    image = read_manifest(cohort).cases[0].images[0]
    (tmp_path / "cases.csv").write_text(f"image,target_age\n{image},{cell}\n")
    with pytest.raises(UsageError, match=f"target_age: '{cell}' is no finite number") as caught:
        import_dataset(tmp_path / "cases.csv", out=tmp_path / "m.json")
    assert caught.value.code == "E-TABLE"


def test_a_datalist_gives_targets(cohort, tmp_path):
    images = [str(case.images[0]) for case in read_manifest(cohort).cases[:2]]
    entries = [{"image": images[0], "target_age": 40, "site": "A"}, {"image": images[1], "target_age": None}]
    (tmp_path / "list.json").write_text(json.dumps({"training": entries}))
    dataset = import_dataset(tmp_path / "list.json", out=tmp_path / "m.json", targets={"age": "years"})
    assert [case.values for case in dataset.cases] == [{"age": 40}, {}]
    assert dataset.cases[0].attributes == {"site": "A"}


def test_an_export_answers_the_same_number_and_says_how_to_read_it(aged, cohort, tmp_path):
    pytest.importorskip("openvino")
    _, _, made = aged
    case = min((cohort.parent / "images").glob("*.nii.gz"))
    record = export(made.bundle, tmp_path / "out", form="openvino", case=[case])
    (check,) = record.checks
    assert check.class_difference < 1e-3
    (port,) = next(part for part in record.parts if part.what == "classification").outputs
    target = read_bundle(made.bundle).plan.classification.targets["age"]
    assert (port.name, port.shape) == ("age", (1, 1))
    assert port.meaning == f"times {target.std:.9g} plus {target.mean:.9g} years"


def test_nothing_is_chosen_by_numbers_alone(cohort, tmp_path, monkeypatch):
    _manifest(cohort, tmp_path / find_best.HELD_BACK, [50.0, 60.0], labels={}, lesion_labels=())
    monkeypatch.setattr(find_best, "_records", lambda _: {})
    with pytest.raises(UsageError, match="cannot choose by numbers alone"):
        find_best.find_best(
            Workspace(tmp_path / "work"),
            [tmp_path],
            tmp_path / "out",
            None,
        )
    assert not (tmp_path / "out").exists()
