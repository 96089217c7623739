"""`torchrun` with two processes on this machine: lost ones, and those that are asked to stop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medseg.core.settings import TrainSettings
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace


class Torchrun:
    """`torchrun` with two processes; its output as it comes."""

    def __init__(self, workspace: Workspace, out: Path, *options: str) -> None:
        self.out = out
        command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "medseg", "train"]
        command += ["--device", "cpu", "--name", "torchrun"]
        with out.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--workspace", str(workspace.folder), *options],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def child(self, rank: int) -> int:
        """Process id of a rank, once it trains."""
        self.wait_for("training +0%")
        for place in Path("/proc").glob("[0-9]*/environ"):
            try:
                words, parent = place.read_bytes(), (place.parent / "stat").read_text().rsplit(")", 1)[1].split()[1]
            except OSError:
                continue
            if int(parent) == self.process.pid and f"\0RANK={rank}\0".encode() in b"\0" + words:
                return int(place.parent.name)
        raise AssertionError(self.out.read_text())

    def wait_for(self, pattern: str) -> None:
        end = time.monotonic() + 120
        while not re.search(pattern, self.out.read_text()):
            assert self.process.poll() is None, self.out.read_text()
            assert time.monotonic() < end, self.out.read_text()
            time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_ends_the_other_in_time_and_is_named(workspace: Workspace, tmp_path, how):
    run = Torchrun(workspace, tmp_path / "out", "--restart", "--budget", "300s", "--set", "train.rank_timeout_s=6")
    os.kill(run.child(1), how)
    start = time.monotonic()
    run.wait_for(r"E-RANK-LOST\] process 1 of 2 was lost")
    assert time.monotonic() - start < 30
    assert run.process.wait(timeout=60) != 0
    assert run.out.read_text().count("error [") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_whoever_is_asked_to_stop_stops_all_and_one_process_goes_on(workspace: Workspace, tmp_path):
    run = Torchrun(workspace, tmp_path / "out", "--restart", "--epochs", "500")
    os.kill(run.child(1), signal.SIGTERM)
    run.process.wait(timeout=60)
    assert "the same command goes on" in run.out.read_text()
    log = workspace.runs / "torchrun" / "log.jsonl"
    settings = TrainSettings(epochs=500, device="cpu")

    class EnoughError(Exception):
        pass

    def watch(status):
        assert status.step > 1
        raise EnoughError

    assert log.is_file()
    with pytest.raises(EnoughError):
        train(workspace, settings, name="torchrun", watch=watch)
