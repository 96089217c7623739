"""Hand-computed sums at the exact cut-offs of each criterion."""

from __future__ import annotations

import re

import pytest

from medseg.clinical.criteria import Criterion
from medseg.clinical.response import judge
from medseg.core.errors import UsageError
from medseg.core.followup import TrackedLesion
from medseg.core.measurements import Measurement
from medseg.workflows.config import packaged, read_yaml

CRITERIA = {path.stem: Criterion.parse(read_yaml(path)) for path in packaged("configs", "response").glob("*.yaml")}
RECIST = CRITERIA["recist11"]


def lesion(
    name,
    long_mm=None,
    *,
    short_mm=None,
    volume_ml=1.0,
    label="tumour",
    organ=None,
    state="stable",
    parents=(),
    merged_into=None,
    uncertainty_mm=0.0,
    is_cut_off=False,
):
    """A lesion at one examination; without a length it is not seen."""
    measurement = None
    if long_mm is not None:
        caliper = {"uncertainty_mm": uncertainty_mm, "ends_mm": ((0, 0, 0), (0, 0, 0))}
        measurement = Measurement.model_validate(
            {
                "id": name,
                "label": label,
                "kind": "lesion",
                "volume_ml": volume_ml,
                "volume_uncertainty_ml": 0.0,
                "centre_mm": (0, 0, 0),
                "long_axis": {"length_mm": long_mm, **caliper},
                "short_axis": {"length_mm": long_mm if short_mm is None else short_mm, **caliper},
                "feret": None,
                "organ": organ,
                "is_cut_off": is_cut_off,
            }
        )
    return TrackedLesion(
        id=name,
        number=1,
        label=label,
        tracking_uid="2.25.1",
        state=state,
        parents=parents,
        merged_into=merged_into,
        measurement=measurement,
    )


def gone(name, state="vanished", **options):
    return lesion(name, state=state, **options)


def base(name, long_mm, **options):
    return lesion(name, long_mm, state="baseline", **options)


def course(*examinations, criterion=RECIST):
    return judge([(f"scan_{number}", lesions) for number, lesions in enumerate(examinations)], criterion)


def categories(*examinations, criterion=RECIST):
    return [response.category for response in course(*examinations, criterion=criterion)[1]]


@pytest.mark.parametrize(
    ("before", "now", "category"),
    [
        (100, 70, "PR"),  # exactly 30.0 %
        (100, 70.1, "SD"),
        (100, 120, "PD"),  # exactly 20 % and more than 5 mm
        (100, 119.9, "SD"),
        (20, 24.9, "SD"),  # 24.5 % but 4.9 mm
        (20, 25, "PD"),  # exactly 5 mm
        (30, 35, "SD"),  # 5 mm but 16.7 %
        (25, 30, "PD"),  # exactly both
        (100, 100, "SD"),
    ],
)
def test_recist_cut_offs(before, now, category):
    assert categories([base("a", before)], [lesion("a", now)]) == [category]


def test_sums_of_tenths_reach_the_cut_off():
    before = [base("a", 10.1, organ="liver"), base("b", 10.2, organ="lung"), base("c", 12.7, organ="lung")]
    now = [lesion("a", 7.07), lesion("b", 7.14), lesion("c", 8.89)]
    _, (response,) = course(before, now)
    assert response.total == pytest.approx(23.1)
    assert response.change_from_baseline == pytest.approx(-0.3)
    assert response.category == "PR"


def test_the_nadir_decides_over_four_examinations():
    sums = (100, 60, 66, 72)
    _, responses = course(
        *([lesion("a", value, state="baseline" if not n else "stable")] for n, value in enumerate(sums))
    )
    assert [response.category for response in responses] == ["PR", "PR", "PD"]
    last = responses[-1]
    assert (last.nadir_total, last.nadir_at) == (60, "scan_1")
    assert last.change_from_nadir == pytest.approx(0.2)
    assert last.change_from_baseline == pytest.approx(-0.28)
    assert last.decided_by == "the sum is 12 mm (+20.0%) above its smallest value before, at scan_1"


