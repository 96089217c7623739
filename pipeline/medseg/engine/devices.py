"""Which device computes, and in which precision."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from medseg.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medseg.nn.network import Network

# Of glibc's malloc.h; what it comes to by itself in a process that takes and frees large blocks.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _USUAL_MMAP = 2**31 - 1, 32 * 2**20


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA, then Apple's GPU, then the CPU; anything named must exist.

    Raises:
        UsageError: E-DEVICE.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"unknown device {name!r}", code="E-DEVICE", remedy="Use auto, cpu, cuda, cuda:N or mps."
        ) from None
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing or device.type not in {"cpu", "cuda", "mps"}:
        raise UsageError(f"device {name!r} is not on this machine", code="E-DEVICE", remedy="Use --device auto or cpu.")
    return device


def make_deterministic() -> None:
    """The same result every time on the same machine, of every kind; what cannot promise it raises an error.

    cuBLAS reads its workspace from the environment, when it is first used.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(mode=True)


def amp_dtype(device: torch.device, *, enabled: bool) -> torch.dtype | None:
    """Reduced precision that the device gains from, or None for fp32.

    fp16 on a CPU is a hundred times slower than fp32; bf16 pays only where the device multiplies it natively.
    """
    if not enabled:
        return None
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return None


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Let the process keep what a step or a window on a CPU frees for the next one.

    glibc gives large blocks back to the system at once and asks for them anew, page by page: a tenth of a step and
    more, a fifth of a window in fp32. Elsewhere nothing is changed. Afterwards what is free is given back.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, _NEVER)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _USUAL_MMAP)
        libc.malloc_trim(0)


def is_about_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory; on a CPU torch says so in words only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """The context in which the network runs."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def place(network: Network, device: torch.device) -> Network:
    """Move to the device, channels last: the layout in which 3D convolutions run fastest on both CPU and GPU."""
    return network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[no-any-return, call-overload]
