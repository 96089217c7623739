from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from medseg.engine.devices import amp_dtype, freed_memory_kept

PAGES = """
import resource, sys, torch
from medseg.engine.devices import freed_memory_kept

block = 48 * 2**20  # bytes, above what glibc ever keeps by itself
for device in sys.argv[1:]:
    fresh = 0
    with freed_memory_kept(torch.device(device)):
        for _ in range(40):  # the first few, until the holes between the blocks have grown together, are always fresh
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(block, dtype=torch.uint8)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            fresh += faults > 0.1 * block / resource.getpagesize()
    print(fresh)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has this setting")
def test_a_step_on_a_cpu_takes_the_memory_that_the_last_one_freed():
    # a GPU's training leaves the setting alone: the control
    program = [sys.executable, "-c", PAGES, "cuda", "cpu"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back == 40
    assert kept < 20


def test_elsewhere_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("there is no such library"))
    with freed_memory_kept(torch.device("cpu")):
        pass


@pytest.mark.parametrize(("major", "dtype"), [(7, torch.float16), (8, torch.bfloat16)])
def test_a_gpu_that_only_emulates_bf16_works_in_fp16(monkeypatch, major, dtype):
    """torch calls bf16 supported on a T4 or V100, too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=major))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)
    assert amp_dtype(torch.device("cuda:1"), enabled=True) == dtype