def test_at_most_five_targets_and_two_of_an_organ():
    lesions = [
        *(base(f"liver-{n}", 50 - n, organ="liver") for n in range(1, 4)),
        *(base(f"lung-{n}", 40 - n, organ="lung") for n in range(1, 4)),
        base("bone-1", 10, organ="bone"),
        base("skin-1", 9.99, organ="skin"),
        base("kidney-1", 30, organ="kidney"),
    ]
    targets, _ = course(lesions, lesions)
    assert targets == ("liver-1", "liver-2", "lung-1", "lung-2", "kidney-1")
    assert course(lesions[6:], lesions)[0] == ("kidney-1", "bone-1")


def test_nodes_count_by_their_short_axis():
    node = {"label": "lymph_node"}
    before = [base("n", 30, short_mm=15, **node), base("m", 40, short_mm=14.9, **node), base("a", 20)]
    targets, (response,) = course(
        before, [lesion("n", 28, short_mm=9.9, **node), lesion("m", 30, short_mm=9, **node), gone("a")]
    )
    assert targets == ("a", "n")
    assert (response.baseline_total, response.total) == (35, 9.9)
    assert response.category == "CR"
    assert response.decided_by == "every lesion of the baseline is gone or a normal node"
    now = [lesion("n", 28, short_mm=10, **node), lesion("m", 30, short_mm=9, **node), gone("a")]
    assert categories(before, now) == ["PR"]


def test_complete_response_needs_every_lesion_gone():
    before = [base("a", 20), base("b", 8)]
    assert categories(before, [gone("a"), gone("b")]) == ["CR"]
    _, (response,) = course(before, [gone("a"), lesion("b", 8)])
    assert response.category == "PR"
    assert "b" in response.decided_by


def test_growth_after_a_complete_response_is_progression():
    returned = lesion("a", 8, state="reappeared")
    assert categories([base("a", 20)], [gone("a")], [returned]) == ["CR", "PD"]


def test_a_new_lesion_is_progression_unless_it_is_small():
    before, late = [base("a", 50)], lesion("b", 6, state="new")
    _, (first, second) = course(before, [lesion("a", 10), late], [lesion("a", 10), lesion("b", 6)])
    assert (first.category, first.new_lesions) == ("PD", ("b",))
    assert "1 new lesion (b)" in first.decided_by
    assert second.category == "PD"
    _, (response,) = course(before, [lesion("a", 30), lesion("b", 4.9, state="new")])
    assert response.category == "PR"
    assert response.notes == ("new, but normal nodes or shorter than 5 mm, for a reader to judge: b",)
    node = lesion("n", 20, short_mm=9, label="node", state="new")
    assert categories(before, [lesion("a", 50), node]) == ["SD"]


def test_parts_of_a_split_are_added_and_a_merger_counts_once():
    before = [base("a", 40, organ="x"), base("b", 20, organ="y"), base("c", 20, organ="z")]
    split = [
        lesion("a", 18, state="split", parents=("a",)),
        lesion("d", 15, state="split", parents=("a",)),
        lesion("b", 35, state="merged", parents=("b", "c")),
        gone("c", "merged", merged_into="b"),
    ]
    later = [lesion("a", 10), lesion("d", 10), lesion("b", 30), gone("c", "merged", merged_into="b")]
    targets, (first, second) = course(before, split, later)
    assert targets == ("a", "b", "c")
    assert (first.total, second.total) == (68, 50)
    assert [target.value for target in first.targets] == [33, 35, 0]
    assert [target.remark for target in first.targets] == ["sum of 2 parts", "", "counted with b"]
    assert first.new_lesions == ()
    assert (first.category, second.category) == ("SD", "PR")


