"""Runs that cannot be lost: one at a time, stopped, resumed, made longer, refused when something changed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medseg.core.errors import BatchError, InputError, ResourceError, UsageError
from medseg.core.settings import TrainSettings
from medseg.data.store import Store, open_store
from medseg.engine import backends, clock, head_fits, journal, step, validate
from medseg.engine.checkpoint import CHECKPOINT, load_progress
from medseg.engine.distributed import Ranks
from medseg.engine.journal import Journal
from medseg.io import files
from medseg.io.bundle import read_bundle
from medseg.io.lock import locked
from medseg.workflows import train as training
from medseg.workflows.forecast_train import forecast_train
from medseg.workflows.train import train, usable_split
from medseg.workflows.workspace import Workspace

SHORT = TrainSettings(epochs=1, warmup_steps=2)


@pytest.fixture
def place(workspace, tmp_path) -> Workspace:
    """A workspace of its own with the cohort's store and small patches."""
    made = Workspace(tmp_path / "work")
    made.folder.mkdir()
    shutil.copytree(workspace.store, made.store)
    edit_plan(made, patch_size=[16, 16, 8], batch_size=2)
    return made


def edit_plan(place: Workspace, **values) -> None:
    path = place.store / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def stop_at(place: Workspace, step: int, name: str = "main"):
    def watch(status) -> None:
        if status.step == step:
            (place.run(name, None) / "stop").touch()

    return watch


def steps(place: Workspace) -> int:
    path = place.run(None, None) / CHECKPOINT
    return load_progress(path, json.loads(progress_of(path))["identity"]).step


def progress_of(path: Path) -> str:
    from medseg.io.weights import load_metadata

    return load_metadata(path)["progress"]


def test_a_second_run_in_the_folder_is_refused_and_told_who_holds_it(place):
    folder = place.run(None, None)
    folder.mkdir(parents=True)
    with locked(folder / ".lock"), pytest.raises(BatchError, match="process") as caught:
        train(place, SHORT)
    assert caught.value.code == "E-LOCKED"


def test_the_command_refuses_a_second_run_before_it_loads_anything(place):
    folder = place.run("mine", None)
    folder.mkdir(parents=True)
    with locked(folder / ".lock"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "medseg", "train", "-w", str(place.folder), "--name", "mine"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 7
    assert "E-LOCKED" in done.stderr
    assert not re.search(r"\|\s+torch$", done.stderr, re.MULTILINE)


def test_a_restart_empties_the_folder_but_not_while_it_is_held(place):
    folder = place.run(None, None)
    (folder / "old").mkdir(parents=True)
    with locked(folder / ".lock"), pytest.raises(BatchError):
        train(place, SHORT, restart=True)
    assert (folder / "old").exists()
    train(place, SHORT, restart=True)
    assert not (folder / "old").exists()
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize("left", ["checkpoint.safetensors", "bundle/bundle.json", ".lock"])
@pytest.mark.parametrize("restart", [True, False])
def test_the_name_of_a_cross_validation_is_refused_for_one_training_which_would_take_its_folds(place, left, restart):
    file = place.run("folds/fold1", None) / left
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(UsageError, match=r"not of one training but of several \(fold1\)") as caught:
        train(place, SHORT, name="folds", restart=restart)
    assert caught.value.code == "E-RUN-KIND"
    assert file.exists()


@pytest.mark.parametrize("name", ["..", "../store", "runs/../..", "/somewhere", "."])
def test_a_name_that_leads_elsewhere_is_refused_before_a_restart_empties_it(place, name):
    before = sorted(place.folder.rglob("*"))
    with pytest.raises(UsageError, match="must lie in") as caught:
        train(place, SHORT, name=name, restart=True)
    assert caught.value.code == "E-OPTION"
    assert sorted(place.folder.rglob("*")) == before


def test_a_finished_training_goes_on_when_it_is_made_longer_and_its_model_stays_until_then(place):
    train(place, SHORT)
    first = read_bundle(place.newest_bundle())
    before = steps(place)
    for last in (before + 1, 3 * before):  # in its middle, and before its last validation
        stopped = train(place, SHORT.model_copy(update={"epochs": 3}), watch=stop_at(place, last))
        assert not stopped.finished
        assert steps(place) == last
        assert read_bundle(place.newest_bundle()).manifest == first.manifest
    longer = train(place, SHORT.model_copy(update={"epochs": 3}))
    assert longer.finished
    assert not longer.was_done
    assert steps(place) == 3 * before
    assert read_bundle(longer.bundle).manifest.sha256 != first.manifest.sha256
    assert train(place, SHORT).was_done


def test_an_early_model_can_be_used_at_once(place):
    stopped = train(place, SHORT.model_copy(update={"epochs": 6}), watch=stop_at(place, 10))
    assert not stopped.finished
    early = read_bundle(stopped.bundle)
    assert not early.manifest.finished
    assert set(early.manifest.validation) >= {"dice"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda place: edit_plan(place, patch_size=[16, 16, 16]),
            r"plan\.patch_size was \[16, 16, 8\], is \[16, 16, 16\]",
        ),
        (lambda _: None, r"train\.seed was its default, is 4"),
    ],
)
def test_a_changed_run_is_refused_with_the_difference_named(place, change, named):
    train(place, SHORT, watch=stop_at(place, 1))
    change(place)
    seed = 4 if "seed" in named else 0
    with pytest.raises(UsageError, match=named) as caught:
        train(place, SHORT.model_copy(update={"seed": seed}))
    assert caught.value.code == "E-RESUME"


