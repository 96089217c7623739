"""What a file does to its reader stays in the reading process; what it reads comes back the same."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import GeometryError, InputError, MedsegError, ResourceError
from medseg.core.geometry import Geometry
from medseg.core.reading import Containment, Reading
from medseg.core.settings import PreprocessSettings
from medseg.core.volume import LabelMap, Volume
from medseg.io import contained as module
from medseg.io.contained import can_contain, containable, contained
from medseg.io.decoded import Decoded, ReadOptions
from medseg.io.handover import Handed, Refusal, hand_over, take_over
from medseg.io.volumes import read_labels, read_volume, read_volumes, write_labels, write_volume

pytestmark = pytest.mark.skipif(not can_contain(), reason="reading is contained on Linux only")

HOSTILE = """
    import ctypes, os, signal, sys, time
    from pathlib import Path
    import numpy as np
    from medseg.core.errors import GeometryError
    from medseg.io.decoded import Decoded

    def segfault(path, options): ctypes.string_at(1)
    def abort(path, options): os.abort()
    def leave(path, options): os._exit(0)
    def leave_loudly(path, options): os._exit(9)
    def exit(path, options): sys.exit(3)
    def sleep(path, options): time.sleep(60)
    def doze(path, options):
        time.sleep(2)
        return pid(path, options)
    def deaf(path, options):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        time.sleep(60)
    def spin(path, options):
        while True: pass
    def eat(path, options): return np.ones(1 << 40, np.uint8)
    def nibble(path, options):
        held = []
        while True: held.append(np.ones(1 << 24, np.uint8))
    def fail(path, options): raise RuntimeError("Jane Doe 1970")
    def disk(path, options): raise OSError(5, "Input/output error")
    def recurse(path, options): return recurse(path, options)
    def refuse(path, options): raise GeometryError("no place", code="E-SPACING", remedy="Look.", file=path)
    def write(path, options):
        with (Path(path).parent / "out").open("wb") as file:
            for _ in range(3): file.write(bytes(1 << 26))
    def pid(path, options): return Decoded(np.full((1, 1, 1), os.getpid()), np.eye(4))
    def settled(path, options):
        numbers = [options.channels, *options.onto.shape, options.names["a"], len(options.names)]
        return Decoded(np.array(numbers).reshape(1, 1, -1), options.onto.affine, (options.reading.series,))
    def modules(path, options):
        heavy = {"torch", "monai", "SimpleITK", "itk"} & set(sys.modules)
        return Decoded(np.full((1, 1, 1), len(heavy)), np.eye(4))
    def remains(path, options):
        remains.count = getattr(remains, "count", 0) + 1
        return Decoded(np.full((1, 1, 1), remains.count), np.eye(4))
"""
LIMITS = Containment(read_memory_gib=0.125, read_timeout_s=60)
SHORT = LIMITS.model_copy(update={"read_timeout_s": 1})


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Readers that misbehave, in a module that the reading process can import as it does the real ones."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "hostile_readers.py").write_text(textwrap.dedent(HOSTILE))
    sys.path.insert(0, str(folder))
    import hostile_readers

    yield hostile_readers
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def keeper(hostile):
    with contained(LIMITS):
        yield


@pytest.fixture
def alone(monkeypatch):
    """Without the keeper that the other tests share."""
    monkeypatch.setattr(module, "_open", module._Open())


def asked(function, path=Path("x")) -> Decoded:
    return containable(function)(path, ReadOptions())


def refused(function, path=Path("case.nii.gz")) -> MedsegError:
    with pytest.raises(MedsegError) as caught:
        asked(function, path)
    assert caught.value.file == path
    return caught.value


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("segfault", "E-CRASH", "Segmentation fault"),
        ("abort", "E-CRASH", "Aborted"),
        ("leave", "E-CRASH", "without an answer"),
        ("leave_loudly", "E-CRASH", "exit code 9"),
        ("exit", "E-CRASH", "SystemExit"),
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
    error = refused(getattr(hostile, name), tmp_path / "case.nii.gz")
    assert error.code == code
    assert words.lower() in error.message.lower()
    assert error.remedy
    assert "Jane" not in str(error)
    read = asked(hostile.pid)
    assert read.array.item() != os.getpid()


def test_kinds_of_error_survive(keeper, hostile):
    assert type(refused(hostile.refuse)) is GeometryError
    assert type(refused(hostile.eat)) is ResourceError
    assert type(refused(hostile.segfault)) is InputError


def test_every_reading_has_a_process_of_its_own_that_remembers_nothing(keeper, hostile):
    pids = {asked(hostile.pid).array.item() for _ in range(5)}
    assert len(pids) == 5
    assert [asked(hostile.remains).array.item() for _ in range(3)] == [1, 1, 1]


def test_no_heavy_module_is_in_the_reading_process(keeper, hostile):
    assert asked(hostile.modules).array.item() == 0


def test_a_slow_reading_does_not_hold_up_the_others(keeper, hostile):
    slow = threading.Thread(target=asked, args=(hostile.doze,))
    slow.start()
    asked(hostile.pid)
    assert slow.is_alive()
    slow.join()


@pytest.mark.parametrize("name", ["sleep", "spin"])
def test_one_that_never_ends_is_ended(alone, hostile, name):
    with contained(SHORT):
        error = refused(getattr(hostile, name))
        assert error.code == "E-TIMEOUT"
        assert module._open.reader._process.poll() is None


def test_a_reading_process_that_is_killed_is_started_again(keeper, hostile):
    asked(hostile.pid)
    process = module._open.reader._process
    os.kill(process.pid, signal.SIGKILL)
    asked(hostile.pid)
    assert module._open.reader._process.pid != process.pid


def test_one_that_ignores_its_alarm_is_given_up(alone, hostile, monkeypatch):
    monkeypatch.setattr(module, "_GRACE_S", 1)
    began = time.perf_counter()
    with contained(SHORT):
        assert refused(hostile.deaf).code == "E-TIMEOUT"
        assert module._open.reader._process is None
    assert time.perf_counter() - began < 10


def test_one_that_cannot_be_started_says_so(alone, hostile, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with contained(LIMITS), pytest.raises(MedsegError) as caught:
        asked(hostile.pid)
    assert caught.value.code == "E-CONTAIN"


def test_it_ends_with_the_last_user(alone, hostile):
    with contained(LIMITS):
        with contained(Containment()):
            asked(hostile.pid)
        process = module._open.reader._process
        asked(hostile.pid)
        assert process.poll() is None
    assert process.poll() == 0
    assert module._open.reader is None


def test_readings_end_when_who_asked_is_killed(hostile, tmp_path):
    script = f"""
        import os, signal, sys, threading, time
        sys.path.insert(0, {str(Path(hostile.__file__).parent)!r})
        from pathlib import Path
        import hostile_readers
        from medseg.core.reading import Containment
        from medseg.io import contained
        from medseg.io.decoded import ReadOptions
        with contained.contained(Containment()):
            print(contained.containable(hostile_readers.pid)(Path("x"), ReadOptions()).array.item(), flush=True)
            print(contained._open.reader._process.pid, flush=True)
            sleep = contained.containable(hostile_readers.sleep)
            threading.Thread(target=sleep, args=(Path("x"), ReadOptions())).start()
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout.split()[1])
    end = time.monotonic() + 5
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)


