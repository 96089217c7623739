from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from medseg.apps.terminal import _describe
from medseg.core.case import Case, Dataset
from medseg.core.findings import CaseFailure
from medseg.core.settings import TrainSettings
from medseg.data.splits import Split
from medseg.data.store import Store, open_store
from medseg.engine.clock import Status
from medseg.engine.validate import validate
from medseg.io.bundle import read_bundle
from medseg.nn.build import build_network
from medseg.workflows.train import train
from medseg.workflows.train_warnings import (
    class_warnings,
    collapse_warnings,
    failure_warnings,
    foreseen_warnings,
    label_warnings,
    short_warnings,
)
from medseg.workflows.workspace import Workspace

COLLAPSED = {"dice": 0.5, "grade/balanced_accuracy": 0.5, "grade/collapsed": 1.0, "side/accuracy": 0.9}


def _dataset(**classes: str | None) -> Dataset:
    cases = tuple(
        Case(id=name, images=(), classes={} if value is None else {"grade": value}) for name, value in classes.items()
    )
    return Dataset(name="d", heads={"grade": ("low", "mid", "high")}, cases=cases)


@pytest.mark.parametrize(("count", "end"), [(1, "in this: c0 (E-READ)"), (6, "c3 (E-READ), c4 (E-READ) and 1 more")])
def test_cases_that_are_not_in_the_store_are_named(count, end):
    failures = [CaseFailure(case=f"c{number}", code="E-READ", message="") for number in range(count)]
    store = SimpleNamespace(
        index=SimpleNamespace(failures=failures),
        plan=SimpleNamespace(label_names=()),
        dataset=_dataset(a="low", b="high"),
    )
    warning, *others = foreseen_warnings([], store, Split(("a", "b"), ()))
    assert [other.partition(":")[0] for other in others] == ["W-CLASS-UNSEEN"]
    assert warning.startswith(f"W-CASES-LEFT-OUT: {count} case(s)")
    assert warning.endswith(end)
    assert failure_warnings(()) == ()


def test_a_class_without_a_training_case_is_named_with_its_held_back_cases():
    dataset = _dataset(a="low", b="high", c=None, d="mid", e="mid")
    (warning,) = class_warnings(dataset, Split(("a", "b", "c"), ("d", "e")))
    assert warning.startswith("W-CLASS-UNSEEN: no training case has grade 'mid' (2 held-back cases have)")
    assert class_warnings(dataset, Split(("a", "b", "d"), ("c", "e"))) == ()


@pytest.mark.parametrize(("value", "words"), [("low", "grade is 'low' in all 2 training"), (None, "known in none of")])
def test_a_head_with_nothing_to_tell_apart_is_named(value, words):
    warnings = class_warnings(_dataset(a=value, b=value, c="mid"), Split(("a", "b"), ("c",)))
    assert warnings[-1].startswith("W-CLASS-ONE")
    assert words in warnings[-1]
    assert len(warnings) == (3 if value else 4)


def test_a_collapse_is_named_with_its_head_alone():
    (warning,) = collapse_warnings(COLLAPSED)
    assert warning.startswith("W-COLLAPSED: grade gives")
    assert "0.50" in warning
    assert collapse_warnings({"grade/accuracy": 0.5, "grade/collapsed": 0.0}) == ()


@pytest.mark.parametrize(
    ("step", "rate", "known"), [(4, 1.0, False), (5, 1.0, True), (2, 0.05, True), (1, 0.05, False)]
)
def test_the_time_that_is_left_is_told_within_the_first_minute_of_slow_steps(step, rate, known):
    status = Status(step, 0.1, {}, {}, remaining_s=75.0, steps_per_s=rate, samples_per_s=2 * rate)
    assert ("1:15 left" in _describe(status)) is known


@pytest.mark.parametrize(("share", "said"), [(0.3, False), (0.7, True)])
def test_a_collapse_is_said_while_training_once_half_of_it_is_over(share, said):
    status = Status(step=9, share=share, losses={}, validation=COLLAPSED, remaining_s=1, steps_per_s=1, samples_per_s=2)
    assert ("grade: one class so far" in _describe(status)) is said
    assert "W-COLLAPSED" not in _describe(status)  # the head is fitted once more when the last step is done