def test_changed_added_and_removed_cases_are_named(place, monkeypatch):
    train(place, SHORT, watch=stop_at(place, 1))
    store = open_store(place.store)
    split = training.usable_split(store, SHORT)
    changed, removed = split.train[:2]
    entries = [
        case.model_copy(update={"sha256": "0" * 64}) if case.id == changed else case
        for case in store.index.cases
        if case.id != removed
    ]
    index = store.index.model_copy(update={"cases": tuple(entries)})
    monkeypatch.setattr(training, "open_store", lambda _: Store(store.folder, store.plan, store.dataset, index))
    with pytest.raises(UsageError) as caught:
        train(place, SHORT)
    assert f"training case {changed} was changed" in caught.value.message
    assert f"training case {removed} was removed" in caught.value.message


def test_what_gets_a_training_through_may_change(place):
    train(place, SHORT, watch=stop_at(place, 2))
    assert train(place, SHORT.model_copy(update={"learning_rate": 1e-4, "amp": False})).finished


def test_a_stop_request_ends_a_validation_in_its_middle_and_the_training_goes_on_from_there(place, monkeypatch):
    seen = []
    plain = backends.torch_segment

    def slow(network, dtype):
        segment = plain(network, dtype)

        def window(windows):
            seen.append(len(windows))
            (place.run(None, None) / "stop").touch()  # somebody asks while the first window is computed
            return segment(windows)

        return window

    monkeypatch.setattr(validate, "torch_segment", slow)
    stopped = train(place, SHORT)
    assert not stopped.finished
    assert len(seen) == 1
    monkeypatch.setattr(validate, "torch_segment", plain)
    assert train(place, SHORT).finished


@pytest.mark.parametrize(
    "asks",
    [
        pytest.param("by a file", marks=pytest.mark.slow),
        "by SIGTERM",
        pytest.param("not at all", marks=pytest.mark.slow),
    ],
)
def test_a_stop_request_ends_the_last_fit_of_the_heads_which_is_then_made_anew(place, monkeypatch, asks):
    monkeypatch.setattr(head_fits, "_FEWEST_PER_CLASS", 1)
    monkeypatch.setattr(head_fits, "_PENALTIES", head_fits._PENALTIES[::4])
    monkeypatch.setattr(head_fits, "_balance", fitting := Counted(head_fits._balance))
    whole = read_bundle(train(place, SHORT, name="whole").bundle).weights[0]
    fits, fitting.calls = fitting.calls, 0
    assert fits > 5

    def ask() -> None:
        if asks == "by a file":
            (place.run(None, None) / "stop").touch()
        elif asks == "by SIGTERM":
            signal.raise_signal(signal.SIGTERM)

    fitting.at_third = ask
    stopped = train(place, SHORT)
    assert stopped.finished is (asks == "not at all")
    assert fitting.calls == (fits if stopped.finished else 4)  # the next fit is the one that it was asked in
    assert (place.run(None, None) / CHECKPOINT).is_file()
    fitting.at_third = lambda: None
    again = train(place, SHORT)
    assert again.finished
    found = read_bundle(again.bundle).weights[0]
    assert all(torch.equal(value, whole[name]) for name, value in found.items())


class Counted:
    """A function that counts its calls, and does something more in the third."""

    def __init__(self, function) -> None:
        self.function, self.calls, self.at_third = function, 0, lambda: None

    def __call__(self, *arguments):
        self.calls += 1
        if self.calls == 3:
            self.at_third()
        return self.function(*arguments)


def test_a_stop_request_is_heard_while_cases_are_loaded(place, monkeypatch):
    loaded = []
    load = Store.load

    def slow(store, case, *how):
        loaded.append(case)
        (place.run(None, None) / "stop").touch()
        return load(store, case, *how)

    monkeypatch.setattr(Store, "load", slow)
    stopped = train(place, SHORT)
    assert not stopped.finished
    assert len(loaded) == 1


