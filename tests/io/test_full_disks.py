"""Writing on a full disk, or killed, or twice at once: the old file or the new one, never a part."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap
from medseg.io.volumes import read_labels, write_labels

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and signals of POSIX")

SHAPE = (96, 96, 64)
NAMES = ["x.nii", "x.nii.gz", "x.nrrd", "x.seg.nrrd", "x.mha"]
WRITER = """
    import sys
    import numpy as np
    from medseg.core.errors import MedsegError
    from medseg.core.geometry import Geometry
    from medseg.core.volume import LabelMap
    from medseg.io.volumes import write_labels

    def mask(seed):
        return LabelMap(np.random.default_rng(seed).integers(0, 9, %r).astype(np.uint8), Geometry.from_parts(%r))
"""


def start(program, *arguments):
    text = textwrap.dedent(WRITER % (SHAPE, SHAPE)) + textwrap.dedent(program)
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def mask(seed):
    return LabelMap(np.random.default_rng(seed).integers(0, 9, SHAPE).astype(np.uint8), Geometry.from_parts(SHAPE))


def test_o01_a_disk_without_room(tmp_path):
    """A limit on the size of files acts as a full disk does: bytes are written, then no more."""
    program = f"""
        import resource
        from pathlib import Path
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        for name in {NAMES!r}:
            try:
                write_labels(mask(1), Path(sys.argv[1]) / name)
            except MedsegError as error:
                print(error.code)
    """
    old = b"the earlier result"
    for name in NAMES:
        (tmp_path / name).write_bytes(old)
    out, err = start(program, tmp_path).communicate(timeout=120)
    assert out.split() == ["E-DISK-FULL"] * len(NAMES), err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(NAMES, old)


def test_o06_killed_while_overwriting(tmp_path):
    """Twenty times, each at another moment: what stands there is whole, and is one of those that were written."""
    path = tmp_path / "x.nii.gz"
    write_labels(mask(0), path)
    program = """
        import os, signal, time
        from medseg.io.volumes import read_labels

        masks = [mask(seed) for seed in (0, 1, 2)]
        rng = np.random.default_rng(4)
        for _ in range(20):
            writer = os.fork()
            while not writer:
                for seed in (1, 2):
                    write_labels(masks[seed], sys.argv[1])
            time.sleep(rng.uniform(0.01, 0.2))
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
            found = read_labels(sys.argv[1]).array
            print([seed for seed in (0, 1, 2) if np.array_equal(found, masks[seed].array)], flush=True)
    """
    out, err = start(program, path).communicate(timeout=120)
    found = out.split()
    assert len(found) == 20, err
    assert set(found) <= {"[0]", "[1]", "[2]"}
    left = [other for other in tmp_path.iterdir() if other != path]
    assert left, "no writer was killed in the middle"
    assert all(other.name.startswith(".tmp-") for other in left)


def test_o07_two_that_write_one_file(tmp_path):
    program = """
        for _ in range(4):
            write_labels(mask(int(sys.argv[2])), sys.argv[1])
    """
    path = tmp_path / "x.nii.gz"
    write_labels(mask(1), path)
    writers = [start(program, path, seed) for seed in (1, 2)]
    known = [mask(seed).array for seed in (1, 2)]
    changes = set()
    while any(process.poll() is None for process in writers):
        try:
            found = read_labels(path).array
        except InputError as error:
            changes.add(error.code)
            continue
        assert any(np.array_equal(found, one) for one in known)
    assert changes <= {"E-INPUT-CHANGED"}
    assert [process.communicate()[1] for process in writers] == ["", ""]
    assert list(tmp_path.iterdir()) == [path]


def test_o09_a_name_longer_than_the_system_allows(tmp_path):
    with pytest.raises(InputError) as caught:
        write_labels(mask(0), tmp_path / f"{'x' * 250}.nii.gz")
    assert caught.value.code == "E-PATH-TOO-LONG"
    assert list(tmp_path.iterdir()) == []
