"""Whether an input is still what it was."""

import os

import pytest

from medseg.core.errors import InputError
from medseg.io.seals import sealed, still_holds


def seal_of(path):
    with sealed(path) as seal:
        return seal()


def test_a_copy_with_another_time_holds_and_another_content_of_one_size_does_not(tmp_path):
    file = tmp_path / "a.nii.gz"
    file.write_bytes(b"one")
    seal = seal_of(file)
    assert still_holds(seal, file)
    os.utime(file, (1, 1))
    assert still_holds(seal, file)
    file.write_bytes(b"two")
    assert not still_holds(seal, file)


def test_a_folder_is_all_of_its_files(tmp_path):
    folder = tmp_path / "series"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "1.dcm").write_bytes(b"one")
    (folder / "2.dcm").write_bytes(b"two")
    seal = seal_of(folder)
    assert still_holds(seal, folder)
    (folder / "deep" / "1.dcm").rename(folder / "1.dcm")
    assert not still_holds(seal, folder)


@pytest.mark.parametrize(
    ("header", "data", "text"),
    [
        ("a.hdr", "a.img", ""),
        ("a.nhdr", "pixels.raw", "NRRD0004\ndata file: pixels.raw\n"),
        ("a.mhd", "pixels.zraw", "NDims = 3\nElementDataFile = pixels.zraw\n"),
    ],
)
def test_a_header_comes_with_its_data(tmp_path, header, data, text):
    (tmp_path / header).write_text(text)
    (tmp_path / data).write_bytes(b"one")
    seal = seal_of(tmp_path / header)
    (tmp_path / data).write_bytes(b"other")
    assert not still_holds(seal, tmp_path / header)


def test_what_changes_while_it_is_read_is_refused(tmp_path):
    file = tmp_path / "a.nii.gz"
    file.write_bytes(b"one")
    with sealed(file) as seal:
        file.write_bytes(b"changed")
        with pytest.raises(InputError) as caught:
            seal()
    assert caught.value.code == "E-INPUT-CHANGED"