def test_a_signal_that_comes_while_the_last_case_is_loaded_is_not_lost(place, monkeypatch):
    """A queue that asked once kills half a minute later."""
    load, loaded = Store.load, []

    def slow(store, case, *how):
        loaded.append(case)
        if len(loaded) == num_training:
            os.kill(os.getpid(), signal.SIGTERM)
        return load(store, case, *how)

    num_training = len(usable_split(open_store(place.store), SHORT).train)
    monkeypatch.setattr(Store, "load", slow)
    assert not train(place, SHORT).finished
    assert len(loaded) == num_training


def test_more_processes_than_patches_are_refused_before_cases_are_loaded(place, monkeypatch):
    monkeypatch.setattr(training, "joined", lambda *_, **__: contextlib.nullcontext(Ranks(0, 3, 0)))
    monkeypatch.setattr(Store, "load", lambda *_: pytest.fail("a case was loaded"))
    with pytest.raises(UsageError, match="2 patches cannot be dealt to 3 processes") as caught:
        train(place, SHORT)
    assert caught.value.code == "E-RANKS"


def test_a_training_that_ran_out_of_memory_goes_on_with_a_smaller_batch(place, monkeypatch):
    whole, calls = step.train_step, []

    def fails_on_the_third(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError
        return whole(*arguments, **options)

    monkeypatch.setattr(step, "train_step", fails_on_the_third)
    monkeypatch.setattr(clock, "_CHECKPOINT_EVERY_S", 0.0)
    longer = SHORT.model_copy(update={"epochs": 3})
    with pytest.raises(ResourceError, match="--batch-size 1"):
        train(place, longer)
    assert steps(place) == 2
    assert train(place, longer.model_copy(update={"batch_size": 1})).finished


def test_a_full_disk_at_checkpoint_time_is_loud_and_leaves_the_checkpoint_before(place, monkeypatch):
    longer = SHORT.model_copy(update={"epochs": 3})
    train(place, longer, watch=stop_at(place, 1))
    path = place.run(None, None) / CHECKPOINT
    before = path.read_bytes()
    whole = Path.write_bytes

    def full(file, data):
        if file.parent == path.parent and file.suffix == path.suffix:
            whole(file, data[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(file, data)

    monkeypatch.setattr(clock, "_CHECKPOINT_EVERY_S", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match=r"disk .* is full.*The last checkpoint is whole") as caught:
            train(place, longer)
    assert (caught.value.code, caught.value.exit_code) == ("E-DISK-FULL", 3)
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".tmp-*"))
    assert train(place, longer).finished


def test_a_full_disk_when_the_model_is_written_says_that_the_checkpoint_is_kept(place, monkeypatch):
    bundle, longer = train(place, SHORT).bundle, SHORT.model_copy(update={"epochs": 3})
    with monkeypatch.context() as patched:
        patched.setattr(files, "_flush", lambda path, _: full() if "bundle" in path.parts else None)
        with pytest.raises(InputError, match=r"bundle is full.*The last checkpoint is whole") as caught:
            train(place, longer)
    assert (caught.value.code, caught.value.file.parent) == ("E-DISK-FULL", bundle)
    assert read_bundle(bundle).manifest.finished
    assert train(place, longer).finished


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_while_logging_is_named(tmp_path, monkeypatch):
    with Journal(tmp_path) as told, monkeypatch.context() as patched:
        patched.setattr(journal.json, "dumps", full)
        with pytest.raises(InputError) as caught:
            told.record("train", 1, {"loss": 1.0})
    assert caught.value.code == "E-DISK-FULL"


def test_a_damaged_case_of_the_store_is_named(place):
    victim = training.usable_split(open_store(place.store), SHORT).train[-1]
    file = place.store / "cases" / f"{victim}.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError) as caught:
        train(place, SHORT)
    assert (caught.value.code, caught.value.case) == ("E-STORE-DAMAGED", victim)


@pytest.mark.parametrize(
    ("length", "told"), [({"epochs": 5}, r"5 epochs = \d+ steps, about"), ({"budget": "2h"}, "2h, at most")]
)
def test_a_dry_run_measures_steps_and_says_what_the_length_means(place, length, told):
    rows = dict(forecast_train(place, TrainSettings(**length, batch_size=1)).rows)
    assert re.search(told, rows["length"])
    assert "patches/s, measured here" in rows["time of a step"]
    assert "1 a step" in rows["patch"]
    assert rows.get("warning", "").startswith("W-SHORT") is ("epochs" in length)
    assert not place.runs.exists()


@pytest.mark.parametrize("verb", [train, forecast_train])
def test_a_budget_without_a_step_is_refused_before_anything_is_written(place, verb):
    with pytest.raises(UsageError, match="a budget of 2s holds no step") as caught:
        verb(place, TrainSettings(budget="2s"))
    assert caught.value.code == "E-BUDGET"
    assert not place.runs.exists()
