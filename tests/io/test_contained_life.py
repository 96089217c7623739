"""The reading process from its start to its end: opened and closed by each test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import MedsegError
from medseg.core.geometry import Geometry
from medseg.core.reading import Containment
from medseg.core.volume import Volume
from medseg.io.contained import can_contain, contained
from medseg.io.volumes import read_volume, write_volume

pytestmark = pytest.mark.skipif(not can_contain(), reason="reading is contained on Linux only")
LIMITS = Containment(read_memory_gib=0.125, read_timeout_s=60)
SHORT = LIMITS.model_copy(update={"read_timeout_s": 1})
GRID = Geometry.from_parts((6, 5, 4), (0.7, 0.8, 3.0), np.diag([-1.0, -1.0, 1.0]), (4.0, -30.0, 100.0))


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and " Z " not in stat.read_text()


@pytest.mark.parametrize("name", ["sleep", "spin"])
def test_one_that_never_ends_is_ended(hostile, name):
    with contained(SHORT):
        keeper = hostile.number("keeper")
        assert hostile.refused(name).code == "E-TIMEOUT"
        assert hostile.number("keeper") == keeper


def test_one_that_ignores_its_alarm_is_given_up(hostile):
    began = time.perf_counter()
    with contained(SHORT, grace_s=1):
        keeper = hostile.number("keeper")
        assert hostile.refused("deaf").code == "E-TIMEOUT"
        assert not is_running(keeper)
    assert time.perf_counter() - began < 30


def test_one_that_cannot_be_started_says_so(hostile, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with contained(LIMITS), pytest.raises(MedsegError) as caught:
        hostile.asked("pid")
    assert caught.value.code == "E-CONTAIN"


def test_it_ends_with_the_last_user(hostile):
    with contained(LIMITS):
        with contained(Containment()):
            keeper = hostile.number("keeper")
        assert hostile.number("keeper") == keeper
    assert not is_running(keeper)


def test_what_one_reading_loads_is_there_for_the_next_and_nobody_elses_is(hostile):
    with contained(LIMITS):
        assert [hostile.number(name) for name in ("loads", "loads", "modules")] == [0, 1, 0]
    with contained(LIMITS):
        assert hostile.number("loads") == 0


def test_readings_end_when_who_asked_is_killed(hostile, tmp_path):
    script = f"""
        import os, signal, sys, threading, time
        sys.path.insert(0, {str(hostile.folder)!r})
        from pathlib import Path
        import hostile_readers
        from medseg.core.reading import Containment
        from medseg.io import contained
        from medseg.io.decoded import ReadOptions
        with contained.contained(Containment()):
            print(contained.containable(hostile_readers.keeper)(Path("x"), ReadOptions()).array.item(), flush=True)
            sleep = contained.containable(hostile_readers.sleep)
            threading.Thread(target=sleep, args=(Path("x"), ReadOptions())).start()
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    end = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_off_means_in_this_process(hostile):
    with contained(Containment(contain=False)):
        assert hostile.number("pid") == os.getpid()


def test_a_system_without_limits_is_flagged(hostile, monkeypatch):
    monkeypatch.setattr("medseg.io.contained.can_contain", lambda: False)
    with contained(Containment()):
        read = hostile.asked("pid")
    assert read.array.item() == os.getpid()
    assert read.warnings == ("W-NOT-CONTAINED",)


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "x.nrrd", "x.mha"])
def test_what_is_read_is_the_same(tmp_path, name):
    source = Volume(np.random.default_rng(4).normal(size=(2, *GRID.shape)).astype(np.float32), GRID)
    write_volume(source, tmp_path / name)
    (tmp_path / name).rename(tmp_path / f"renamed.{name}")
    with (tmp_path / f"renamed.{name}").open("ab") as file:
        file.write(b"left over")
    path = tmp_path / f"renamed.{name}"
    direct = read_volume(path, channels=2)
    with contained(LIMITS):
        apart = read_volume(path, channels=2)
    np.testing.assert_array_equal(apart.array, direct.array)
    assert apart.array.strides == direct.array.strides
    assert (apart.array.dtype, apart.source, apart.warnings) == (direct.array.dtype, direct.source, direct.warnings)
    assert apart.geometry.deviation_mm(direct.geometry) == 0
    assert "W-TRAILING" in apart.warnings
    apart.array[:] = 0
