"""`medseg evaluate` on masks of any origin: label maps, folders, grids, lesions, processes, nothing half written."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from medseg.core.case import Case, Dataset
from medseg.core.errors import GeometryError, InputError, UsageError
from medseg.core.findings import CasePrediction, CaseReport, ClassAnswer, CohortReport, GridSummary, Provenance
from medseg.core.geometry import Geometry
from medseg.core.settings import EvaluateSettings
from medseg.core.volume import LabelMap, Volume
from medseg.data.manifest import write_manifest
from medseg.io.documents import read_document
from medseg.io.volumes import write_labels, write_volume
from medseg.workflows import evaluate_case
from medseg.workflows.evaluate import evaluate
from medseg.workflows.forecast import forecast_evaluate
from medseg.workflows.workspace import Workspace

TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
GRID = Geometry.from_parts((20, 18, 12), (1.0, 1.5, 3.0), TURN, (-40, 12, 300))
QUICK = EvaluateSettings(pictures=False, jobs=1)


def reference() -> np.ndarray:
    """An organ (1) and two lesions (2) in it: 12 and 8 voxels of 4.5 mm3."""
    mask = np.zeros(GRID.shape, np.uint8)
    mask[3:15, 3:15, 2:10] = 1
    mask[4:6, 4:7, 3:5] = 2
    mask[10:12, 10:12, 6:8] = 2
    return mask


def prediction() -> np.ndarray:
    """The organ is shifted by a voxel, the first lesion found, the second missed, one invented."""
    mask = np.zeros(GRID.shape, np.uint8)
    mask[4:16, 3:15, 2:10] = 1
    mask[4:6, 4:7, 3:5] = 2
    mask[8:9, 4:6, 7:8] = 2
    return mask


@pytest.fixture
def place(tmp_path):
    """Two cases: a manifest with images, folders of references and of predictions."""
    noise = np.random.default_rng(0).normal(0, 20, (1, *GRID.shape)).astype(np.int16)
    for name in ("a", "b"):
        write_volume(Volume(noise, GRID), tmp_path / "images" / f"{name}.nii.gz")
        write_labels(LabelMap(reference(), GRID), tmp_path / "references" / f"{name}.nii.gz")
        write_labels(LabelMap(prediction(), GRID), tmp_path / "predictions" / f"{name}.nii.gz")
    write_manifest(dataset(tmp_path), tmp_path / "manifest.json")
    return tmp_path


def dataset(folder, **changes) -> Dataset:
    values = {
        "name": "test",
        "labels": {"organ": 1, "lesion": 2},
        "cases": [
            Case(
                id=name,
                images=(folder / "images" / f"{name}.nii.gz",),
                label=folder / "references" / f"{name}.nii.gz",
                attributes={"site": name},
            )
            for name in ("a", "b")
        ],
    }
    return Dataset.model_validate(values | changes)


def run(place, settings=QUICK, *, out="out", predictions="predictions", against="manifest", **changes):
    chosen = {"manifest": place / "manifest.json"} if against == "manifest" else {"references": place / against}
    settings = EvaluateSettings.model_validate(settings.model_dump() | changes)
    return evaluate(Workspace(place / "work"), place / predictions, place / out, settings, **chosen)


def relabelled(place, table: dict[int, int]) -> None:
    lookup = np.zeros(256, np.uint8)
    lookup[list(table)] = list(table.values())
    for name in ("a", "b"):
        write_labels(LabelMap(lookup[prediction()], GRID), place / "other" / f"{name}.nii.gz")


def numbers(result):
    return [[row.model_dump() for row in case.metrics] for case in result.report.cases]


def test_another_tools_values_give_the_same_numbers(place):
    relabelled(place, {1: 5, 2: 6})
    expected = numbers(run(place))
    assert numbers(run(place, predictions="other", label_map=("organ=1:5,lesion=6",))) == expected
    result = run(place, predictions="other", label_map=("organ=5", "background=*", "lesion=2:7"))
    assert [row["presence"] for row in numbers(result)[0]] == ["both", "missed"]


def test_values_that_the_map_does_not_name_fail_the_case(place):
    relabelled(place, {1: 5, 2: 6})
    with pytest.raises(InputError, match="no label claims: 5, 6") as caught:
        run(place, predictions="other")
    assert caught.value.code == "E-NOTHING-TO-EVALUATE"
    write_labels(LabelMap(prediction(), GRID), place / "other" / "a.nii.gz")
    result = run(place, predictions="other")
    assert [(one.case, one.code) for one in result.report.failures] == [("b", "E-LABEL-UNKNOWN")]


def test_a_folder_of_references_is_enough(place):
    expected = numbers(run(place))
    result = run(place, against="references", labels={"organ": 1, "lesion": 2})
    assert numbers(result) == expected
    assert "<img" not in (place / "out" / "cases" / "a.html").read_text()
    assert [row["label"] for row in numbers(run(place, against="references"))[0]] == ["label_1", "label_2"]
    mapped = run(place, against="references", label_map=("organ=1:1",))
    assert [row["label"] for row in numbers(mapped)[0]] == ["organ", "label_2"]
    (place / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "tumour": 2}}))
    result = run(place, against="references", lesions=("tumour",))
    assert [row["label"] for row in numbers(result)[0]] == ["liver", "tumour"]
    assert result.report.lesions[0].label == "tumour"


def test_what_is_on_one_side_only_is_listed_and_counted(place):
    (place / "predictions" / "b.nii.gz").rename(place / "predictions" / "c.nii.gz")
    result = run(place, against="references")
    assert {one.case: one.code for one in result.report.failures} == {"b": "E-NO-PREDICTION", "c": "E-NO-REFERENCE"}
    assert result.report.num_cases == 3


def test_two_masks_of_one_case_are_refused(place):
    write_labels(LabelMap(prediction(), GRID), place / "predictions" / "a.nrrd")
    result = run(place)
    assert [(one.case, one.code) for one in result.report.failures] == [("a", "E-MASK-TWICE")]
    write_labels(LabelMap(reference(), GRID), place / "references" / "a.nrrd")
    with pytest.raises(InputError, match="two references") as caught:
        run(place, against="references")
    assert caught.value.code == "E-MASK-TWICE"


def test_other_grids_are_refused_until_allowed(place):
    fine = GRID.resized((40, 36, 24))
    doubled = prediction().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    for name in ("a", "b"):
        write_labels(LabelMap(doubled, fine), place / "fine" / f"{name}.nii.gz")
    with pytest.raises(InputError, match=r"grid of the reference: expected 20x18x12 .* found 40x36x24"):
        run(place, predictions="fine")
    expected, found = run(place), run(place, predictions="fine", resample_reference=True, pictures=True)
    for before, after in zip(numbers(expected)[0], numbers(found)[0], strict=True):
        assert after["dice"] == pytest.approx(before["dice"])
        assert after["volume_ml"] == pytest.approx(before["volume_ml"])
    flags = found.report.cases[0].flags
    assert [flag.split(":")[0] for flag in flags] == ["W-RESAMPLED", "W-RESAMPLED"]
    assert found.report.cases[0].grid.shape == (40, 36, 24)


def test_the_remedy_for_other_grids_is_named(place):
    moved = Geometry.from_parts(GRID.shape, GRID.spacing_mm, TURN, (-40, 17, 300))
    write_labels(LabelMap(prediction(), moved), place / "predictions" / "a.nii.gz")
    (failure,) = run(place).report.failures
    assert failure.code == "E-GRID-MISMATCH"
    assert "--resample-reference" in failure.remedy
    assert issubclass(GeometryError, InputError)


def test_masks_without_their_images_make_a_page_without_pictures(place):
    for path in (place / "images").iterdir():
        path.unlink()
    result = run(place, pictures=True)
    assert result.report.cases[0].flags == (evaluate_case.NO_IMAGE,)
    assert numbers(result) == numbers(run(place))


def test_lesions_are_counted_one_by_one(place):
    """Per case: the first lesion found exactly, the second missed, one of two voxels invented."""
    result = run(place, lesions=("lesion",))
    (detection,) = result.report.cases[0].lesions
    assert (detection.num_reference, detection.num_predicted, detection.num_matched) == (2, 2, 1)
    statuses = {one.status: one for one in detection.lesions}
    assert statuses["matched"].dice == 1
    assert statuses["matched"].centre_mm == pytest.approx(tuple(GRID.to_world((4.5, 5, 3.5))))
    assert statuses["invented"].volume_ml == pytest.approx(2 * 4.5 / 1000)
    (summary,) = result.report.lesions
    assert (summary.num_cases, summary.num_reference, summary.false_positives_per_case) == (2, 4, 1.0)
    assert summary.sensitivity == summary.precision == summary.f1 == 0.5
    assert summary.panoptic_quality == pytest.approx(0.5)
    assert summary.matched_dice == 1
    page = (place / "out" / "cases" / "a.html").read_text()
    assert "Lesions: lesion" in page
    assert "False positives per case" in (place / "out" / "index.html").read_text()


def test_the_manifest_names_the_lesions_and_the_settings_the_rules(place):
    write_manifest(dataset(place, lesion_labels=("lesion",)), place / "manifest.json")
    assert run(place).report.lesions[0].num_predicted == 4
    assert run(place, min_lesion_ml=0.01).report.lesions[0].num_predicted == 2
    assert run(place, lesions=()).report.lesions == ()
    assert run(place, lesion_criterion="overlap", lesion_threshold=1.0).report.lesions[0].num_matched == 2


def test_tolerances_percentiles_and_mode(place):
    result = run(place, tolerances_mm={"lesion": 2.5}, tolerance_mm=0.5, percentiles=(50, 99), mode="voxel")
    rows = {row.label: row for row in result.report.cases[0].metrics}
    assert (rows["organ"].tolerance_mm, rows["lesion"].tolerance_mm) == (0.5, 2.5)
    assert list(rows["organ"].percentiles_mm) == ["50", "99"]
    summary = result.report.labels[0]
    assert summary.percentiles_mm["99"].mean == rows["organ"].percentiles_mm["99"]
    assert summary.relative_volume_error.mean == pytest.approx(rows["organ"].relative_volume_error)
    assert "HD99, mm" in (place / "out" / "index.html").read_text()
    assert "hd99_mm" in (place / "out" / "cohort.csv").read_text().splitlines()[0]
    settings = result.report.cases[0].scoring.settings
    assert (settings["mode"], settings["tolerances_mm"], settings["percentiles"]) == (
        "voxel",
        "lesion=2.5",
        "50.0, 99.0",
    )


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"lesions": ("tumour",)}, "E-LABEL-NAME"),
        ({"tolerances_mm": {"tumour": 1.0}}, "E-LABEL-NAME"),
        ({"labels": {"organ": 1}}, "E-OPTION"),
        ({"label_map": ("spleen=4",)}, "E-LABEL-MAP"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_any_work(place, changes, code):
    with pytest.raises(UsageError) as caught:
        run(place, **changes)
    assert caught.value.code == code
    assert not (place / "out").exists()


def test_references_come_from_one_place(place):
    with pytest.raises(UsageError, match="both say"):
        evaluate(
            Workspace(place), place / "predictions", place / "out", QUICK,
            manifest=place / "manifest.json", references=place / "references",
        )  # fmt: skip


def test_a_cohort_without_references_is_refused(place):
    bare = [case.model_copy(update={"label": None}) for case in dataset(place).cases]
    write_manifest(dataset(place, cases=bare), place / "manifest.json")
    with pytest.raises(InputError, match="no case has a reference") as caught:
        run(place)
    assert caught.value.code == "E-NOTHING-TO-EVALUATE"
    (place / "empty").mkdir()
    with pytest.raises(InputError, match="no case has a reference"):
        run(place, against="empty")
    with pytest.raises(InputError) as caught:
        run(place, predictions="manifest.json")
    assert caught.value.code == "E-NOT-A-FOLDER"


def answered(place, name, probabilities, head="kind"):
    found = CasePrediction(
        case=name, mask=f"{name}.nii.gz", grid=GridSummary.of(GRID), labels={"organ": 1, "lesion": 2}, volumes_ml={},
        classes=(ClassAnswer(head=head, probabilities=probabilities),),
        provenance=Provenance(medseg_version="0", created="2026-01-01T00:00:00Z", settings={"overlap": 0.5}),
    )  # fmt: skip
    (place / "predictions" / f"{name}.json").write_text(found.to_json())


def test_nothing_found_is_an_empty_mask_and_not_a_missing_one(place):
    """DICOM segmentations cannot be empty: then only the prediction's record is there, and says so."""
    found = CasePrediction(
        case="a", mask=None, grid=GridSummary.of(GRID), labels={"organ": 1, "lesion": 2}, volumes_ml={},
        flags=("W-NO-SEGMENT: nothing was found",), provenance=Provenance(medseg_version="0", created="2026"),
    )  # fmt: skip
    for name in ("a", "b"):
        (place / "predictions" / f"{name}.nii.gz").unlink()
        record = found.model_copy(update={"case": name, "flags": found.flags if name == "a" else ()})
        (place / "predictions" / f"{name}.json").write_text(record.to_json())
    for changes in ({}, {"pictures": True}):
        result = run(place, **changes)
        (case,) = result.report.cases
        assert [(row.label, row.dice, row.volume_ml) for row in case.metrics] == [("organ", 0, 0), ("lesion", 0, 0)]
        assert case.metrics[1].reference_volume_ml == pytest.approx(20 * 4.5e-3)
        assert any(flag.startswith("W-NO-SEGMENT") for flag in case.flags)
        assert [(one.case, one.code) for one in result.report.failures] == [("b", "E-NO-PREDICTION")]


