"""The listener against a real peer, DCMTK: series in, SEG and SR out, kills in between."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, generate_uid

from medseg.io.contained import can_contain
from medseg.io.volumes import read_labels, read_volume

OWN_READERS = True
LPS = np.array([[9.0, 0, 0, -150], [0, -9.0, 0, 120], [0, 0, 9.0, 55], [0, 0, 0, 1]])
SHAPE = (36, 34, 12)
CANARY = "Müller^Jörg"


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def until(found, *, seconds=60.0):
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return value


class Hospital:
    """A listener, and an archive that it sends to."""

    def __init__(self, stack: ExitStack, dcmtk: dict[str, str], bundle: Path, folder: Path) -> None:
        self._stack, self._dcmtk = stack, dcmtk
        self.bundle, self.work, self.archive = bundle, folder / "work", folder / "archive"
        self.archive.mkdir()
        self.port, self.archive_port = free_port(), free_port()
        self.log = folder / "log"
        self.listener: subprocess.Popen[bytes] | None = None

    def start_archive(self) -> subprocess.Popen[bytes]:
        words = [self._dcmtk["storescp"], "-od", str(self.archive), "-aet", "ARCHIVE", str(self.archive_port)]
        return self._started(words)

    def start(self, *options: str, limit: int | None = None) -> subprocess.Popen[bytes]:
        fast = ("--settle", "1s", "--set", "listen.retry_s=0.3", "--set", "infer.contain=false")
        words = [sys.executable, "-m", "medseg", "listen", "--bundle", str(self.bundle), "-w", str(self.work), "-v"]
        words += ["--port", str(self.port), *fast, "--json", *options]
        if "--out" not in options:
            words += ["--send", f"ARCHIVE@127.0.0.1:{self.archive_port}"]
        self.listener = self._started(words, limit=limit)
        until(lambda: self.echo() == 0 or self.listener.poll() is not None)
        return self.listener

    def _started(self, words: list[str], *, limit: int | None = None) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log)
        if limit is not None:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        self._stack.callback(self._end, process)
        return process

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()

    def echo(self) -> int:
        words = [self._dcmtk["echoscu"], "-to", "2", "-aet", "CT1", "-aec", "MEDSEG", "127.0.0.1", str(self.port)]
        return subprocess.run(words, check=False, capture_output=True).returncode

    def store(self, *paths: Path, caller: str = "CT1", syntax: str = "-xi") -> subprocess.CompletedProcess[str]:
        files = [str(file) for path in paths for file in (sorted(path.rglob("*.dcm")) if path.is_dir() else [path])]
        words = [self._dcmtk["storescu"], "-v", "-R", "-aec", "MEDSEG", "-aet", caller, syntax]
        words += ["127.0.0.1", str(self.port), *files]
        return subprocess.run(words, check=False, capture_output=True, text=True, errors="replace")

    def jobs(self) -> list[dict[str, object]]:
        return [json.loads(path.read_text()) for path in self.work.glob("pacs/jobs/*/job.json")]

    def wait_for(self, state: str, count: int = 1, *, seconds: float = 60.0) -> list[dict[str, object]]:
        def reached() -> list[dict[str, object]]:
            found = [job for job in self.jobs() if job["state"] == state]
            return found if len(found) >= count else []

        return until(reached, seconds=seconds)

    def received(self) -> dict[str, list[pydicom.Dataset]]:
        found: dict[str, list[pydicom.Dataset]] = {}
        for path in sorted(self.archive.iterdir()):
            data = pydicom.dcmread(path)
            found.setdefault(data.Modality, []).append(data)
        return found


@pytest.fixture
def hospital(dcmtk, workspace, tmp_path):
    with ExitStack() as stack:
        yield Hospital(stack, dcmtk, workspace.newest_bundle(), tmp_path)


def series_of(series, name, syntax=None):
    """A folder of a series with UIDs of its own."""
    uid = generate_uid()

    def change(data):
        data.SeriesInstanceUID = uid
        if syntax is not None:
            data.compress(syntax, generate_instance_uid=False)

    return series.write(name, SHAPE, LPS, change=change)


def check_delivery(hospital, folder):
    """One SEG, on the grid of its series, and one SR."""
    found = hospital.received()
    uid = pydicom.dcmread(next(folder.glob("*.dcm"))).SeriesInstanceUID
    segs = [seg for seg in found["SEG"] if seg.ReferencedSeriesSequence[0].SeriesInstanceUID == uid]
    assert len(segs) == 1
    path = next(path for path in hospital.archive.iterdir() if segs[0].SOPInstanceUID in path.name)
    grid = read_volume(folder).geometry
    assert read_labels(path, onto=grid).array.any()
    assert segs[0].PatientName == CANARY
    if shutil.which("dciodvfy"):
        for object_ in hospital.archive.iterdir():
            said = subprocess.run(["dciodvfy", object_], check=False, capture_output=True, text=True, errors="replace")
            assert "Error" not in said.stdout + said.stderr


@pytest.mark.slow
def test_a_series_comes_back_as_seg_and_sr(hospital, series, tmp_path):
    hospital.start_archive()
    listener = hospital.start()
    plain, packed = series_of(series, "plain"), series_of(series, "packed", JPEGLSLossless)
    mixed = [path for pair in zip(sorted(plain.iterdir()), sorted(packed.iterdir()), strict=True) for path in pair]
    report = tmp_path / "report"
    report.mkdir()
    assert hospital.store(*mixed, syntax="-xt").returncode == 0
    assert hospital.store(*mixed[:4], syntax="-xt").returncode == 0  # a second copy
    hospital.wait_for("done", 2)
    for folder in (plain, packed):
        check_delivery(hospital, folder)
    found = hospital.received()
    assert (len(found["SEG"]), len(found["SR"])) == (2, 2)
    queue = hospital.work / "pacs"
    assert not list(queue.rglob("*.dcm"))
    assert queue.stat().st_mode & 0o777 == 0o700
    # an object that is no image comes back: it is taken, and nothing is made of it
    for data in found["SR"][:1]:
        data.save_as(report / "sr.dcm", enforce_file_format=True)
    assert hospital.store(report).returncode == 0
    (seen,) = [job for job in hospital.wait_for("done", 3) if job["flags"] == ["W-NO-IMAGES"]]
    assert not seen["results"]
    # a whole series again: recognised, not done again
    assert hospital.store(plain, syntax="-xt").returncode == 0
    hospital.wait_for("receiving")
    hospital.wait_for("done", 3)
    assert len(hospital.received()["SEG"]) == 2
    second = subprocess.run(
        [sys.executable, "-m", "medseg", "listen", "--bundle", hospital.bundle, "-w", hospital.work, "--port", "0"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert second.returncode == 7
    assert f"process {listener.pid}" in second.stderr
    # two seconds of the processor's time, which a busy machine gives within a minute
    listener.send_signal(signal.SIGTERM)
    assert listener.wait(60) == 0
    texts = hospital.log.read_bytes() + b"".join(path.read_bytes() for path in queue.rglob("*.json"))
    uid = str(pydicom.dcmread(next(plain.glob("*.dcm"))).SeriesInstanceUID)
    for word in ("ller", "P-17", "A-99", "Olaf", uid):
        assert word.encode() not in texts, word


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["receiving", "working", "sending"])
def test_a_kill_loses_nothing_and_repeats_nothing(hospital, series, moment):
    archive = hospital.start_archive() if moment != "sending" else None
    listener = hospital.start()
    folder = series_of(series, "s", JPEG2000Lossless)
    files = sorted(folder.glob("*.dcm"))
    assert hospital.store(*files[:5], syntax="-xv").returncode == 0
    if moment != "receiving":
        assert hospital.store(*files[5:], syntax="-xv").returncode == 0
        hospital.wait_for(moment)
    listener.send_signal(signal.SIGKILL)
    listener.wait()
    hospital.start()
    if moment == "receiving":
        assert hospital.store(*files, syntax="-xv").returncode == 0
    if archive is None:
        hospital.start_archive()
    hospital.wait_for("done")
    time.sleep(1)
    found = hospital.received()
    assert (len(found["SEG"]), len(found["SR"])) == (1, 1)
    check_delivery(hospital, folder)
    assert not list(hospital.work.rglob(".tmp-*"))


def test_an_archive_that_is_down_is_tried_again(hospital, series):
    hospital.start()
    assert hospital.store(series_of(series, "s")).returncode == 0
    until(lambda: any(job["code"] == "E-PACS-DESTINATION" for job in hospital.jobs()))
    hospital.start_archive()
    hospital.wait_for("done")
    assert len(hospital.received()["SEG"]) == 1


def test_a_full_disk_is_said_to_the_sender(hospital, series):
    hospital.start("--out", str(hospital.archive), limit=2000)
    sent = hospital.store(series_of(series, "s"))
    assert "Refused: OutOfResources" in sent.stdout + sent.stderr
    assert not [path for path in hospital.work.glob("pacs/jobs/*/objects/*") if path.stat().st_size]
    assert hospital.listener.poll() is None


# Python imports a module of this name when it starts: the reading process then has a decoder that a series can kill.
DEADLY = """
    import ctypes
    from medseg.io import dicom_series

    find = dicom_series.find_dicom

    def deadly(path):
        return ctypes.string_at(1) if len(list(path.iterdir())) == 5 else find(path)

    dicom_series.find_dicom = deadly
