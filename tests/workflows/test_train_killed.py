"""A training that is killed anywhere and started again ends in the same weights, bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from medseg.core.settings import TrainSettings
from medseg.io.bundle import read_bundle
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

SETTINGS = TrainSettings(epochs=4, warmup_steps=2, seed=3, amp=False, device="cpu")

# Trains with a checkpoint after every step and kills itself, without any warning, at a chosen point.
VICTIM = """
    import os, signal, sys
    from pathlib import Path

    from medseg.core.settings import TrainSettings
    from medseg.engine import clock, step, train as engine
    from medseg.io import bundle
    from medseg.workflows.train import train
    from medseg.workflows.workspace import Workspace

    folder, settings, point = sys.argv[1:]
    clock._CHECKPOINT_EVERY_S = 0.0
    what, _, count = point.partition(":")
    count = int(count)


    def die_at(owner, name, wanted, *, after=False):
        original, calls = getattr(owner, name), []

        def fatal(*arguments, **options):
            calls.append(wanted(*arguments))
            if sum(calls) == count and calls[-1]:
                if after:
                    original(*arguments, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, name, fatal)


    always = lambda *_: True
    if what == "step":
        die_at(step, "train_step", always)
    elif what == "update":  # the weights are new, the checkpoint is not
        die_at(step, "train_step", always, after=True)
    elif what == "checkpoint":  # half of the file is written
        whole = Path.write_bytes
        writes = []

        def half(path, data):
            if path.parent == Path(folder) / "runs" / "main" and path.suffix == ".safetensors":
                writes.append(path)
                if len(writes) == count:
                    whole(path, data[: len(data) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
            return whole(path, data)

        Path.write_bytes = half
    elif what == "validation":
        die_at(engine, "validate", always)
    elif what == "bundle":  # its weights are written, its manifest is not
        die_at(bundle, "sha256_of", always)
    train(Workspace(Path(folder)), TrainSettings.model_validate_json(settings))
"""


@pytest.fixture
def place(workspace, tmp_path) -> Workspace:
    return small(workspace, tmp_path / "work")


def small(workspace: Workspace, folder: Path) -> Workspace:
    """A workspace of its own with the cohort's store and small patches."""
    made = Workspace(folder)
    folder.mkdir()
    shutil.copytree(workspace.store, made.store)
    plan = made.store / "plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "patch_size": [16, 16, 8], "batch_size": 2}))
    return made


@pytest.fixture(scope="module")
def uninterrupted(workspace, tmp_path_factory) -> dict[str, torch.Tensor]:
    place = small(workspace, tmp_path_factory.mktemp("whole") / "work")
    whole = train(place, SETTINGS)
    assert whole.finished
    return read_bundle(whole.bundle).weights[0]


def killed(place: Workspace, point: str) -> None:
    arguments = [sys.executable, "-c", textwrap.dedent(VICTIM), str(place.folder), SETTINGS.to_json(), point]
    assert subprocess.run(arguments, timeout=300).returncode == -signal.SIGKILL


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize(
    "point",
    [
        "checkpoint:3",
        *(
            pytest.param(point, marks=pytest.mark.slow)
            for point in ("step:1", "step:2", "step:4", "update:3", "checkpoint:1", "validation:1", "bundle:1")
        ),
        pytest.param("validation:LAST", marks=pytest.mark.slow),
        pytest.param("bundle:LAST", marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_ends_in_the_weights_of_the_uninterrupted_one(place, uninterrupted, point):
    if point.endswith("LAST"):
        point = point.replace("LAST", str(last(place, point)))
    killed(place, point)
    run = place.run(None, None)
    assert (run / ".lock").exists()  # nobody let go of it, and nobody is kept out by it
    again = train(place, SETTINGS)
    assert again.finished
    assert not again.was_done
    assert same(read_bundle(again.bundle).weights[0], uninterrupted)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    validated = [record["step"] for record in log if record["kind"] == "validation"]
    assert validated == sorted(set(validated))


def last(place: Workspace, point: str) -> int:
    """How many validations the whole training makes; or which hash is the first of its last bundle."""
    other = Workspace(place.folder.with_name("counted"))
    shutil.copytree(place.folder, other.folder)
    train(other, SETTINGS)
    log = (other.run(None, None) / "log.jsonl").read_text().splitlines()
    validations = sum(json.loads(line)["kind"] == "validation" for line in log)
    hashes = len(read_bundle(other.run(None, None) / "bundle").manifest.sha256)
    return validations if "validation" in point else (validations - 1) * hashes + 1
