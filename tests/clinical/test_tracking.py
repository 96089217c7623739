"""Hand-made examinations: balls on different oblique grids, each with its fate known."""

from __future__ import annotations

import importlib.util
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from medseg.clinical.change import ChangeRules, change_state, doubling_time
from medseg.clinical.examination import Examination, find_lesions
from medseg.clinical.tracking import FollowUpRules, track
from medseg.core.errors import UsageError
from medseg.core.geometry import Geometry
from medseg.core.measurements import Measurement
from medseg.core.terminology import tracking_uid
from medseg.core.volume import LabelMap
from medseg.ops.alignment import Alignment
from medseg.workflows.config import packaged, read_yaml

RULES = FollowUpRules.parse(read_yaml(packaged("configs", "follow_up.yaml")))
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
GRIDS = (
    Geometry.from_parts((70, 70, 40), (1.5, 1.5, 2.5), TURN, (10, -80, -50)),
    Geometry.from_parts((90, 90, 60), (1.2, 1.2, 1.7), np.diag([-1, -1, 1]), (50, 53, -50)),
)
LABELS = {"lesion": 1, "node": 2}


def ball(centre, radius, label="lesion"):
    return (np.asarray(centre, float), radius, label)


def examination(number, balls, *, day=None, alignment=None, grid=None):
    """Balls given in the baseline's space, drawn where the alignment takes them."""
    geometry = grid or GRIDS[number % 2]
    alignment = alignment or Alignment.identity()
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1).reshape(-1, 3)
    points = alignment.to_fixed(geometry.to_world(index))
    mask = np.zeros(len(points), np.uint8)
    for centre, radius, label in balls:
        mask[np.linalg.norm(points - centre, axis=1) <= radius] = LABELS[label]
    label_map = LabelMap(mask.reshape(geometry.shape), geometry)
    lesions, organs = find_lesions(label_map, labels=LABELS, lesions={"lesion", "node"}, alignment=alignment)
    return Examination(f"scan_{number}", day, f"study_{number}", geometry, alignment, lesions, organs)


def follow(*balls, **options):
    examinations = [examination(number, some) for number, some in enumerate(balls)]
    return track(examinations, rules=RULES)


def states(tracked):
    return {lesion.id: lesion.state for lesion in tracked.lesions}


A, B, C = (0, 0, 0), (25, 5, 10), (-20, 15, -20)


def test_each_state():
    before = [ball(A, 9), ball(B, 7), ball(C, 6)]
    _, later = follow(before, [ball(A, 9), ball(B, 10), ball(C, 4), ball((0, -28, 15), 5)])
    assert states(later) == {"lesion-1": "stable", "lesion-2": "grown", "lesion-3": "shrunk", "lesion-4": "new"}
    grown = later.lesions[1]
    assert grown.change_from_previous == pytest.approx((10 / 7) ** 3 - 1, rel=0.05)
    assert grown.change_from_baseline == grown.change_from_previous
    _, later = follow(before, [ball(A, 9), ball(C, 6)])
    assert states(later) == {"lesion-1": "stable", "lesion-2": "vanished", "lesion-3": "stable"}
    assert later.lesions[1].measurement is None
    assert later.lesions[1].change_from_previous == -1


def test_a_split_keeps_the_id_for_the_larger_part():
    whole = [ball((-4, 0, 0), 7), ball((4, 0, 0), 7), ball(B, 6)]
    _, later = follow(whole, [ball((-6, 0, 0), 5), ball((6, 0, 0), 4), ball(B, 6)])
    assert states(later) == {"lesion-1": "split", "lesion-2": "stable", "lesion-3": "split"}
    assert [lesion.parents for lesion in later.lesions] == [("lesion-1",), (), ("lesion-1",)]
    assert later.lesions[0].measurement.centre_mm[0] == pytest.approx(-6, abs=0.5)
    assert later.lesions[0].doubling is None


def test_a_merger_goes_on_under_the_id_of_the_larger():
    _, later = follow(
        [ball((-9, 0, 0), 6), ball((9, 0, 0), 5), ball(B, 4)],
        [ball((-8, 0, 0), 8.5), ball((8, 0, 0), 8), ball(B, 4)],
    )
    assert states(later) == {"lesion-1": "merged", "lesion-2": "merged", "lesion-3": "stable"}
    assert later.lesions[0].parents == ("lesion-1", "lesion-2")
    assert later.lesions[1].merged_into == "lesion-1"
    assert later.lesions[1].measurement is None


def test_ids_and_uids_stay_over_four_examinations_and_come_back():
    course = follow(
        [ball(A, 9), ball(B, 7)],
        [ball(A, 9)],
        [ball(A, 9), ball(C, 6)],
        [ball(B, 6), ball(A, 9), ball(C, 8)],
    )
    assert [states(one) for one in course] == [
        {"lesion-1": "baseline", "lesion-2": "baseline"},
        {"lesion-1": "stable", "lesion-2": "vanished"},
        {"lesion-1": "stable", "lesion-2": "vanished", "lesion-3": "new"},
        {"lesion-1": "stable", "lesion-2": "reappeared", "lesion-3": "grown"},
    ]
    uids = [{lesion.id: lesion.tracking_uid for lesion in one.lesions} for one in course]
    places = {
        "lesion-1": ("study_0", "lesion-1"),
        "lesion-2": ("study_0", "lesion-2"),
        "lesion-3": ("study_2", "lesion-2"),
    }
    assert uids[3] == {name: tracking_uid(*place) for name, place in places.items()}
    assert all(uids[3][name] == uid for one in uids for name, uid in one.items())
    assert course[3].ids == ("lesion-1", "lesion-3", "lesion-2")  # by size at that examination
    assert course[3].lesions[1].change_from_previous is None
    assert course[2].lesions[1].change_from_previous is None


