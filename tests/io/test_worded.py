"""Headers are read where voxels are: in the reading process, which a file may kill, fill or hold up alone."""

from __future__ import annotations

import struct
import sys
import textwrap

import numpy as np
import pytest
from pydicom.dataset import Dataset

from medseg.core.errors import MedsegError
from medseg.core.reading import Containment
from medseg.core.volume import LabelMap
from medseg.io import dicom_headers
from medseg.io.contained import can_contain, contained
from medseg.io.dicom_identity import read_identity
from medseg.io.dicom_series import list_series
from medseg.io.dicom_source import source_slices
from medseg.io.label_names import read_label_names
from medseg.io.volumes import read_volume, write_labels
from medseg.io.worded import facts_of, worded

pytestmark = pytest.mark.skipif(not can_contain(), reason="reading is contained on Linux only")
READERS = (list_series, source_slices, read_identity)


def refused(reader, path, limits=Containment()) -> str:  # noqa: B008 - frozen
    with contained(limits), pytest.raises(MedsegError) as caught:
        reader(path)
    assert caught.value.file is not None
    return caught.value.code


def test_facts_come_back_as_they_were():
    facts = {"name": "Jörg 患者\n", "number": 0.1, "none": None, "rows": [[1, 2], [3, 4]]}
    assert facts_of(worded(facts)) == facts
    assert facts_of(worded({})) == {}


def test_no_header_is_parsed_in_the_process_that_asks(slices, monkeypatch):
    """The same answers when this process could parse nothing."""
    folder = slices.series()
    mask = np.zeros(read_volume(folder).geometry.shape, np.uint8)
    mask[:2] = 3
    write_labels(LabelMap(mask, read_volume(folder).geometry), folder.parent / "m.seg.nrrd", names={"liver": 3})
    expected = [reader(folder) for reader in READERS], read_label_names(folder.parent / "m.seg.nrrd")

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(dicom_headers, "parse", forbidden)
    monkeypatch.setattr("medseg.io.dicom_files.parse", forbidden)
    monkeypatch.setattr("medseg.io.label_names.open_stream", forbidden)
    with contained(Containment()):
        found = [reader(folder) for reader in READERS], read_label_names(folder.parent / "m.seg.nrrd")
    assert (found[0][0], found[0][2], found[1]) == (expected[0][0], expected[0][2], expected[1])
    here, there = expected[0][1], found[0][1]
    assert here.header == there.header
    for ours, theirs in zip(here.slices, there.slices, strict=True):
        np.testing.assert_array_equal(ours.to_lps, theirs.to_lps)
        assert (ours.sop_instance_uid, ours.instance_number) == (theirs.sop_instance_uid, theirs.instance_number)


@pytest.mark.parametrize("reader", READERS)
def test_a_header_that_kills_its_parser_is_one_refusal(reader, slices, tmp_path, monkeypatch):
    deadly = """
        import ctypes
        from medseg.io import dicom_files
        dicom_files.parse = lambda *_, **__: ctypes.string_at(1)
    """
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(textwrap.dedent(deadly))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "path"), *sys.path])
    assert refused(reader, slices.series()) == "E-CRASH"


def test_a_header_of_countless_elements_takes_no_more_memory_than_a_case_may(slices):
    """Empty private elements become Python objects many times as large."""
    folder = slices.series()
    tags = ((group, number) for group in range(0x31, 0x3B, 2) for number in range(0x1000, 0xF000))
    empty = b"".join(struct.pack("<HH2sHI", *tag, b"UN", 0, 0) for tag in tags)
    path = min(folder.iterdir())
    head, pixels = path.read_bytes().split(b"\xe0\x7f\x10\0", 1)
    path.write_bytes(head + empty + b"\xe0\x7f\x10\0" + pixels)
    assert refused(list_series, folder, Containment(read_memory_gib=0.03)) == "E-MEMORY"


def test_a_header_without_end_is_bounded_by_the_clock(slices, tmp_path, monkeypatch):
    (tmp_path / "path").mkdir()
    slow = "import time\nfrom medseg.io import dicom_files\ndicom_files.parse = lambda *_, **__: time.sleep(60)\n"
    (tmp_path / "path" / "sitecustomize.py").write_text(slow)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "path"), *sys.path])
    assert refused(list_series, slices.series(), Containment(read_timeout_s=1)) == "E-TIMEOUT"


def test_sequences_nested_without_end_are_refused(slices):
    folder = slices.series()
    path = min(folder.iterdir())
    head, pixels = path.read_bytes().split(b"\xe0\x7f\x10\0", 1)
    deep = (b"\x40\0\x75\x02SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff") * 20_000
    path.write_bytes(head + deep + b"\xe0\x7f\x10\0" + pixels)
    assert refused(source_slices, folder) in {"E-NESTING", "E-DICOM"}


def test_a_value_that_cannot_be_made_out_is_left_out_of_what_is_handed_on(slices):
    """A weight of two bytes where a number has four is no reason to refuse a series."""

    def spoil(_index: int, data: Dataset) -> None:
        data.PatientName, data.PatientWeight = "Müller^Jörg", "70"
        data.SpecificCharacterSet = "ISO_IR 100"

    folder = slices.series(spoil)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"DS\x02\x0070", b"FL\x02\x0070"))
    header = source_slices(folder).header
    assert str(header.PatientName) == "Müller^Jörg"
    assert "PatientWeight" not in header
    assert header.SpecificCharacterSet == "ISO_IR 192"
