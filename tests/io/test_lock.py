"""A lock that the system lets go of."""

import errno
import json
import os
import subprocess
import sys
import textwrap
import time

import pytest

from medseg.core.errors import BatchError, InputError
from medseg.io import lock
from medseg.io.lock import locked

HOLD = """
    import sys, time
    from pathlib import Path
    from medseg.io.lock import locked

    with locked(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(60)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the lock is of POSIX")


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_at_once_and_told_who_holds_it(other, tmp_path):
    start = time.process_time()
    with pytest.raises(BatchError, match=rf"process {other.pid} on ") as caught, locked(tmp_path / "lock"):
        pass
    assert time.process_time() - start < 1
    assert (caught.value.code, caught.value.exit_code) == ("E-LOCKED", 7)


def test_the_lock_of_a_killed_process_is_taken_over(other, tmp_path):
    other.kill()
    other.wait()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == other.pid
    with locked(tmp_path / "lock"):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "lock").exists()


def test_the_lock_of_another_machine_is_left_alone(tmp_path):
    (tmp_path / "lock").write_text('{"pid": 1, "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00"}')
    with pytest.raises(BatchError, match="process 1 on elsewhere, since 2026"), locked(tmp_path / "lock"):
        pass
    assert (tmp_path / "lock").exists()


def test_it_is_given_back_on_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock"):
        _ = 1 / 0
    with locked(tmp_path / "lock"):
        pass


def test_a_full_disk_and_a_missing_folder_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError) as caught, locked(tmp_path / "nowhere" / "lock"):
        pass
    assert caught.value.code == "E-NOT-WRITABLE"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock.os, "write", full)
    with pytest.raises(InputError) as caught, locked(tmp_path / "lock"):
        pass
    assert (caught.value.code, caught.value.file) == ("E-DISK-FULL", tmp_path / "lock")
