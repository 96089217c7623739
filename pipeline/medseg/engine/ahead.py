"""The next batch, drawn by one thread while the step before it is made."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from medseg.data.batch import Batch


class Ahead:
    """Batches of a training in their order.

    A batch follows from the number of its step alone, so that one drawn ahead is the one that would have been drawn,
    and nothing of it need be saved. What fails in the thread is raised when its step comes.

    Args:
        draw: The batch of a step.
        threaded: Draw ahead; otherwise when asked.
    """

    def __init__(self, draw: Callable[[int], Batch], *, threaded: bool) -> None:
        self._draw = draw
        self._pool = ThreadPoolExecutor(1, "next batch") if threaded else None
        self._drawn: tuple[int, Future[Batch]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)  # who stops does not wait for a slow disk

    def batch(self, step: int) -> Batch:
        """Of a step; the one after it is begun."""
        if self._pool is None:
            return self._draw(step)
        ready = self._drawn[1] if self._drawn is not None and self._drawn[0] == step else None
        batch = self._draw(step) if ready is None else ready.result()
        self._drawn = step + 1, self._pool.submit(self._draw, step + 1)
        return batch
