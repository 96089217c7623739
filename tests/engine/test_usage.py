"""What of the machine is used."""

import sys
import time

import pytest
import torch

from medseg.engine import usage
from medseg.engine.usage import Usage


def test_a_busy_process_uses_its_core_and_a_sleeping_one_does_not():
    seen = Usage(torch.device("cpu"))
    time.sleep(0.2)
    assert seen.read()["cpu_percent"] < 50
    start = time.process_time()
    while time.process_time() - start < 0.05:
        pass
    found = seen.read()
    assert found["cpu_percent"] > 1
    assert "gpu_percent" not in found


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not tell")
def test_memory_is_in_gib():
    assert 0.05 < Usage(torch.device("cpu")).read()["memory_gib"] < 500


def test_a_gpu_without_its_library_tells_memory_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "utilization", lambda _: 87)
    monkeypatch.setattr(usage, "find_spec", lambda _: None)
    found = Usage(torch.device("cuda")).read()
    assert found["gpu_memory_gib"] == 3
    assert "gpu_percent" not in found
    monkeypatch.setattr(usage, "find_spec", lambda _: object())
    assert Usage(torch.device("cuda")).read()["gpu_percent"] == 87

    def refused(_) -> int:
        message = "NVMLError_NotSupported"  # of a part of a GPU
        raise RuntimeError(message)

    monkeypatch.setattr(torch.cuda, "utilization", refused)
    assert Usage(torch.device("cuda")).read().keys() == found.keys()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak cannot be forgotten")
def test_a_peak_can_be_forgotten():
    cpu = torch.device("cpu")
    usage.forget_peak(cpu)
    start = usage.peak_bytes(cpu)
    torch.ones(64 * 2**20)
    assert usage.peak_bytes(cpu) - start > 250 * 2**20
    usage.forget_peak(cpu)
    assert abs(usage.peak_bytes(cpu) - start) < 100 * 2**20


def test_the_peak_of_a_gpu_is_what_torch_reserved(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 5)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: told.append(True))
    told = []
    usage.forget_peak(torch.device("cuda"))
    assert (usage.peak_bytes(torch.device("cuda")), told) == (5, [True])


def test_where_linux_does_not_say_the_process_is_asked_for_its_whole_life(monkeypatch):
    monkeypatch.setattr(usage.Path, "exists", lambda _: False)
    assert 50 * 2**20 < usage.peak_bytes(torch.device("cpu")) < 500 * 2**30
    monkeypatch.setattr(sys, "platform", "win32")
    assert usage.peak_bytes(torch.device("cpu")) is None
    assert "memory_gib" not in Usage(torch.device("cpu")).read()
