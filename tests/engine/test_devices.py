from __future__ import annotations

import platform
import resource

import pytest
import torch

from medseg.engine.devices import freed_memory_kept

BLOCK = 48 * 2**20  # bytes, above what glibc ever keeps by itself


def _page_faults(device: str) -> int:
    with freed_memory_kept(torch.device(device)):
        for _ in range(2):
            torch.ones(BLOCK, dtype=torch.uint8)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(3):
            torch.ones(BLOCK, dtype=torch.uint8)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has this setting")
def test_a_step_on_a_cpu_takes_the_memory_that_the_last_one_freed():
    pages = BLOCK // resource.getpagesize()
    # a GPU's training leaves the setting alone: the control, before and after
    for device, few in [("cuda", False), ("cpu", True), ("cuda", False)]:
        assert (_page_faults(device) < 0.1 * pages) == few


def test_elsewhere_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("there is no such library"))
    with freed_memory_kept(torch.device("cpu")):
        pass
