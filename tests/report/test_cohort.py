from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import re

import pytest

from medseg.core.baseline import BaselineHead, BaselineModel, BaselineReport, MissingRegion, NetworkContrast
from medseg.core.detection import LesionSummary
from medseg.core.findings import ClassAnswer, ClassArea, MultiLabelSummary, SubgroupSummary
from medseg.report.cohort import cohort_csv, render_cohort

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def table(report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(cohort_csv(report), newline="")))


def test_page_is_sound_and_complete(make_cohort, inspect) -> None:
    page = render_cohort(make_cohort(), case_pages={"case_001": "cases/case_001.html"})
    faults, text = inspect(page)
    assert faults == []
    for shown in (
        "phantom", "Research use only",
        "0.765", "95 % CI 0.689–0.804, n = 6", "median 0.773 (0.727–0.781)",  # mean Dice
        "0.771", "0.694–0.810", "0.779 (0.733–0.787)",  # Dice per label
        "0.612", "8.34", "7.51–8.76", "4.56", "4.10–4.79", "1.23", "1.11–1.29", "0.835",
        "E-GZ-CRC", "case_900", "truncated", "Copy it again.", "1 failed",
        "0.833", "0.832", "0.829", "0.889", "0.601–0.988", "0.158", "0.223",  # classification
        "0.750", "0.990", "0.667", "0.857", "0.800",
        "Cases, worst first", "lesion missed", "is malignant", "9.8.7",
    ):  # fmt: skip
        assert shown in text, shown
    assert 'href="cases/case_001.html"' in page
    assert page.count('class="point') >= 3 * 12 + 12
    assert "area 0.889" in text
    assert "Collapsed" not in text


def test_only_our_script_may_run(make_cohort) -> None:
    page = render_cohort(make_cohort(), case_pages={})
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1))
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "unsafe" not in policy


def test_hostile_text_is_inert(make_cohort, make_case, inspect) -> None:
    answer = ClassAnswer(head=HOSTILE, probabilities={HOSTILE: 0.7, "b": 0.3}, reference="b")
    case = make_case(HOSTILE, patient=HOSTILE, flags=(HOSTILE,), classes=(answer,))
    cohort = make_cohort()
    summary = cohort.classes[0].model_copy(update={"head": HOSTILE, "classes": (HOSTILE, "b"), "roc": ()})
    failure = cohort.failures[0].model_copy(update={"case": HOSTILE, "message": HOSTILE})
    changes = {"name": HOSTILE, "cases": (case,), "classes": (summary,), "failures": (failure,)}
    page = render_cohort(cohort.model_copy(update=changes), case_pages={HOSTILE: "javascript:alert(1)"})
    faults, text = inspect(page)
    assert faults == []
    assert len(re.findall(r"<script", page)) == 1
    assert "<img" not in page
    assert "javascript:" not in page
    assert HOSTILE in text


def test_collapse_is_announced(make_cohort, inspect) -> None:
    cohort = make_cohort()
    summary = cohort.classes[0].model_copy(update={"collapsed": True})
    _, text = inspect(render_cohort(cohort.model_copy(update={"classes": (summary,)}), case_pages={}))
    assert "Collapsed classification. type: at least 95 %" in text


def test_classification_alone_has_no_segmentation_parts(make_cohort, make_case, inspect) -> None:
    cases = tuple(case.model_copy(update={"metrics": (), "volumes_ml": {}}) for case in make_cohort().cases)
    cohort = make_cohort(labels=(), mean_dice=None, cases=cases, failures=())
    faults, text = inspect(render_cohort(cohort, case_pages={}))
    assert faults == []
    assert "Dice" not in text
    assert "Classification: type" in text
    assert [row["label"] for row in table(cohort)] == [""] * 6
    assert table(cohort)[1]["type"] == "benign"


def test_empty_cohort_stands(make_cohort, inspect) -> None:
    cohort = make_cohort(labels=(), mean_dice=None, cases=(), classes=(), failures=(), num_cases=0)
    assert inspect(render_cohort(cohort, case_pages={}))[0] == []
    assert table(cohort) == []


def test_many_labels_show_the_worst_one(make_cohort, inspect) -> None:
    cohort = make_cohort()
    more = tuple(cohort.labels[0].model_copy(update={"label": f"part {n}"}) for n in range(5))
    faults, text = inspect(render_cohort(cohort.model_copy(update={"labels": (*cohort.labels, *more)}), case_pages={}))
    assert faults == []
    assert "Worst label" in text


def test_a_thousand_cases_stay_a_small_page(make_cohort) -> None:
    page = render_cohort(make_cohort(1000), case_pages={})
    assert len(page) < 3_000_000
    assert page.count("<tr>") >= 1000


def test_csv_has_every_number_of_every_case_and_label(make_cohort) -> None:
    cohort = make_cohort()
    rows = table(cohort)
    scored = [row for row in rows if row["presence"] in ("both", "missed")]
    assert len(scored) == 12
    first, metrics = scored[0], cohort.cases[0].metrics[0]
    for name, value in metrics.model_dump(
        exclude={"label", "presence", "percentiles_mm", "relative_volume_error"}
    ).items():
        assert float(first[name]) == value
    assert (first["case"], first["patient"], first["label"]) == ("case_000", "patient_9", "organ")
    assert (first["type"], first["type reference"], float(first["type p(malignant)"])) == (
        "benign", "benign", pytest.approx(0.1)
    )  # fmt: skip
    vessel = next(row for row in rows if row["label"] == "vessel")
    assert (vessel["presence"], vessel["dice"], float(vessel["volume_ml"])) == ("not scored", "", 3.21)
    assert rows[-1]["case"] == "case_900"
    assert rows[-1]["presence"] == "failed: E-GZ-CRC"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_runs_no_formula(make_cohort, make_case, start) -> None:
    formula = f'{start}HYPERLINK("x","y")'
    rows = table(make_cohort(cases=(make_case(formula, patient=formula, volumes_ml={formula: -1.5}, metrics=()),)))
    assert rows[0]["case"] == rows[0]["patient"] == rows[0]["label"] == f"'{formula}"
    assert rows[0]["volume_ml"] == "-1.5"


