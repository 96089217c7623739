"""Who does the cases: threads or processes of this machine; a process that dies costs one case and says why."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_THREADS = 2
_open = ExitStack()  # of a worker; it ends with the process


class Each(Protocol):
    """Whoever does a function of every item and gives the results in the items' order."""

    def __call__(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        on_death: Callable[[Item, str], Result],
        around: Callable[[], AbstractContextManager[None]],
    ) -> Iterator[Result]:
        """See `each_in_processes` for the arguments."""
        ...


def each_in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    on_death: Callable[[Item, str], Result],  # noqa: ARG001 - a thread does not die alone
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Result]:
    """`function` of every item, in order, two at a time: reading one overlaps with computing the other."""
    with around(), ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(function, items)


def each_in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    processes: int,
    on_death: Callable[[Item, str], Result],
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Result]:
    """`function` of every item, in order; in this process when one is enough.

    The processes are spawned, not forked: they hold no lock or device of this one, and behave alike on every system.
    When one dies, the cases it can have been working on run again, each in a process of its own; the one that kills its
    process again is the culprit, and the others go on.

    Args:
        function: Importable from its module, as its items and results must survive pickling; raises only what shall end
            the whole run.
        items: What to work on.
        processes: How many at a time.
        on_death: The result of an item whose process died, from the item and how the process ended.
        around: Makes what each process, or this one, has open while it works.
    """
    if processes <= 1:
        with around():
            yield from map(function, items)
        return
    waiting = list(items)
    while waiting:
        done, suspects = 0, 0
        pool = _pool(processes, around)
        try:
            futures = [pool.submit(function, item) for item in waiting]
            for future in futures:
                yield future.result()
                done += 1
        except BrokenProcessPool:
            suspects = processes
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        for item, future in zip(waiting[done:], futures[done:], strict=True):
            if _answered(future):
                yield future.result()
            elif suspects:
                yield _alone(function, item, on_death, around)
                suspects -= 1
            else:
                break
            done += 1
        waiting = waiting[done:]


def _alone(
    function: Callable[[Item], Result],
    item: Item,
    on_death: Callable[[Item, str], Result],
    around: Callable[[], AbstractContextManager[None]],
) -> Result:
    others, workers = set(multiprocessing.active_children()), set()
    try:
        with _pool(1, around) as pool:
            future = pool.submit(function, item)
            workers = set(multiprocessing.active_children()) - others
            return future.result()
    except BrokenProcessPool:  # the pool, which is closed by now, has waited for its process
        codes = [worker.exitcode for worker in workers if worker.exitcode]
        return on_death(item, _ending(codes[0] if codes else None))


def _pool(processes: int, around: Callable[[], AbstractContextManager[None]]) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare, initargs=(around,))


def _prepare(around: Callable[[], AbstractContextManager[None]]) -> None:
    """Ctrl-C reaches every process of a terminal; only the first one shall answer it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _open.enter_context(around())


def _answered(future: Future[Result]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _ending(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    cause = "; the system stops a process so when memory runs out" if name == "SIGKILL" else ""
    return f"its process was stopped by {name}{cause}"