def test_lesions_of_different_labels_are_never_the_same():
    _, later = follow([ball(A, 8), ball(B, 6)], [ball(A, 8, "node"), ball(B, 6)])
    assert states(later) == {"lesion-1": "vanished", "lesion-2": "stable", "node-1": "new"}


def test_what_the_image_does_not_show_has_not_vanished():
    small = Geometry.from_parts((40, 60, 60), (1.2, 1.2, 1.7), None, (-40, -40, -50))
    examinations = [
        examination(0, [ball(A, 6), ball(B, 7)]),
        examination(1, [ball(A, 6)], grid=small),
        examination(2, [ball(A, 6), ball(B, 7)]),
    ]
    course = track(examinations, rules=RULES)
    assert states(course[1]) == {"lesion-1": "not covered", "lesion-2": "stable"}
    assert course[1].lesions[0].volume_ml is None
    assert states(course[2]) == {"lesion-1": "stable", "lesion-2": "stable"}


def test_the_alignment_brings_lesions_together():
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = TURN, (40, -10, 6)
    aligned = Alignment(matrix)
    first = examination(0, [ball(A, 7), ball((18, 8, 3), 5)])
    wide = Geometry.from_parts((110, 110, 60), (1.2, 1.2, 1.7), np.diag([-1, -1, 1]), (70, 60, -50))
    second = examination(1, [ball(A, 7), ball((18, 8, 3), 6.5)], alignment=aligned, grid=wide)
    assert states(track([first, second], rules=RULES)[1]) == {
        "lesion-1": "stable",
        "lesion-2": "grown",
    }
    lost = Examination("x", None, "s", wide, Alignment.identity(), *find_again(second))
    assert "vanished" in states(track([first, lost], rules=RULES)[1]).values()


def find_again(one):
    """The same masks, taken as if no alignment were needed."""
    mask = np.zeros(one.geometry.shape, np.uint8)
    for lesion in one.lesions:
        mask[tuple(lesion.voxels.T)] = 1
    found = find_lesions(
        LabelMap(mask, one.geometry), labels=LABELS, lesions={"lesion", "node"}, alignment=Alignment.identity()
    )
    return found[0], found[1]


def test_nothing_at_the_baseline_and_nothing_at_all():
    assert states(follow([], [ball(A, 5)])[1]) == {"lesion-1": "new"}
    assert follow([], [])[1].lesions == ()


def measured(volume_ml, uncertainty_ml=0.0):
    values = {"id": "a", "label": "a", "kind": "lesion", "centre_mm": (0, 0, 0)}
    axes = dict.fromkeys(("long_axis", "short_axis", "feret"))
    return Measurement.model_validate(
        {**values, **axes, "volume_ml": volume_ml, "volume_uncertainty_ml": uncertainty_ml}
    )


@pytest.mark.parametrize(
    ("before", "now", "uncertainty", "state"),
    [
        (1.0, 1.25, 0.0, "grown"),
        (1.0, 1.2499, 0.0, "stable"),
        (1.0, 0.75, 0.0, "shrunk"),
        (1.0, 0.7501, 0.0, "stable"),
        # the standard uncertainty of the difference is .5 sqrt(2) / sqrt(3) = .408
        (1.0, 1.40, 0.5, "stable"),
        (1.0, 1.42, 0.5, "grown"),
    ],
)
def test_a_change_exceeds_the_share_and_the_uncertainty(before, now, uncertainty, state):
    assert change_state(measured(before, uncertainty), measured(now, uncertainty), rules=RULES.change) == state


def test_doubling_time_with_its_interval():
    found = doubling_time(measured(1.0, 0.1), measured(4.0, 0.4), days=100, since="scan_0")
    assert found.days == pytest.approx(50)
    assert found.low_days == pytest.approx(100 * np.log(2) / np.log(4.4 / 0.9))
    assert found.high_days == pytest.approx(100 * np.log(2) / np.log(3.6 / 1.1))
    assert doubling_time(measured(1.0, 0.3), measured(1.2, 0.3), days=100, since="x").high_days is None
    assert doubling_time(measured(1.0, 1.0), measured(1.2, 0.3), days=100, since="x").low_days == 0
    assert doubling_time(measured(1.0), measured(1.0), days=100, since="x") is None
    assert doubling_time(measured(1.0), measured(2.0), days=0, since="x") is None


def test_doubling_needs_dates():
    examinations = [
        examination(0, [ball(A, 6)], day=date(2025, 1, 1)),
        examination(1, [ball(A, 8)], day=date(2025, 3, 1)),
        examination(2, [ball(A, 9)]),
    ]
    course = track(examinations, rules=RULES)
    assert course[1].lesions[0].doubling.days == pytest.approx(59 * np.log(2) / np.log((8 / 6) ** 3), rel=0.1)
    assert course[1].lesions[0].doubling.since == "scan_0"
    assert course[2].lesions[0].doubling is None


def test_a_misspelt_rule_is_named():
    values = read_yaml(packaged("configs", "follow_up.yaml"))
    values["matching"]["reach"] = values["matching"].pop("reach_mm")
    with pytest.raises(UsageError, match="reach_mm"):
        FollowUpRules.parse(values)
    assert ChangeRules(grown=0.2, shrunk=-0.2, coverage=0).grown == 0.2


@pytest.mark.slow
def test_simulated_pairs_are_matched(monkeypatch):
    path = Path(__file__).parents[2] / "benchmarks" / "bench_followup.py"
    spec = importlib.util.spec_from_file_location("bench_followup", path)
    bench = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, bench)
    spec.loader.exec_module(bench)
    result = bench.score(range(40_000, 40_020), RULES)
    assert result["f1"] >= 0.95
    assert min(result["states_right"].values()) >= 0.85
