"""What a file does to its reader stays in the reading process; what it reads comes back the same."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import GeometryError, InputError, ResourceError
from medseg.core.geometry import Geometry
from medseg.core.reading import Containment, Reading
from medseg.core.settings import PreprocessSettings
from medseg.core.volume import LabelMap, Volume
from medseg.io.contained import can_contain, contained
from medseg.io.decoded import ReadOptions
from medseg.io.volumes import read_labels, read_volume, read_volumes, write_labels, write_volume

pytestmark = pytest.mark.skipif(not can_contain(), reason="reading is contained on Linux only")
LIMITS = Containment(read_memory_gib=0.125, read_timeout_s=60)
GRID = Geometry.from_parts((6, 5, 4), (0.7, 0.8, 3.0), np.diag([-1.0, -1.0, 1.0]), (4.0, -30.0, 100.0))


@pytest.fixture(scope="module")
def keeper(hostile):
    with contained(LIMITS):
        yield


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("segfault", "E-CRASH", "Segmentation fault"),
        ("abort", "E-CRASH", "Aborted"),
        ("leave", "E-CRASH", "without an answer"),
        ("leave_loudly", "E-CRASH", "exit code 9"),
        ("give_up", "E-CRASH", "SystemExit"),
        ("fail", "E-CRASH", "RuntimeError in hostile_readers.py, line"),
        ("recurse", "E-CRASH", "RecursionError"),
        ("eat", "E-MEMORY", "0.125 GiB"),
        ("nibble", "E-MEMORY", "0.125 GiB"),
        ("disk", "E-READ", "input/output error"),
        ("write", "E-READ", "file too large"),
        ("refuse", "E-SPACING", "no place"),
    ],
)
def test_a_reader_that_misbehaves_is_one_refusal(keeper, hostile, tmp_path, name, code, words):
    error = hostile.refused(name, tmp_path / "case.nii.gz")
    assert error.code == code
    assert words.lower() in error.message.lower()
    assert error.remedy
    assert "Jane" not in str(error)
    read = hostile.asked("pid")
    assert read.array.item() != os.getpid()


def test_kinds_of_error_survive(keeper, hostile):
    assert type(hostile.refused("refuse")) is GeometryError
    assert type(hostile.refused("eat")) is ResourceError
    assert type(hostile.refused("segfault")) is InputError


def test_every_reading_has_a_process_of_its_own_that_remembers_nothing(keeper, hostile):
    pids = {hostile.number("pid") for _ in range(5)}
    assert len(pids) == 5
    assert [hostile.number("remains") for _ in range(3)] == [1, 1, 1]


def test_no_heavy_module_is_in_the_reading_process(keeper, hostile):
    assert hostile.number("modules") == 0


def test_a_slow_reading_does_not_hold_up_the_others(keeper, hostile):
    slow = threading.Thread(target=hostile.asked, args=("doze",))
    slow.start()
    hostile.asked("pid")
    assert slow.is_alive()
    slow.join()


def test_a_reading_process_that_is_killed_is_started_again(keeper, hostile):
    hostile.asked("pid")
    killed = hostile.number("keeper")
    os.kill(killed, signal.SIGKILL)
    hostile.asked("pid")
    assert hostile.number("keeper") != killed


def test_labels_and_cases_of_several_files(keeper, tmp_path, monkeypatch):
    array = np.random.default_rng(3).integers(0, 300, GRID.shape).astype(np.uint16)
    write_labels(LabelMap(array, GRID), tmp_path / "mask é\udcff.nii.gz")
    mask = read_labels(tmp_path / "mask é\udcff.nii.gz")
    assert isinstance(mask, LabelMap)
    np.testing.assert_array_equal(mask.array, array)
    write_volume(Volume(array[None], GRID), tmp_path / "b.nii.gz")
    monkeypatch.chdir(tmp_path)
    volume = read_volumes([Path("b.nii.gz"), Path("b.nii.gz")], channels=2)
    np.testing.assert_array_equal(volume.array, np.stack([array, array]))
    with pytest.raises(InputError) as caught:
        read_volumes([Path("b.nii.gz"), Path("c.nii.gz")])
    assert (caught.value.code, caught.value.file) == ("E-NOT-FOUND", Path("c.nii.gz"))


def test_what_a_person_settled_reaches_the_reader(keeper, recipes):
    path = recipes.save(recipes.nifti(codes=(0, 0)))
    with pytest.raises(GeometryError):
        read_volume(path)
    for reading in (Reading(assume_orientation=True), PreprocessSettings(assume_orientation=True)):
        assert read_volume(path, reading).warnings == ("W-ORIENTATION-ASSUMED",)


def test_every_option_reaches_the_decoder(keeper, hostile):
    options = ReadOptions(Reading(series="3"), 2, GRID, {"a": 7, "b": 9})
    assert None not in [getattr(options, field.name) for field in dataclasses.fields(options)]
    decoded = hostile.asked("settled", options=options)
    assert decoded.array.ravel().tolist() == [2, 6, 5, 4, 7, 2]
    assert decoded.warnings == ("3",)
    np.testing.assert_array_equal(decoded.affine, GRID.affine)


def test_memory_and_files_are_given_back(keeper, tmp_path):
    write_volume(Volume(np.arange(120, dtype=np.int16).reshape(1, *GRID.shape), GRID), tmp_path / "x.nii")
    read_volume(tmp_path / "x.nii")
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    volumes = [read_volume(tmp_path / "x.nii") for _ in range(5)]
    del volumes
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
