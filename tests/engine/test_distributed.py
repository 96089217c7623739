"""Two processes on this machine, connected by gloo, against one."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from medseg.core.errors import UsageError
from medseg.core.settings import TrainSettings
from medseg.data.batch import Batch
from medseg.data.store import open_store
from medseg.engine import evidence
from medseg.engine.distributed import ALONE, Ranks, joined, require_alone
from medseg.nn.ranks import average_gradients, everybodys, gathered, total
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

# Without mixed precision: what is compared are sums in another order, not rounding.
SETTINGS = TrainSettings(epochs=2, warmup_steps=1, amp=False, device="cpu", seed=3)

PAIR = """
import sys, torch
from pathlib import Path
from medseg.core.errors import InputError, MedsegError
from medseg.core.settings import TrainSettings
from medseg.engine.distributed import joined
from medseg.nn.ranks import gathered
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

def threads_of_the_group():
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)

try:
    with joined("cpu", timeout_s=20) as ranks:
        settings = TrainSettings.model_validate_json(sys.argv[2])
        assert train(Workspace(Path(sys.argv[1])), settings, name="pair", watch=lambda _: print("watched")).finished
        mine = torch.full((2 * ranks.rank, 3), 5.0, requires_grad=True)
        whole = gathered(mine)
        (whole.sum() ** 2 / 2).backward()
        assert whole.shape == (2, 3), whole
        assert mine.grad.mean() == 2 * 30 if ranks.rank else not len(mine.grad), mine.grad  # twice, as the mean halves
        try:
            ranks.require_equal("store", ranks.rank)
        except MedsegError as error:
            print(error.code, flush=True)
        print("threads", threads_of_the_group(), flush=True)
        if ranks.rank == 1:
            raise InputError("broken", code="E-GZ-CRC", case="case_7")
        ranks.any(False)
except MedsegError as error:
    print(error.code, error.case, flush=True)
    print("left", threads_of_the_group(), flush=True)
"""


TRAINED = """
import sys
from pathlib import Path
from medseg.core.settings import TrainSettings
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

assert train(Workspace(Path(sys.argv[1])), TrainSettings.model_validate_json(sys.argv[2]), name="pair").finished
"""


# A stop that process 1 alone hears, while both look at their case of a validation.
STOPPED = """
import os, signal, sys
from pathlib import Path
from medseg.core.settings import TrainSettings
from medseg.engine import validate
from medseg.engine.distributed import joined
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

whole = validate.infer_case

def answered(*arguments, **options):
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    answer = whole(*arguments, **options)
    print("answered", flush=True)
    return answer

validate.infer_case = answered
with joined("cpu", timeout_s=20) as ranks:
    made = train(Workspace(Path(sys.argv[1])), TrainSettings.model_validate_json(sys.argv[2]), name=sys.argv[3])
    print("finished" if made.finished else "stopped", flush=True)
"""


# Process 1 dies without a word; the signal that torchrun then sends finds process 0 on its way out.
OVERTAKEN = """
import os, signal
from medseg.core.errors import MedsegError
from medseg.engine.distributed import joined

class Ended(BaseException):
    pass

def end(*_):
    raise Ended

signal.signal(signal.SIGTERM, end)
try:
    with joined("cpu", timeout_s=20) as ranks:
        ranks.any(False)
        if ranks.rank == 1:
            os._exit(0)
        try:
            ranks.any(False)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
except MedsegError as error:
    print(error, flush=True)
"""


def _start(rank: int, port: int, *arguments: str) -> subprocess.Popen[str]:
    meeting = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in meeting.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _weights(workspace: Workspace, name: str) -> dict[str, torch.Tensor]:
    return load_file(workspace.runs / name / "bundle" / "weights.safetensors")


def _distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Of the weight that moved most from the other's on average; Adam divides tiny gradients by tiny deviations, so
    where a gradient is next to nothing rounding shows in single numbers."""
    return max(float((first[name] - second[name]).abs().mean()) for name in first)


