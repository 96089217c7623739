"""Ending in good order."""

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
        assert "stopping: what is under way" in capfd.readouterr().err
        os.kill(os.getpid(), signal.SIGTERM)
        assert capfd.readouterr().err == ""
        assert asked()
    assert signal.getsignal(number) == before


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
