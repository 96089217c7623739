from __future__ import annotations

import numpy as np
import pytest

from medseg.core.findings import ClassSummary
from medseg.ops.scores import classification_summary
from medseg.report.plots import UNIT_X, UNIT_Y, Axis, dice_by_volume, metric_strips, nice_ticks, reliability, roc_curves


def summary(pairs: list[tuple[str, float]]) -> ClassSummary:
    scores = np.array([score for _, score in pairs])
    truth = np.array([name == "yes" for name, _ in pairs], dtype=int)
    return classification_summary("h", ("no", "yes"), np.stack([1 - scores, scores], axis=1), truth)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1)), (0, 4.4, (0, 1, 2, 3, 4)), (0, 71, (0, 10, 20, 30, 40, 50, 60, 70))],
)
def test_ticks_are_round(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_axis_places_values_and_holds_back_outliers() -> None:
    axis = Axis(1, 100, 0, 200, (), logarithmic=True)
    assert [axis.at(value) for value in (1, 10, 100, 1e6)] == [0, 100, 200, 200]
    assert Axis(0, 1, 250, 14, ()).at(0.5) == 132


def test_roc_with_ties_has_the_area_of_the_rank_statistic() -> None:
    # 3 positives x 3 negatives: 6 pairs won, 2 ties, 1 lost: (6 + 1) / 9
    given = summary([("yes", 0.9), ("yes", 0.6), ("yes", 0.4), ("no", 0.6), ("no", 0.4), ("no", 0.1)])
    (curve,) = roc_curves(given)
    assert curve.name == "yes"
    assert curve.note == f"area {7 / 9:.3f}"
    assert curve.path.startswith(f"M{UNIT_X.at(0)} {UNIT_Y.at(0)}L")
    assert curve.path.endswith(f"L{UNIT_X.at(1)} {UNIT_Y.at(1)}")


def test_no_roc_when_one_class_occurs() -> None:
    assert roc_curves(summary([("yes", 0.9), ("yes", 0.2)])) == []


def test_reliability_is_the_share_of_right_answers_by_confidence() -> None:
    plot = reliability(summary([("yes", 0.95), ("yes", 0.97), ("no", 0.98), ("no", 0.38)]))
    assert [point.text for point in plot.points] == [
        "1 answers with mean confidence 0.620: 1.000 right",
        "3 answers with mean confidence 0.967: 0.667 right",
    ]
    assert plot.points[1].y == UNIT_Y.at(2 / 3)
    assert plot.points[0].size < plot.points[1].size


def test_absent_structures_lie_apart_and_do_not_stretch_the_axis(make_cohort) -> None:
    cohort = make_cohort()
    estimates = {summary.label: summary.hd95_mm for summary in cohort.labels}
    plot = metric_strips("HD95", unit="mm", estimates=estimates, cases=cohort.cases, value_of=lambda row: row.hd95_mm)
    assert plot.num_absent == 1
    assert plot.axis.high < 4
    (absent,) = (point for strip in plot.strips for point in strip.points if point.absent)
    assert absent.x > plot.axis.stop
    assert absent.text == "case_000: 98.8 mm, missed"
    assert sum(len(strip.points) for strip in plot.strips) == 12


def test_labels_only_in_cases_do_not_break_the_strips(make_cohort) -> None:
    cohort = make_cohort()
    plot = metric_strips(
        "Dice", unit="", estimates={"organ": cohort.labels[0].dice}, cases=cohort.cases, value_of=lambda row: row.dice
    )
    assert [len(strip.points) for strip in plot.strips] == [6]


def test_scatter_leaves_out_what_has_no_reference_volume(make_cohort, make_case) -> None:
    cohort = make_cohort()
    scatter = dice_by_volume(["organ", "lesion"], cohort.cases)
    assert len(scatter.points) == 12
    assert {point.colour for point in scatter.points} == {0, 1}
    assert dice_by_volume(["organ"], [make_case(metrics=())]) is None
