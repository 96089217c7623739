"""Ending in good order."""

import ctypes
import os
import signal
import threading
import time

import pytest

from medseg.engine.checkpoint import CHECKPOINT
from medseg.engine.stop import StoppedAtOnce, stop_requests


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_answered_at_once_and_the_handlers_are_put_back(tmp_path, number, capfd):
    before = signal.getsignal(number)
    with stop_requests(tmp_path) as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().err.count("stopping: what is under way") == 1
    assert (signal.getsignal(number), signal.set_wakeup_fd(-1)) == (before, -1)


def test_a_signal_is_answered_while_the_main_thread_is_inside_a_step(tmp_path):
    """libc's `system` stands for a step: Python's handlers run when it returns, here not before the answer is read."""
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    kept = os.dup(2)
    os.dup2(writer, 2)
    try:
        with stop_requests(tmp_path) as asked:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
            status = ctypes.CDLL(None).system(
                f"timeout 5 head -n 2 /dev/fd/{reader} | grep -q 'stopping: what'".encode()
            )
            assert asked()
    finally:
        os.dup2(kept, 2)
        for end in (reader, writer, kept):
            os.close(end)
    assert status == 0


@pytest.mark.parametrize(
    ("age_s", "kept"), [(None, "before the first checkpoint: .* begins anew"), (40, "of 40 s ago is kept, .* goes on")]
)
def test_a_second_interrupt_does_not_wait_and_says_what_is_kept(tmp_path, age_s, kept):
    if age_s is not None:
        (tmp_path / CHECKPOINT).touch()
        os.utime(tmp_path / CHECKPOINT, times=(time.time() - age_s,) * 2)
    with stop_requests(tmp_path) as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(StoppedAtOnce, match=kept):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stop_file_is_heard_once_and_taken_away_also_outside_the_main_thread(tmp_path):
    heard = []

    def work() -> None:
        with stop_requests(tmp_path) as asked:
            heard.append(asked())
            (tmp_path / "stop").touch()
            heard.append(asked())
            heard.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [False, True, True]
    assert not (tmp_path / "stop").exists()


def test_a_stop_file_above_ends_the_fold_that_runs(tmp_path):
    with stop_requests(tmp_path / "fold2") as asked:
        assert not asked()
        (tmp_path / "stop").touch()
        assert asked()
    assert not (tmp_path / "stop").exists()