def with_heads(place, **heads):
    names = {head: values for head, (values, _) in heads.items()}
    classes = {head: own for head, (_, own) in heads.items()}
    cases = [case.model_copy(update={"classes": classes}) for case in dataset(place).cases]
    write_manifest(dataset(place, heads=names, cases=cases), place / "manifest.json")


def test_classes_that_the_references_do_not_have_fail_the_case(place):
    with_heads(place, kind=(("benign", "malignant"), "benign"))
    answered(place, "a", {"benign": 0.7, "malignant": 0.3})
    answered(place, "b", {"good": 0.7, "bad": 0.3})
    result = run(place)
    assert [(one.case, one.code) for one in result.report.failures] == [("b", "E-CLASS-NAME")]
    assert "good, bad" in result.report.failures[0].message
    assert result.report.classes[0].n == 1


def test_heads_without_an_answer_are_counted(place):
    with_heads(place, kind=(("benign", "malignant"), "benign"), grade=(("low", "high"), "low"))
    answered(place, "a", {"benign": 0.7, "malignant": 0.3})
    result = run(place)
    assert result.report.unanswered == {"kind": 1, "grade": 2}
    assert "grade: 2 cases have a reference and no answer" in (place / "out" / "index.html").read_text()
    by_case = {case.case: case.flags for case in result.report.cases}
    assert by_case["a"] == ("W-NO-ANSWER: the prediction says nothing of grade",)