"""


@pytest.mark.slow
@pytest.mark.skipif(not can_contain(), reason="reading is contained on Linux only")
def test_a_series_that_kills_its_reader_does_not_hold_up_the_next(hospital, series, tmp_path, monkeypatch):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(textwrap.dedent(DEADLY))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"), prepend=os.pathsep)
    listener = hospital.start("--out", str(hospital.archive), "--set", "infer.contain=true")
    bad, good = series_of(series, "bad"), series_of(series, "good")
    assert hospital.store(*sorted(bad.iterdir())[:5]).returncode == 0  # first come, first read
    assert hospital.store(good).returncode == 0
    # the reading process and the model start here, and four series are read, also where the machine is busy
    (done,), (failed,) = hospital.wait_for("done", seconds=180), hospital.wait_for("failed", seconds=180)
    assert listener.poll() is None
    assert set(done["results"]) == {path.name for path in hospital.archive.glob(f"{done['id']}.*.dcm")}
    assert (failed["code"], failed["tries"], failed["results"]) == ("E-CRASH", 3, [])
    assert f"medseg infer --volume {hospital.work}" in failed["reason"]
    said = subprocess.run(
        [sys.executable, "-m", "medseg", "listen", "-w", hospital.work, "--status"],
        check=False, capture_output=True, text=True, env={**os.environ, "COLUMNS": "500"},
    )  # fmt: skip
    assert "failed [E-CRASH] see docs/errors.md" in said.stdout
    # what arrived of it is kept, to be looked at
    assert len(list(hospital.work.glob(f"pacs/jobs/{failed['id']}/objects/*.dcm"))) == 5


def test_strangers_are_rejected(hospital, series):
    hospital.start("--out", str(hospital.archive), "--allow", "CT1@127.0.0.0/8")
    folder = series_of(series, "s")
    refused = hospital.store(folder, caller="STRANGER")
    assert "Calling AE Title Not Recognized" in refused.stdout + refused.stderr
    assert not hospital.jobs()
