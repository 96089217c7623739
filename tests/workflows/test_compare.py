"""Two evaluations held against each other: numbers, sentences, refusals, and the way from masks to the page."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from medseg.core.comparison import ComparisonReport
from medseg.core.errors import InputError, UsageError
from medseg.core.findings import (
    CaseFailure,
    CaseReport,
    ClassAnswer,
    CohortReport,
    GridSummary,
    LabelMetrics,
    Provenance,
)
from medseg.core.settings import EvaluateSettings
from medseg.data.manifest import read_manifest
from medseg.io.documents import read_document
from medseg.io.volumes import read_labels, write_labels
from medseg.ops.statistics import summarise_labels
from medseg.workflows.compare import Scoring, compare, forecast_compare
from medseg.workflows.workspace import Workspace

GRID = GridSummary(shape=(10, 10, 10), spacing_mm=(1, 1, 2), axis_codes="RAS")


def provenance(**changes) -> Provenance:
    values = {
        "medseg_version": "1",
        "created": "2026-01-02T03:04:05Z",
        "dataset": "d",
        "settings": {"tolerance_mm": 1.0},
    }
    return Provenance.model_validate(values | changes)


def row(label, dice, *, presence="both", reference_volume_ml=10.0) -> LabelMetrics:
    return LabelMetrics(
        label=label, presence=presence, dice=dice, iou=dice / (2 - dice), precision=dice, recall=dice, nsd=dice,
        hd_mm=100 * (1 - dice), hd95_mm=50 * (1 - dice), assd_mm=10 * (1 - dice), tolerance_mm=1, volume_ml=9,
        reference_volume_ml=reference_volume_ml,
    )  # fmt: skip


def cohort_of(dices: dict[str, list[float]], *, malignant: list[float] | None = None, **changes) -> CohortReport:
    """One case per number; every second case is malignant."""
    cases = []
    for n in range(len(next(iter(dices.values())))):
        p = None if malignant is None else malignant[n]
        answer = () if p is None else (
            ClassAnswer(head="type", probabilities={"benign": 1 - p, "malignant": p},
                        reference=("benign", "malignant")[n % 2]),
        )  # fmt: skip
        cases.append(
            CaseReport(
                case=f"c{n}", patient=f"p{n}", grid=GRID, reference_sha256=f"hash {n}", volumes_ml={}, classes=answer,
                metrics=tuple(row(label, values[n]) for label, values in dices.items()), provenance=provenance(),
            )
        )  # fmt: skip
    values = {
        "name": "d", "num_cases": len(cases), "mean_dice": None, "classes": (), "cases": tuple(cases),
        "labels": summarise_labels([(case.patient, one) for case in cases for one in case.metrics]),
        "provenance": provenance(),
    }  # fmt: skip
    return CohortReport.model_validate(values | changes)


@pytest.fixture
def run(tmp_path):
    """Write two cohorts with a page per case, and compare them."""

    def call(first: CohortReport, second: CohortReport, **options):
        for name, report in (("old", first), ("new", second)):
            (tmp_path / name / "cases").mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "cohort.json").write_text(report.to_json())
            for case in report.cases:
                (tmp_path / name / "cases" / f"{case.case}.html").write_text("page")
        return compare((tmp_path / "old", tmp_path / "new"), tmp_path / "out", **options)

    return call


def changed(report: CohortReport, position: int, **changes) -> CohortReport:
    cases = list(report.cases)
    cases[position] = cases[position].model_copy(update=changes)
    return report.model_copy(update={"cases": tuple(cases)})


BEFORE = [0.80, 0.82, 0.75, 0.90, 0.70, 0.85, 0.78, 0.88, 0.81, 0.79]
AFTER = [0.82, 0.85, 0.76, 0.92, 0.74, 0.86, 0.81, 0.90, 0.86, 0.78]


def contrast(report: ComparisonReport, subject: str, metric: str):
    return next(one for one in report.contrasts if (one.subject, one.metric) == (subject, metric))


def test_a_clear_gain_is_told_in_numbers_and_in_words(run, tmp_path):
    made = run(cohort_of({"liver": BEFORE}), cohort_of({"liver": AFTER}))
    dice = contrast(made.report, "liver", "dice")
    assert dice.difference == pytest.approx(0.022)
    assert (dice.num_better, dice.num_worse, dice.verdict) == (9, 1, "second_better")
    assert dice.low < 0.022 < dice.high
    sentence = made.report.headline[0]
    assert sentence.startswith("new is better than old in Dice of liver: higher by 0.022 (95 % interval 0.0")
    assert sentence.endswith("new is ahead in 9 cases, behind in 1.")
    distance = contrast(made.report, "liver", "hd95_mm")
    assert (distance.difference, distance.unit) == (pytest.approx(-1.1), "mm")
    assert (distance.verdict, distance.num_better) == ("second_better", 9)
    assert "lower by 1.10 mm" in distance.sentence
    back = run(cohort_of({"liver": AFTER}), cohort_of({"liver": BEFORE})).report
    assert contrast(back, "liver", "dice").verdict == "first_better"
    assert "old is ahead in 9 cases, behind in 1" in back.headline[0]
    assert read_document(tmp_path / "out" / "comparison.json", ComparisonReport) == back


def test_links_lead_from_the_comparison_to_both_pages(run, tmp_path):
    made = run(cohort_of({"liver": BEFORE}), cohort_of({"liver": AFTER}))
    case = made.report.cases[0]
    assert (case.first_page, case.second_page) == ("../old/cases/c0.html", "../new/cases/c0.html")
    assert (made.page.parent / case.second_page).is_file()
    assert made.report.first.page is None  # no index.html was made
    assert 'href="../new/cases/c0.html"' in made.page.read_text()
    rows = list(csv.DictReader((tmp_path / "out" / "comparison-cases.csv").read_text().splitlines()))
    assert len(rows) == 10 * 6
    assert float(rows[0]["new"]) - float(rows[0]["old"]) == pytest.approx(float(rows[0]["difference"]))
    assert len((tmp_path / "out" / "comparison.csv").read_text().splitlines()) == 1 + 6


def test_noise_is_called_noise_with_what_it_would_take(run):
    noise = np.random.default_rng(3).normal(0, 0.03, 10)
    report = run(
        cohort_of({"liver": BEFORE}), cohort_of({"liver": list(np.array(BEFORE) + noise - noise.mean() + 0.002)})
    ).report
    dice = contrast(report, "liver", "dice")
    assert dice.verdict == "not_distinguishable"
    assert dice.patients_needed > 100
    assert dice.detectable_difference == pytest.approx(2.801585 * noise.std(ddof=1) / np.sqrt(10))
    assert "cannot be told apart" in dice.sentence
    assert f"takes about {dice.patients_needed} patients" in dice.sentence


def test_a_few_large_losses_against_many_small_gains_are_undecided(run):
    gained = [value + 0.01 for value in BEFORE]
    many = cohort_of({"liver": BEFORE * 3}), cohort_of({"liver": [*gained, *gained, *gained[:7], 0.1, 0.82, 0.83]})
    assert contrast(run(*many).report, "liver", "dice").verdict == "undecided"


def test_five_patients_prove_nothing(run):
    report = run(cohort_of({"liver": BEFORE[:5]}), cohort_of({"liver": [value + 0.05 for value in BEFORE[:5]]})).report
    assert {one.verdict for one in report.contrasts} == {"too_few"}
    assert report.headline[0].startswith("Nothing can be concluded from 5 patients")
    assert "at least 6" in report.headline[0]


def test_the_same_model_is_identical(run):
    report = run(cohort_of({"liver": BEFORE}), cohort_of({"liver": BEFORE})).report
    assert {one.verdict for one in report.contrasts} == {"identical"}
    assert "the same in Dice of liver in all 10 cases" in report.headline[0]


def test_several_labels_are_corrected_together_and_summed_up(run):
    steady = [0.9] * 9 + [0.91]
    first = cohort_of({"liver": BEFORE, "spleen": [0.9] * 10, "tumour": AFTER})
    report = run(first, cohort_of({"liver": AFTER, "spleen": steady, "tumour": BEFORE})).report
    liver = contrast(report, "liver", "dice")
    assert liver.num_tests == 3
    assert liver.p_holm == pytest.approx(3 * liver.p)
    assert "by Holm over 3 tests" in liver.sentence
    assert report.headline[-1] == (
        "Dice label by label: new is better for liver; old is better for tumour; no difference shown for spleen."
    )
    overall = contrast(report, "all labels", "dice")
    assert (overall.kind, overall.num_tests) == ("case", 1)
    assert overall.difference == pytest.approx(0.001 / 3)


def test_a_head_is_compared_by_accuracy_brier_and_area(run):
    rng = np.random.default_rng(1)
    truth = np.arange(10) % 2
    vague, sure = np.clip(0.5 + (truth - 0.5) * 0.2 + rng.normal(0, 0.2, 10), 0.05, 0.95), 0.1 + 0.8 * truth
    report = run(
        cohort_of({"liver": BEFORE}, malignant=list(vague)), cohort_of({"liver": BEFORE}, malignant=list(sure))
    ).report
    accuracy, brier, area = (contrast(report, "type", name) for name in ("accuracy", "brier", "auroc"))
    assert accuracy.second == 1
    assert accuracy.first == pytest.approx(np.mean((vague > 0.5) == truth))
    assert (brier.first, brier.second) == (pytest.approx(((vague - truth) ** 2).mean()), pytest.approx(0.01))
    assert (brier.better, brier.num_better) == ("lower", int((np.abs(vague - truth) > 0.1 + 1e-9).sum()))
    assert (area.test, area.second) == ("delong", 1)
    assert area.first == pytest.approx(np.mean([a > b for a in vague[truth == 1] for b in vague[truth == 0]]))
    assert any("AUROC of type" in sentence for sentence in report.headline)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda c: changed(c, 2, reference_sha256="other"), "E-COMPARE-REFERENCE", "c2 (another file)"),
        (lambda c: changed(c, 2, reference_sha256=None), "E-COMPARE-REFERENCE", "does not say which reference"),
        (
            lambda c: changed(c, 1, metrics=(row("liver", 0.5, reference_volume_ml=11),)),
            "E-COMPARE-REFERENCE",
            "c1 (another volume of a label)",
        ),
        (
            lambda c: changed(c, 0, classes=(c.cases[0].classes[0].model_copy(update={"reference": "malignant"}),)),
            "E-COMPARE-REFERENCE",
            "c0 (another class)",
        ),
        (
            lambda c: c.model_copy(update={"provenance": provenance(settings={"tolerance_mm": 2.0})}),
            "E-COMPARE-SETTINGS",
            "tolerance_mm 1.0 and 2.0",
        ),
        (lambda c: c.model_copy(update={"cases": c.cases[:7]}), "E-COMPARE-CASES", "c7, c8, c9 only in the first"),
        (lambda c: changed(c, 0, case="x"), "E-COMPARE-CASES", "c0 only in the first; x only in the second"),
    ],
)
def test_what_was_not_measured_alike_is_refused_and_nothing_written(run, tmp_path, change, code, words):
    first = cohort_of({"liver": BEFORE}, malignant=BEFORE)
    with pytest.raises(UsageError, match=code) as caught:
        run(first, change(cohort_of({"liver": AFTER}, malignant=BEFORE)))
    assert words in str(caught.value)
    assert caught.value.remedy
    assert list((tmp_path / "out").iterdir()) == []


def test_common_compares_what_both_have_and_says_what_is_left_out(run):
    first = cohort_of({"liver": BEFORE, "spleen": BEFORE})
    second = cohort_of({"liver": AFTER[:8], "tumour": AFTER[:8]})
    with pytest.raises(UsageError, match="label spleen only in the first; label tumour only in the second"):
        run(first.model_copy(update={"cases": first.cases[:8]}), second)
    report = run(first, second, common=True).report
    assert len(report.cases) == 8
    assert report.first.only_here == ("c8", "c9", "label spleen")
    assert report.second.only_here == ("label tumour",)
    assert {one.subject for one in report.contrasts} == {"liver"}
    with pytest.raises(UsageError, match="0 cases in both"):
        run(changed(cohort_of({"liver": [0.5]}), 0, case="x"), cohort_of({"liver": [0.5]}), common=True)


def test_no_interval_leaves_what_the_images_allow(run):
    """Two of 24 missed: the bootstrap's tail would reach far beyond the image's diagonal, sqrt(10² + 10² + 20²) mm."""
    after = [0.90 + 0.002 * n for n in range(24)]
    before = [0.01 if n in (3, 9) else value - 0.02 - 0.001 * (n % 3) for n, value in enumerate(after)]
    report = run(cohort_of({"liver": before}), cohort_of({"liver": after})).report
    for one in report.contrasts:
        limit = 24.5 if one.unit else 1
        assert -limit <= one.low <= one.high <= limit


def test_versions_and_failures_are_borne_in_mind(run):
    failed = (CaseFailure(case="bad", code="E-X", message="m"),)
    first = cohort_of({"liver": BEFORE}, failures=failed, provenance=provenance(medseg_version="2"))
    report = run(first, cohort_of({"liver": AFTER}, failures=failed)).report
    assert any("different versions" in note for note in report.notes)
    assert any("bad" in note for note in report.notes)


def test_what_no_number_depends_on_does_not_make_two_measurements_differ(run):
    settings = {"tolerance_mm": 1.0, "pictures": False, "split": "test", "mode": "surface"}
    assert run(cohort_of({"liver": BEFORE}), cohort_of({"liver": AFTER}, provenance=provenance(settings=settings)))


def test_names_can_be_given_and_default_to_the_folders(run, tmp_path):
    report = run(cohort_of({"liver": BEFORE}), cohort_of({"liver": AFTER}), names=("baseline", "ours")).report
    assert report.headline[0].startswith("ours is better than baseline")
    for name in ("a", "b"):
        (tmp_path / name / "reports").mkdir(parents=True)
        (tmp_path / name / "reports" / "cohort.json").write_text(cohort_of({"liver": BEFORE}).to_json())
    same = compare((tmp_path / "a" / "reports", tmp_path / "b" / "reports"), tmp_path / "out")
    assert (same.report.first.name, same.report.second.name) == ("a", "b")


def test_masks_are_evaluated_first(cohort, tmp_path):
    for name in ("one", "two"):
        for case in read_manifest(cohort).cases:
            mask = read_labels(case.label)
            moved = np.roll(mask.array, 1, axis=0) if name == "two" else mask.array
            write_labels(type(mask)(moved, mask.geometry), tmp_path / name / f"{case.id}.nii.gz")
    sides = (tmp_path / "one", tmp_path / "two")
    with pytest.raises(UsageError, match="E-NO-COHORT"):
        compare(sides, tmp_path / "out")
    scoring = Scoring(Workspace(tmp_path / "work"), cohort, EvaluateSettings(pictures=False))
    rows = dict(forecast_compare(sides, tmp_path / "out", scoring=scoring).rows)
    assert "evaluated first" in rows["first"]
    made = compare(sides, tmp_path / "out", scoring=scoring)
    assert contrast(made.report, "organ", "dice").verdict == "first_better"
    assert contrast(made.report, "organ", "dice").first == 1
    assert made.report.cases[0].first_page.startswith("first/cases/")
    finished = (tmp_path / "out" / "first", tmp_path / "out" / "second")
    with pytest.raises(UsageError, match="E-OPTION"):
        compare(finished, tmp_path / "again", scoring=scoring)
    assert forecast_compare(finished, tmp_path, scoring=None).rows[0][1].startswith("8 cases")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="E-NOT-FOUND"):
        compare((tmp_path / "a", tmp_path / "b"), tmp_path / "out")
