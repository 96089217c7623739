"""Ending a training in good order: Ctrl-C, SIGTERM, or a file called `stop` in the run's folder or the one above."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import FrameType

Thing = TypeVar("Thing")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2
_HEARD = (
    "stopping: what is under way (a step, a window, a case) is finished and what was trained is kept; "
    "a second Ctrl-C does not wait"
)


class Stopped(BaseException):
    """Somebody asked to stop; what was being computed is given up, what was trained is not."""


class StoppedAtOnce(BaseException):
    """Somebody asked a second time, and does not wait; says what is kept."""

    def __init__(self, folder: Path) -> None:
        from medseg.engine.checkpoint import CHECKPOINT  # here: the command knows this class before it loads torch

        path = folder / CHECKPOINT
        if not path.exists():
            super().__init__("stopped at once, before the first checkpoint: the same command begins anew")
            return
        age_s = max(time.time() - path.stat().st_mtime, 0)
        super().__init__(
            f"stopped at once; the checkpoint of {age_s:.0f} s ago is kept, and the same command goes on from there"
        )


@contextmanager
def _answered_at_once() -> Iterator[None]:
    """Answer the first signal in words while the main thread is inside a step: its handlers wait for torch to return.

    The system's own handler writes each signal into a socket, and a thread reads it. Past every buffer and lock, for
    the main thread may be in the middle of a line.
    """
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)

    def answer() -> None:
        while (number := ear.recv(1)) and number[0] not in _SIGNALS:
            pass
        if number:
            with suppress(OSError):  # nobody reads any more
                os.write(_STDERR, f"\n{_HEARD}\n".encode())

    listener = threading.Thread(target=answer, daemon=True)
    listener.start()
    before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        mouth.close()
        listener.join()
        ear.close()


def heed(stop_asked: Callable[[], bool]) -> None:
    """Ask once.

    Raises:
        Stopped: When the answer is yes.
    """
    if stop_asked():
        raise Stopped


def unless(stop_asked: Callable[[], bool], things: Iterable[Thing]) -> Iterator[Thing]:
    """One after the other, asking before each.

    Raises:
        Stopped: When the answer is yes.
    """
    for thing in things:
        heed(stop_asked)
        yield thing


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hear no signal for a moment; in the main thread, which alone hears them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_file_heard(folder: Path) -> bool:
    """Whether a stop file lies there; it is taken away."""
    stop_file = folder / "stop"
    if not stop_file.exists():
        return False
    stop_file.unlink(missing_ok=True)
    return True


@contextmanager
def stop_requests(folder: Path, *, aloud: bool = True) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether somebody asked to stop; it is asked between steps, windows and cases.

    A stop file is taken away when it was heard; one in the folder above ends the fold of a cross-validation that runs.
    Outside the main thread only the file works.

    Args:
        folder: Of the run.
        aloud: Answer the first signal in words at once, on standard error.

    Raises:
        StoppedAtOnce: Wherever a second Ctrl-C finds the training.
    """
    heard = threading.Event()

    def hear(number: int, _frame: FrameType | None) -> None:
        if heard.is_set() and number == signal.SIGINT:
            raise StoppedAtOnce(folder)
        heard.set()

    def asked() -> bool:
        if stop_file_heard(folder) or stop_file_heard(folder.parent):
            heard.set()
        return heard.is_set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, hear) for number in _SIGNALS}
    try:
        with _answered_at_once() if aloud else nullcontext():
            yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