def test_the_predictions_provenance_and_the_scorings_settings_are_both_kept(place):
    answered(place, "a", {"x": 1.0}, head="other")
    result = run(place)
    case = next(case for case in result.report.cases if case.case == "a")
    assert case.provenance.settings == {"overlap": 0.5}
    assert case.scoring.settings["tolerance_mm"] == 1.0
    assert "scoring: tolerance_mm" in (place / "out" / "cases" / "a.html").read_text()


def test_processes_give_what_one_process_gives(place):
    one = run(place, out="one", jobs=1)
    two = run(place, out="two", jobs=2)
    assert numbers(one) == numbers(two)
    written = read_document(place / "two" / "cohort.json", CohortReport)
    assert written == two.report


def test_a_failure_of_ours_is_named_and_costs_one_case(place, monkeypatch):
    def broken(report, *_, **__):
        if report.case == "a":
            message = "no such shape"
            raise ValueError(message)
        return ""

    monkeypatch.setattr(evaluate_case, "render_case", broken)
    result = run(place)
    assert [(one.case, one.code, one.message) for one in result.report.failures] == [
        ("a", "E-INTERNAL", "ValueError: no such shape")
    ]


def test_the_old_report_stays_until_the_new_one_is_complete(place):
    run(place)
    before = {path: path.read_bytes() for path in (place / "out").rglob("*") if path.is_file()}
    (place / "out" / "notes.txt").write_text("mine")
    for path in (place / "predictions").iterdir():
        path.unlink()
    with pytest.raises(InputError):
        run(place)
    assert {path: path.read_bytes() for path in (place / "out").rglob("*.*") if path.name != "notes.txt"} == before
    write_labels(LabelMap(prediction(), GRID), place / "predictions" / "b.nii.gz")
    run(place)
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        "cases", "cohort.csv", "cohort.json", "index.html", "notes.txt",
    ]  # fmt: skip
    assert sorted(path.name for path in (place / "out" / "cases").iterdir()) == ["b.html", "b.json"]


