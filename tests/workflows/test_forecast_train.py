"""What a dry run says of a training's memory."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from medseg.apps import show
from medseg.core.forecast import Forecast
from medseg.core.settings import TrainSettings
from medseg.data.store import open_store
from medseg.engine.trial import Trial
from medseg.workflows import forecast_train as module
from medseg.workflows.forecast_train import forecast_train
from medseg.workflows.train import usable_split
from medseg.workflows.workspace import Workspace

SETTINGS = TrainSettings(epochs=100, device="cpu", ram_gib=1)
MIB = 2**20
# A process counts from what its parent held: the tests hold more than a training takes.
CHILDS_PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _told(place, monkeypatch, *, free_mib=10_000, settings=SETTINGS, **changed):
    measured = {"peak_bytes": 700 * MIB, "before_bytes": 300 * MIB, "device": "cpu", **changed}
    monkeypatch.setattr(module, "try_steps", lambda *_, **__: Trial(seconds=0.1, num_weights=5, **measured))
    monkeypatch.setattr(module, "free_memory", lambda: free_mib * MIB)
    made = forecast_train(place, settings)
    return dict(made.rows)["memory"], [value for what, value in made.rows if what == "warning"]


def test_memory_is_what_steps_took_with_room_for_more_and_the_cases(workspace, monkeypatch):
    cases = sum(path.stat().st_size for path in (workspace.store / "cases").iterdir()) / MIB
    monkeypatch.setattr(module, "_answer_bytes", lambda *_: 20 * MIB)
    memory, warnings = _told(workspace, monkeypatch)
    assert memory == (  # 700, a twentieth of what the steps added to 300, and 32 that is loaded later
        f"about {772 + cases:,.0f} MiB of the process: 752 MiB by a few steps measured here, {cases:.0f} MiB of cases, "
        "20 MiB of the largest validation case's answer"
    )
    assert warnings == []
    in_files = SETTINGS.model_copy(update={"ram_gib": 0})
    assert "0 MiB of cases" in _told(workspace, monkeypatch, settings=in_files)[0]


def test_the_answer_is_that_to_the_largest_case_that_is_validated_on(workspace, monkeypatch):
    store, asked = open_store(workspace.store), []
    monkeypatch.setattr(module, "_answer_bytes", lambda _, judged: asked.append(judged) or 0)
    _told(workspace, monkeypatch)
    held_back = usable_split(store, SETTINGS).val
    assert asked == [max((case.shape for case in store.index.cases if case.id in held_back), key=math.prod)]
    monkeypatch.undo()
    plan = store.plan.model_copy(update={"channels": ("CT", "PET"), "labels": {"a": 1, "b": 2}})
    assert module._answer_bytes(plan, (10, 20, 30)) == 6000 * (2 * 4 + 3 * 4 + 8)
    assert module._answer_bytes(plan, None) == 0
    assert module._answer_bytes(plan.model_copy(update={"labels": {}}), (10, 20, 30)) == 0


def test_what_is_not_free_is_warned_of(workspace, monkeypatch):
    monkeypatch.setattr(module, "_answer_bytes", lambda *_: 0)
    in_files = SETTINGS.model_copy(update={"ram_gib": 0})
    assert _told(workspace, monkeypatch, free_mib=452, settings=in_files)[1] == []
    (warning,) = _told(workspace, monkeypatch, free_mib=451, settings=in_files)[1]
    assert warning.startswith("W-MEMORY-SHORT: 452 MiB will be needed")
    assert "451 MiB are free" in warning


def test_of_a_gpu_its_own_memory_is_told_and_the_cases_that_are_on_it(workspace, monkeypatch):
    monkeypatch.setattr(module, "_answer_bytes", lambda *_: 0)
    memory, warnings = _told(workspace, monkeypatch, free_mib=1, device="cuda", before_bytes=0)
    assert memory.startswith("about 735 MiB of the GPU: 735 MiB by a few steps measured here, 0 MiB of cases, ")
    assert warnings == []


def test_where_the_system_does_not_tell_nothing_is_made_up(workspace, monkeypatch):
    assert _told(workspace, monkeypatch, peak_bytes=None)[0] == "this system does not tell"


def test_several_warnings_are_all_in_the_json():
    said = []
    terminal = type("Terminal", (), {"json": lambda _, text: said.append(json.loads(text))})()
    show.forecast(terminal, Forecast(rows=(("warning", "a"), ("cases", "3"), ("warning", "b"))), as_json=True)
    assert said == [{"warning": "a\nb", "cases": "3"}]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of another process is known on Linux")
def test_a_training_takes_about_what_its_dry_run_foretold(workspace, tmp_path):
    place = Workspace(tmp_path)
    (tmp_path / "store").symlink_to(workspace.store)
    command = [sys.executable, "-m", "medseg", "train", "--workspace", str(place.folder), "--epochs", "1"]
    told = json.loads(subprocess.check_output([*command, "--dry-run", "--json"]))["memory"]
    measured_mib = int(subprocess.check_output([sys.executable, "-c", CHILDS_PEAK, *command]).split()[-1]) / 1024
    assert 0.95 < float(told.split()[1].replace(",", "")) / measured_mib < 1.15
