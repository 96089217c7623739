"""Which device computes, and in which precision."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from medseg.core.errors import UsageError

if TYPE_CHECKING:
    from medseg.nn.network import Network


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

    fp16 on a CPU is a hundred times slower than fp32; bf16 pays only where the CPU multiplies it natively.
    """
    if not enabled:
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return None


def is_about_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory; on a CPU torch says so in words only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """The context in which the network runs."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def place(network: Network, device: torch.device) -> Network:
    """Move to the device, channels last: the layout in which 3D convolutions run fastest on both CPU and GPU."""
    return network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[no-any-return, call-overload]
