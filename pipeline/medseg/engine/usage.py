"""How much of the machine a training uses."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec

import torch

_GIB = 2**30


class Usage:
    """Processor and memory, of this process and of its device, since the last look."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = time.process_time(), time.monotonic()

    def read(self) -> dict[str, float]:
        """`cpu_percent` (100 is one core), `memory_gib` (most so far), on CUDA `gpu_memory_gib` and `gpu_percent`.

        What the system does not tell is left out; `gpu_percent` needs `nvidia-ml-py`.
        """
        now = time.process_time(), time.monotonic()
        busy, passed = (after - before for after, before in zip(now, self._before, strict=True))
        self._before = now
        found = {"cpu_percent": 100 * busy / max(passed, 1e-6)}
        if sys.platform != "win32":
            import resource

            unit = 1 if sys.platform == "darwin" else 1024
            found["memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB
        if self._device.type == "cuda":
            found["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self._device) / _GIB
            if find_spec("pynvml"):
                found["gpu_percent"] = float(torch.cuda.utilization(self._device))
        return found
