"""How much of the machine a training uses."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch

_GIB = 2**30


class Usage:
    """Processor and memory, of this process and of its device, since the last look."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = time.process_time(), time.monotonic()

    def read(self) -> dict[str, float]:
        """`cpu_percent` (100 is one core), `memory_gib` (most so far), on CUDA `gpu_memory_gib` and `gpu_percent`.

        What the system does not tell is left out; `gpu_percent` needs `nvidia-ml-py`, and a GPU that is not parted.
        """
        now = time.process_time(), time.monotonic()
        busy, passed = (after - before for after, before in zip(now, self._before, strict=True))
        self._before = now
        found = {"cpu_percent": 100 * busy / max(passed, 1e-6)}
        if (highest := _highest_bytes()) is not None:
            found["memory_gib"] = highest / _GIB
        if self._device.type == "cuda":
            found["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self._device) / _GIB
            if find_spec("pynvml"):
                with suppress(Exception):  # of the driver's library, which has its own
                    found["gpu_percent"] = float(torch.cuda.utilization(self._device))
        return found


def forget_peak(device: torch.device) -> None:
    """Let `peak_bytes` count from now on; where the system cannot (Linux can), it counts from the process's start."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """The most that this process took since then: of a GPU's memory what torch reserved, else of the machine's.

    None where the system does not tell.
    """
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else _highest_bytes()


def _highest_bytes() -> int | None:
    status = Path("/proc/self/status")  # resource tells of the process's whole life, which cannot be forgotten
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