@pytest.fixture
def one_thread():
    """As each of the processes has: more of them add up in another order."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_train_the_network_that_one_trains_and_tell_their_end(workspace: Workspace):
    """Samples, augmentation, loss, feature statistics and scores are those of the whole batch; errors come once."""
    other = load_file(workspace.newest_bundle() / "weights.safetensors")
    port = _free_port()
    both = [_start(rank, port, "-c", PAIR, str(workspace.folder), SETTINGS.to_json()) for rank in (0, 1)]
    alone = train(workspace, SETTINGS, name="alone")
    told = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    one, two = _weights(workspace, "alone"), _weights(workspace, "pair")
    assert _distance(one, two) < 1e-4 < 0.01 < _distance(one, other)
    again = train(workspace, SETTINGS, name="pair")
    assert again.was_done
    assert again.validation == pytest.approx(alone.validation, abs=1e-3)
    assert "watched" in told[0][0]
    assert "watched" not in told[1][0]
    ends = [[line for line in out.splitlines() if line.startswith("E-")] for out, _ in told]
    assert ends == [["E-RANKS-DIFFER", "E-RANK-ENDED None"], ["E-RANKS-DIFFER", "E-GZ-CRC case_7"]]
    if sys.platform == "linux":
        # A thread that is left aborts its process when it lets go of its last exchange while the interpreter ends.
        threads = [re.findall(r"(?m)^(threads|left) (\d+)$", out) for out, _ in told]
        assert all(int(before) and not int(after) for (_, before), (_, after) in threads), threads


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_processes_gather_what_attention_reads_of_a_case_that_both_hold_a_patch_of(workspace: Workspace, tmp_path):
    place = Workspace(tmp_path)
    shutil.copytree(workspace.store, place.store)
    path = place.store / "plan.json"
    plan = json.loads(path.read_text())
    plan["classification"]["pooling"] = "attention"
    # of six patches in pairs the third and the fourth are of one case, and of two processes
    path.write_text(json.dumps({**plan, "patch_size": [16, 16, 8], "batch_size": 6}))
    assert open_store(place.store).plan.classification.gathers
    settings = SETTINGS.model_copy(update={"recipe": "sgd"})  # which does not divide what rounding leaves of nothing
    port = _free_port()
    both = [_start(rank, port, "-c", TRAINED, str(place.folder), settings.to_json()) for rank in (0, 1)]
    alone = train(place, settings, name="alone")
    told = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    one, two = _weights(place, "alone"), _weights(place, "pair")
    assert any("attention" in name for name in one)
    assert _distance(one, two) < 1e-6
    assert train(place, settings, name="pair").validation == pytest.approx(alone.validation, abs=1e-3)


def test_a_signal_on_the_way_out_does_not_cost_the_name_of_the_lost_process():
    port = _free_port()
    both = [_start(rank, port, "-c", OVERTAKEN) for rank in (0, 1)]
    told = [process.communicate(timeout=100) for process in both]
    assert "[E-RANK-LOST] process 1 of 2 was lost" in told[0][0], told


def test_alone_nothing_is_exchanged():
    values = torch.arange(3.0)
    with joined("cpu", timeout_s=1) as ranks:
        assert ranks == ALONE
        assert ranks.is_writer
        assert ranks.any(True)
        assert not ranks.any(False)
        ranks.require_equal("plan", "a")
    assert total(values) is values
    assert gathered(values) is values
    assert everybodys("ab") == ["a", "b"]
    average_gradients([values])
    assert values.grad is None


@pytest.mark.parametrize(("batch", "size"), [(9, 2), (4, 4), (7, 3)])
def test_the_slots_of_all_are_the_batch(batch, size):
    slots = [Ranks(rank, size, rank).slots(batch) for rank in range(size)]
    assert [slot for part in slots for slot in part] == list(range(batch))
    assert max(map(len, slots)) - min(map(len, slots)) <= 1


def test_more_processes_than_patches_are_refused():
    with pytest.raises(UsageError, match="2 patches cannot be dealt to 3 processes") as caught:
        Ranks(0, 3, 0).slots(2)
    assert caught.value.code == "E-RANKS"


def test_what_is_for_one_process_is_refused_under_torchrun(monkeypatch):
    require_alone("this", "Do otherwise.")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun started several") as caught:
        require_alone("this", "Do otherwise.")
    assert caught.value.code == "E-RANKS"


def test_the_case_at_fault_is_told_by_the_process_that_holds_it(monkeypatch):
    batch = Batch(*[torch.zeros(2)] * 3, {}, ("a", "b"), (0, 1), torch.zeros(2, 0))
    monkeypatch.setattr(evidence, "everybodys", lambda here: [*here, "c"])
    assert evidence.not_finite("a loss", batch, []).code == "E-RANK-ENDED"
    assert "cases a, c" in str(evidence.not_finite("a loss", batch, ["a"]))


def test_each_process_takes_its_own_gpu(monkeypatch):
    assert Ranks(1, 2, 1).device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert Ranks(5, 8, 1).device("auto") == Ranks(5, 8, 1).device("cuda") == "cuda:1"
    assert Ranks(5, 8, 1).device("cpu") == "cpu"
    assert ALONE.device("auto") == "auto"
    with pytest.raises(UsageError, match=r"4 processes of this machine would share 1 GPU \(cuda:2\)"):
        Ranks(5, 8, 1).device("cuda:2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert Ranks(1, 2, 0).device("cuda:2") == "cuda:2"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    with pytest.raises(UsageError, match="5 processes of this machine would share 4 GPUs") as caught:
        Ranks(5, 8, 4).device("auto")
    assert (caught.value.code, "at most 4" in caught.value.remedy) == ("E-RANKS", True)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [10, 1])
def test_a_stop_in_the_middle_of_a_validation_stops_all_and_loses_nothing(workspace: Workspace, epochs):
    """On the way, and in the validation at the end; both have one case for each process, so none comes after it."""
    port, name = _free_port(), f"middle-{epochs}"
    settings = SETTINGS.model_copy(update={"epochs": epochs})
    arguments = ("-c", STOPPED, str(workspace.folder), settings.to_json(), name)
    both = [_start(rank, port, *arguments) for rank in (0, 1)]
    told = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    # The one that was asked gave its case up at once, the other ended its own.
    assert [out.split() for out, _ in told] == [["answered", "stopped"], ["stopped"]]
    assert (workspace.runs / name / "checkpoint.safetensors").is_file()
    assert train(workspace, settings, name=name).finished