def test_a_network_that_answers_one_class_is_caught_and_one_that_tells_them_apart_is_not(workspace):
    store = open_store(workspace.store)
    network = build_network(store.plan, seed=1)
    cases = [store.load(entry.id) for entry in store.index.cases[:4]]
    layer = network.head.heads["lesion_type"]
    torch.nn.init.zeros_(layer.weight)
    layer.bias.data = torch.tensor([1.0, -1.0])
    scores = validate(network, cases, store.plan, device=torch.device("cpu"), dtype=None)
    assert scores["lesion_type/collapsed"] == 1
    alike = [case for case in cases if case.entry.classes["lesion_type"] == 0]
    assert "lesion_type/collapsed" not in validate(network, alike, store.plan, device=torch.device("cpu"), dtype=None)


def test_the_warnings_of_a_training_reach_the_model_its_card_and_its_user(workspace, tmp_path):
    place = Workspace(tmp_path / "work")
    shutil.copytree(workspace.store, place.store)
    path = place.store / "dataset.json"
    path.write_text(path.read_text().replace('"malignant"\n', '"benign"\n').replace('"benign",', '"malignant",', 1))
    dataset = open_store(place.store).dataset
    assert {case.classes["lesion_type"] for case in dataset.cases} == {"benign"}
    made = train(place, TrainSettings(epochs=1))
    codes = [warning.split(":")[0] for warning in made.warnings]
    assert (codes[:2], codes[-1]) == (["W-CLASS-UNSEEN", "W-CLASS-ONE"], "W-SHORT")
    again = train(place, TrainSettings(epochs=1))
    assert again.was_done
    assert again.warnings == made.warnings == read_bundle(made.bundle).manifest.warnings
    card = (made.bundle / "README.md").read_text()
    assert all(f"**{warning}**" in card for warning in made.warnings)


@pytest.mark.parametrize(
    ("num_steps", "steps_per_epoch", "warmup_steps", "is_short"),
    [(2, 10, 50, True), (99, 10, 50, True), (100, 10, 50, False), (100, 101, 50, True), (3, 3, 1, False)],
)
def test_a_training_that_hardly_began_is_told_with_the_length_that_would_do(
    num_steps, steps_per_epoch, warmup_steps, is_short
):
    settings = TrainSettings(budget="3s", warmup_steps=warmup_steps)
    counts = {"num_steps": num_steps, "steps_per_epoch": steps_per_epoch, "seconds_per_step": 1.21}
    told = short_warnings(settings, **counts)
    assert [words.split(":")[0] for words in told] == ["W-SHORT"] * is_short
    if num_steps == 2:  # 1000 steps of 1.21 s are 20 min 10 s
        assert "--budget 3s came to 2 steps" in told[0]
        assert told[0].endswith("For 1,000 steps as they went here give --budget 21m or --epochs 100")


@pytest.mark.parametrize(("seconds_per_step", "budget"), [(7.14, "119m"), (7.15, "2h"), (0.001, "1m")])
def test_the_length_that_would_do_is_rounded_up(seconds_per_step, budget):
    counts = {"num_steps": 2, "steps_per_epoch": 10, "seconds_per_step": seconds_per_step}
    (told,) = short_warnings(TrainSettings(epochs=1), **counts)
    assert f"--budget {budget} " in told
    assert "--epochs 1 came" in told


def test_a_label_that_no_training_case_shows_is_named(workspace):
    store = open_store(workspace.store)
    whole = store.load(store.index.cases[0].id)
    assert label_warnings([whole], store.plan) == ()
    last = len(store.plan.label_names)
    without = replace(whole, foreground=whole.foreground[whole.foreground[:, 0] != last])
    unlabelled = replace(whole, labels=whole.labels[:0], foreground=whole.foreground[:0])
    (warning,) = label_warnings([without, unlabelled], store.plan)
    assert warning.startswith("W-LABEL-UNSEEN: none of the 1 training cases with a mask shows")
    assert repr(store.plan.label_names[-1]) in warning


def test_an_unseen_label_is_told_before_the_training_and_stays_with_the_model(workspace, tmp_path, monkeypatch, caplog):
    load = Store.load

    def without_the_last(store, case_id, *how):
        case = load(store, case_id, *how)
        kept = case.foreground[:, 0] != len(store.plan.label_names)
        return replace(case, foreground=case.foreground[kept])

    place = Workspace(tmp_path / "work")
    shutil.copytree(workspace.store, place.store)
    monkeypatch.setattr(Store, "load", without_the_last)
    told = []
    made = train(
        place,
        TrainSettings(epochs=1, warmup_steps=1),
        watch=lambda _: told.append([record.getMessage() for record in caplog.records]),
    )
    (warning,) = (one for one in made.warnings if one.startswith("W-LABEL-UNSEEN"))
    assert warning in told[0]
    assert warning in read_bundle(made.bundle).manifest.warnings
    assert f"**{warning}**" in (made.bundle / "README.md").read_text()