GRID = Geometry.from_parts((6, 5, 4), (0.7, 0.8, 3.0), np.diag([-1.0, -1.0, 1.0]), (4.0, -30.0, 100.0))


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "x.nrrd", "x.mha"])
def test_what_is_read_is_the_same(keeper, tmp_path, monkeypatch, name):
    source = Volume(np.random.default_rng(4).normal(size=(2, *GRID.shape)).astype(np.float32), GRID)
    write_volume(source, tmp_path / name)
    (tmp_path / name).rename(tmp_path / f"renamed.{name}")
    with (tmp_path / f"renamed.{name}").open("ab") as file:
        file.write(b"left over")
    path = tmp_path / f"renamed.{name}"
    apart = read_volume(path, channels=2)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_open", module._Open())
        direct = read_volume(path, channels=2)
    np.testing.assert_array_equal(apart.array, direct.array)
    assert apart.array.strides == direct.array.strides
    assert (apart.array.dtype, apart.source, apart.warnings) == (direct.array.dtype, direct.source, direct.warnings)
    assert apart.geometry.deviation_mm(direct.geometry) == 0
    assert "W-TRAILING" in apart.warnings
    apart.array[:] = 0


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
    decoded = containable(hostile.settled)(Path("x"), options)
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


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("step", [1, -1, 2])
def test_voxels_keep_their_order_in_memory(axes, step):
    array = np.arange(8 * 5 * 4, dtype=np.int16).reshape(8, 5, 4).transpose(axes)[::step]
    again = handed_on(Decoded(array, np.eye(4))).array
    np.testing.assert_array_equal(again, array)
    np.testing.assert_array_equal(np.ravel(again, order="K"), np.ravel(array.copy(order="K"), order="K"))


def handed_on(decoded, **changes) -> Decoded:
    handed, descriptor = hand_over(decoded)
    try:
        return take_over(Handed.model_validate({**handed.model_dump(), **changes}), descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("change", [{"stored": (9, 5, 4)}, {"axes": (0, 0, 1)}, {"axes": (0, 1)}, {"dtype": "<i4"}])
def test_an_answer_that_does_not_add_up_is_not_believed(change):
    with pytest.raises(ValueError, match="do not fit"):
        handed_on(Decoded(np.zeros((8, 5, 4), np.int16), np.eye(4)), **change)


def test_a_refusal_of_no_known_kind_is_a_plain_one():
    words = {"kind": "contextmanager", "message": "m", "code": "E-X", "remedy": "", "file": None}
    assert type(Refusal(**words).error()) is MedsegError


def test_every_field_of_what_is_decoded_makes_the_way():
    affine = np.array([[np.nan, 0.1, -2, 3e-7], [0, np.inf, 1 / 3, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    decoded = Decoded(np.zeros((2, 3, 4), np.int16), affine, ("W-X",), "HU", "CT")
    again = handed_on(decoded)
    np.testing.assert_array_equal(again.affine, affine)
    words = {field.name for field in dataclasses.fields(decoded)} - {"array", "affine"}
    assert [getattr(again, word) for word in words] == [getattr(decoded, word) for word in words]
    assert None not in [getattr(decoded, word) for word in words]


def test_off_means_in_this_process(alone, hostile):
    with contained(Containment(contain=False)):
        assert asked(hostile.pid).array.item() == os.getpid()


def test_a_system_without_limits_is_flagged(alone, hostile, monkeypatch):
    monkeypatch.setattr(module, "can_contain", lambda: False)
    with contained(Containment()):
        read = asked(hostile.pid)
    assert read.array.item() == os.getpid()
    assert read.warnings == ("W-NOT-CONTAINED",)
