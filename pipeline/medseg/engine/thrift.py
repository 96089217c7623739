"""What is given up, one thing after another, when a device's memory does not hold a case."""

from __future__ import annotations

import logging
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

import torch

from medseg.core.errors import ResourceError
from medseg.engine.devices import is_about_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from medseg.core.geometry import Shape

_Answer = TypeVar("_Answer")

logger = logging.getLogger(__name__)


class Thrift(IntEnum):
    """Rungs of the ladder that a case goes down."""

    NONE = 0
    ONE_WINDOW = 1
    STITCH_ON_CPU = 2
    CPU = 3


THRIFT_WORDS = {
    Thrift.ONE_WINDOW: "one window at a time, because the memory did not hold more",
    Thrift.STITCH_ON_CPU: "windows were blended on the CPU, because the device's memory did not hold the case",
    Thrift.CPU: "the case was run on the CPU, because the device's memory did not hold it",
}


def rungs_of(device: torch.device) -> tuple[Thrift, ...]:
    """The rungs that exist on a device, the fastest first."""
    return tuple(Thrift) if device.type != "cpu" else (Thrift.NONE, Thrift.ONE_WINDOW)


def within_memory(
    answer: Callable[[Thrift], _Answer], rungs: Sequence[Thrift], *, shape: Shape, file: Path | None = None
) -> tuple[_Answer, Thrift]:
    """Answer on the first rung on which the memory suffices, and say on which.

    Args:
        answer: Tries one rung.
        rungs: To try, the fastest first.
        shape: Of the case on the network grid, for the error.
        file: The case's, for the error.

    Raises:
        ResourceError: E-MEMORY when it suffices on none.
    """
    for rung in rungs:
        try:
            return answer(rung), rung
        except (RuntimeError, MemoryError) as error:
            if not is_about_memory(error):
                raise
        # Only here, behind the handler, has the error let go of the tensors that its frames held.
        logger.warning("out of memory for %s voxels with %s", "x".join(map(str, shape)), rung.name)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    raise ResourceError(
        f"the memory does not hold a case of {'x'.join(map(str, shape))} voxels on the network grid",
        code="E-MEMORY",
        file=file,
        remedy="Crop the volume to the region of interest, or use a machine with more memory.",
    )
