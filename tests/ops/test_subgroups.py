"""The cohort cut by attributes and sizes, by hand."""

import pytest

from medseg.core.findings import CaseReport, ClassAnswer, GridSummary, LabelMetrics, Provenance
from medseg.ops.statistics import estimate
from medseg.ops.subgroups import MISSING, attribute_groups, subgroup_summaries

GRID = GridSummary(shape=(4, 4, 4), spacing_mm=(1, 1, 1), axis_codes="RAS")
MADE = Provenance(medseg_version="1", created="2026-01-01T00:00:00Z")


def row(label, dice, volume_ml=5.0, presence="both"):
    numbers = dict.fromkeys(("iou", "precision", "recall", "nsd"), dice) | dict.fromkeys(
        ("hd_mm", "hd95_mm", "assd_mm"), 1
    )
    return LabelMetrics(
        label=label, presence=presence, dice=dice, tolerance_mm=1, volume_ml=1, reference_volume_ml=volume_ml, **numbers
    )


def case(name, patient, dice, *, right=True, volume_ml=5.0, presence="both", **attributes):
    answer = ClassAnswer(head="kind", probabilities={"a": 0.9, "b": 0.1}, reference="a" if right else "b")
    return CaseReport(
        case=name, patient=patient, grid=GRID, volumes_ml={}, metrics=(row("organ", dice, volume_ml, presence),),
        classes=(answer,), attributes=attributes, provenance=MADE,
    )  # fmt: skip


def test_each_value_is_a_group_and_what_is_not_given_is_one_too():
    reports = [
        case("1", "p", 0.9, site="A"),
        case("2", "p", 0.5, site="A", right=False),
        case("3", "q", 0.7, site="B"),
        case("4", "r", 0.0, presence="missed"),
    ]
    rows, not_grouped = subgroup_summaries(reports)
    assert [(one.attribute, one.group, one.num_cases, one.num_patients) for one in rows] == [
        ("site", "A", 2, 1),
        ("site", "B", 1, 1),
        ("site", MISSING, 1, 1),
    ]
    first = rows[0]
    assert first.dice["organ"] == first.mean_dice == estimate([0.9, 0.5], ["p", "p"], bounds=(0, 1))
    assert first.accuracy["kind"].mean == 0.5
    assert rows[2].num_missed == 1
    assert not_grouped == {}


def test_patients_are_what_is_resampled():
    twice = [case(str(n), f"p{n // 2}", 0.1 * (n % 9), site="A" if n < 20 else "B") for n in range(40)]
    (first, _), _ = subgroup_summaries(twice)
    values = [0.1 * (n % 9) for n in range(20)]
    expected = estimate(values, [f"p{n // 2}" for n in range(20)], bounds=(0, 1))
    assert first.mean_dice.model_dump() == pytest.approx(expected.model_dump())
    assert (first.num_cases, first.num_patients) == (20, 10)


def test_numbers_of_many_values_are_cut_into_quarters():
    ages = ["041Y", "42", "43", "44", "45", "46", "47", "48", "", "50"]
    groups, reason = attribute_groups(ages)
    assert reason == ""
    assert list(groups) == ["below 43", "from 43, below 45", "from 45, below 47", "from 47", MISSING]
    assert groups["below 43"] == [0, 1]
    assert groups[MISSING] == [8]
    assert sorted(n for cases in groups.values() for n in cases) == list(range(10))


@pytest.mark.parametrize(
    ("values", "words"),
    [(["CT"] * 5, "the same for all"), ([f"text {n}" for n in range(20)], "20 different values, at most 12")],
)
def test_what_makes_no_table_says_why(values, words):
    groups, reason = attribute_groups(values)
    assert groups == {}
    assert words in reason
    reports = [case(str(n), str(n), 0.5, note=value) for n, value in enumerate(values)]
    assert words in subgroup_summaries(reports)[1]["note"]


def test_sizes_are_thirds_of_the_reference_volume_of_one_label():
    reports = [case(str(n), str(n), 0.1 * n, volume_ml=float(n)) for n in range(1, 10)]
    rows, _ = subgroup_summaries([*reports, case("none", "none", 0.0, volume_ml=0.0, presence="invented")])
    assert [(one.attribute, one.group, one.num_cases) for one in rows] == [
        ("size of organ", "small, up to 3.67 ml", 3),
        ("size of organ", "medium, up to 6.33 ml", 3),
        ("size of organ", "large, above 6.33 ml", 3),
    ]
    assert [one.dice["organ"].mean for one in rows] == pytest.approx([0.2, 0.5, 0.8])
    assert all(one.mean_dice is None and one.accuracy == {} for one in rows)


def test_few_cases_have_no_size_groups():
    assert subgroup_summaries([case(str(n), str(n), 0.5, volume_ml=float(n)) for n in range(1, 6)]) == ((), {})