def test_csv_can_be_downloaded_from_the_page(make_cohort) -> None:
    cohort = make_cohort()
    page = render_cohort(cohort, case_pages={})
    encoded = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', page).group(1)
    assert base64.b64decode(encoded).decode() == cohort_csv(cohort)


def test_lesions_subgroups_areas_and_findings_together_are_shown(make_cohort, inspect) -> None:
    cohort = make_cohort()
    lesions = LesionSummary(
        label="lesion", num_cases=6, num_reference=9, num_predicted=8, num_matched=5, sensitivity=0.5556,
        precision=0.625, f1=0.5882, panoptic_quality=0.4321, false_positives_per_case=1.75, matched_dice=0.8123,
    )  # fmt: skip
    group = SubgroupSummary(
        attribute="site", group="<A>", num_cases=4, num_patients=3, mean_dice=cohort.mean_dice,
        dice={"organ": cohort.labels[0].dice, "lesion": cohort.labels[1].dice}, num_missed=2,
    )  # fmt: skip
    areas = {
        name: ClassArea(auroc=value, auroc_low=0.4, auroc_high=0.99, auprc=0.777)
        for name, value in (("a", 0.654), ("b", 0.765), ("c", None))
    }
    together = MultiLabelSummary(
        heads=("x", "y"), n=6, exact_match=0.3331, hamming_accuracy=0.6662, micro_f1=0.5553, macro_f1=0.4444,
        macro_auroc=None,
    )  # fmt: skip
    page = render_cohort(
        cohort.model_copy(
            update={
                "lesions": (lesions,),
                "subgroups": (group,),
                "not_grouped": {"note": "20 different values"},
                "multilabel": together,
                "unanswered": {"type": 3},
                "classes": (cohort.classes[0].model_copy(update={"areas": areas}),),
            }
        ),
        case_pages={},
    )
    faults, text = inspect(page)
    assert faults == []
    for shown in (
        "0.556", "0.625", "0.588", "1.75", "0.432", "0.812", "By site", "<A>", "note (20 different values)", "0.654",
        "0.765", "0.777", "x, y together", "0.333", "0.666", "0.555", "0.444",
        "type: 3 cases have a reference and no answer",
    ):  # fmt: skip
        assert shown in text, shown
    assert 'data-filter="cases"' in page


def test_csv_has_the_further_percentiles_and_seven_digits(make_cohort, make_case) -> None:
    cohort = make_cohort()
    row = cohort.cases[0].metrics[0].model_copy(update={"percentiles_mm": {"99": 1 / 3}, "dice": 2 / 3})
    labels = tuple(one.model_copy(update={"percentiles_mm": {"99": one.hd_mm}}) for one in cohort.labels)
    case = make_case(metrics=(row,))
    first = table(cohort.model_copy(update={"cases": (case,), "labels": labels}))[0]
    assert (first["hd99_mm"], first["dice"], first["relative_volume_error"]) == ("0.3333333", "0.6666667", "")


def beside(cohort, outcome: str) -> BaselineReport:
    """Two baselines that answer as the cohort's model does."""
    summary = cohort.classes[0]
    models = tuple(
        BaselineModel(
            family=family,
            features="radiomics",
            num_features=9,
            chosen={"C": 1.0},
            training_auroc=0.8123,
            summary=summary,
        )
        for family in ("forest", "svm")
    )
    contrast = NetworkContrast(
        baseline=models[0].title,
        auroc_difference=0.0123,
        auroc_low=-0.0456,
        auroc_high=0.0789,
        balanced_accuracy_difference=0.0321,
        balanced_accuracy_low=-0.0654,
        balanced_accuracy_high=0.0987,
        outcome=outcome,
        sentence="stage: the verdict in plain words.",
    )
    head = BaselineHead(
        head=summary.head,
        classes=summary.classes,
        num_training_cases=40,
        num_training_patients=33,
        num_judged_cases=6,
        num_judged_patients=5,
        models=models,
        network=summary,
        contrast=contrast,
    )
    return BaselineReport(
        name=cohort.name,
        model="another-model",
        judge="val",
        regions=("lesion",),
        region_words=f"radiomics under {HOSTILE}",
        heads=(head,),
        missing=(MissingRegion(label="lesion", training=("a", "b"), judged=("c",)),),
        failures=cohort.failures,
        provenance=cohort.provenance,
    )


def test_baselines_stand_beside_the_network(make_cohort, inspect) -> None:
    cohort = make_cohort()
    page = render_cohort(cohort, case_pages={}, baselines=beside(cohort, "not_distinguishable"))
    faults, text = inspect(page)
    assert faults == []
    for shown in (
        "Baselines beside the network", "Random forest", "Support vector machine", "The network", "0.812",
        "the verdict in plain words", "taught by 40 cases of 33", "another-model, not the model of this page",
        "−0.046", "0.079", "−0.065", "no mask in 2 training and 1 judged cases",
    ):  # fmt: skip
        assert shown in text, shown
    assert '<p class="alarm">stage: the verdict' in page
    assert HOSTILE not in page
    beaten = render_cohort(cohort, case_pages={}, baselines=beside(cohort, "network_better"))
    assert "<p>stage: the verdict" in beaten
    assert "Baselines" not in render_cohort(cohort, case_pages={})