def test_what_cannot_be_judged_is_said():
    _, (response,) = course([base("a", 20), base("b", 30)], [lesion("a", 20), gone("b", "not covered")])
    assert (response.category, response.total, response.change_from_baseline) == ("NE", None, None)
    assert response.decided_by == "1 target (b) outside the image"
    # what can be measured has already grown beyond the cut-off
    assert categories([base("a", 20), base("b", 30)], [lesion("a", 61), gone("b", "not covered")]) == ["PD"]
    _, (response,) = course([base("a", 9)], [lesion("a", 9)])
    assert response.category == "NE"
    assert response.decided_by.startswith("no measurable lesion at the baseline")
    assert (response.total, response.baseline_total, response.nadir_total) == (None, None, None)
    _, (response,) = course([], [])
    assert response.decided_by.startswith("no lesion at the baseline")
    assert categories([], [lesion("a", 12, state="new")]) == ["PD"]
    _, (response,) = course([base("a", 20)], [lesion("a", 20, is_cut_off=True)])
    assert response.notes == ("a: reaches the border of the image",)


@pytest.mark.parametrize(
    ("now", "uncertainty", "borderline"), [(69, 0.5, True), (65, 0.5, False), (119, 0.5, True), (95, 0.5, False)]
)
def test_a_cut_off_within_the_uncertainty_is_borderline(now, uncertainty, borderline):
    # hypot(.5, .7 * .5) = .61 about 70 and hypot(.5, 1.2 * .5) = .78 about 120
    now = now + 0.5
    _, (response,) = course([base("a", 100, uncertainty_mm=0.5)], [lesion("a", now, uncertainty_mm=uncertainty)])
    assert response.borderline is borderline
    assert response.uncertainty == pytest.approx(uncertainty)


@pytest.mark.parametrize(
    ("criterion", "before", "now", "category"),
    [
        ("rano_hgg", (20, 20), (20, 10), "PR"),  # 400 -> 200 mm2: exactly 50 %
        ("rano_hgg", (20, 20), (20, 10.1), "SD"),
        ("rano_hgg", (20, 20), (25, 20), "PD"),  # exactly 25 %
        ("rano_hgg", (20, 20), (24.9, 20), "SD"),
        ("rano_hgg", (20, 9.9), (40, 40), "NE"),  # not measurable: both diameters count
    ],
)
def test_rano_uses_the_product(criterion, before, now, category):
    chosen = CRITERIA[criterion]
    assert categories(
        [base("a", before[0], short_mm=before[1])], [lesion("a", now[0], short_mm=now[1])], criterion=chosen
    ) == [category]


@pytest.mark.parametrize(
    ("criterion", "volume_ml", "category"),
    [
        ("volumetric_recist", 34.0, "PR"),
        ("volumetric_recist", 34.1, "SD"),
        ("volumetric_recist", 173.0, "PD"),
        ("volumetric_recist", 172.9, "SD"),
        ("volumetric_macdonald", 35.0, "PR"),
        ("volumetric_macdonald", 35.1, "SD"),
        ("volumetric_macdonald", 140.0, "PD"),
        ("volumetric_macdonald", 139.9, "SD"),
    ],
)
def test_volumetric_criteria(criterion, volume_ml, category):
    chosen = CRITERIA[criterion]
    before, now = [base("a", 50, volume_ml=100.0)], [lesion("a", 50, volume_ml=volume_ml)]
    assert categories(before, now, criterion=chosen) == [category]


def test_every_table_is_named_after_itself_and_has_a_source():
    assert {"recist11", "rano_hgg", "volumetric_recist", "volumetric_macdonald"} <= set(CRITERIA)
    for name, criterion in CRITERIA.items():
        assert criterion.id == name
        assert re.search(r"\d{4}", criterion.edition)
        assert len(criterion.source) > 30
        assert criterion.not_judged


def test_results_carry_the_rule_and_its_cut_offs():
    _, (response,) = course([base("a", 50)], [lesion("a", 50)])
    assert response.criterion == "recist11"
    assert response.cut_offs.progression_absolute == 5
    assert response.quantity == "long_axis_mm"


def test_a_misspelt_table_is_refused():
    values = read_yaml(packaged("configs", "response", "recist11.yaml"))
    values["partial"] = {"relativ": -0.3}
    with pytest.raises(UsageError, match="relative"):
        Criterion.parse(values)
