"""How long each part of the work on a case takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor


class Watch:
    """Seconds by part of the work."""

    def __init__(self, start: float) -> None:
        self._last = start
        self._seconds: dict[str, float] = {}

    @property
    def seconds(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in self._seconds.items()}

    def lap(self, name: str) -> None:
        """Count the time since the last lap."""
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    def timed(self, parts: Iterable[Tensor], name: str) -> Iterator[Tensor]:
        """Count the time that each part takes to arrive; what is done with it belongs to the next lap."""
        for part in parts:
            self.lap(name)
            yield part
            del part  # else it would be held while the next is made
            self.lap("export")
