"""The one OpenVINO core of this process."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvino import Core


@cache
def openvino_core() -> Core:
    """The core, made at its first use and kept until the process ends.

    Each core's CPU plugin puts a signal stack of its own in place of the one it finds, and back when it goes. Of two
    cores that do not end in the reverse order of their start, the second puts back memory that the first has freed:
    the next signal, a Ctrl-C or a SIGTERM, would then crash Python. One that stays cannot.
    """
    import openvino

    return openvino.Core()