def test_case_reports_read_back(place):
    result = run(place, pictures=True, lesions=("lesion",))
    for case in result.report.cases:
        assert read_document(place / "out" / "cases" / f"{case.case}.json", CaseReport) == case


def test_subgroups_come_from_the_manifest(place):
    rows = run(place).report.subgroups
    assert [(row.attribute, row.group, row.num_cases) for row in rows] == [("site", "a", 1), ("site", "b", 1)]
    assert "By site" in (place / "out" / "index.html").read_text()


def test_the_forecast_counts_both_sides(place):
    (place / "predictions" / "b.nii.gz").rename(place / "predictions" / "c.nii.gz")
    forecast = forecast_evaluate(
        Workspace(place), place / "predictions", place / "out", QUICK, manifest=place / "manifest.json"
    )
    rows = dict(forecast.rows)
    assert (rows["cases with a reference"], rows["of these with a prediction"]) == ("2", "1")
    assert rows["predictions without a reference"] == "1"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_case_whose_process_is_killed_fails_and_the_others_are_scored(place, monkeypatch):
    """The killer is a module of its own, for the processes are spawned and import it by name."""
    (place / "deadly_attempt.py").write_text(
        "import os, signal\n"
        "from medseg.workflows.evaluate_case import attempt_case\n"
        "def attempt(item, *, scoring):\n"
        "    if item[0].id == 'b':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return attempt_case(item, scoring=scoring)\n"
    )
    monkeypatch.syspath_prepend(place)
    deadly = importlib.import_module("deadly_attempt")
    monkeypatch.setattr("medseg.workflows.evaluate.attempt_case", deadly.attempt)
    result = run(place, jobs=2)
    assert [case.case for case in result.report.cases] == ["a"]
    (failure,) = result.report.failures
    assert (failure.case, failure.code) == ("b", "E-WORKER")
    assert "stopped by SIGKILL" in failure.message


def test_a_worker_loads_no_heavy_library():
    code = (
        "import sys, medseg.workflows.evaluate; print([m for m in ('torch', 'monai', 'SimpleITK') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
