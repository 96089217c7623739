"""A file that changes while it is read is refused: what was checked must be what is used."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

import numpy as np
import pytest

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.io import dicom, formats
from medseg.io.files import opened, sha256_of
from medseg.io.streams import ByteStream
from medseg.io.volumes import read_volume, write_volume

GRID = Geometry.from_parts((9, 8, 7), (0.8, 0.8, 2.5), np.diag([-1.0, -1.0, 1.0]), (4.0, -30.0, 100.0))


def write(path):
    write_volume(Volume(np.random.default_rng(0).integers(0, 99, (1, *GRID.shape)).astype(np.int16), GRID), path)
    return path


def copy(path):
    other = path.with_name(f"other{''.join(path.suffixes)}")
    other.write_bytes(path.read_bytes())
    return other


def append(path):
    with path.open("ab") as file:
        file.write(b"\0" * 8)


def touch(path):
    later = time.time_ns() + 10**9
    os.utime(path, ns=(later, later))


def turn_link(path):
    other = copy(path)
    path.unlink()
    path.symlink_to(other)


CHANGES = {
    "replaced": lambda path: copy(path).replace(path),
    "longer": append,
    "written to": touch,
    "gone": lambda path: path.unlink(),
    "link": turn_link,
}


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "x.nrrd", "x.mha"])
@pytest.mark.parametrize("change", CHANGES)
def test_between_looking_and_reading(tmp_path, monkeypatch, name, change):
    path = write(tmp_path / name)
    look = formats.open_stream

    @contextmanager
    def looking(where):
        with look(where) as stream:
            yield stream
        CHANGES[change](path)

    monkeypatch.setattr(formats, "open_stream", looking)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert (caught.value.code, caught.value.file) == ("E-INPUT-CHANGED", path)


@pytest.mark.parametrize("change", CHANGES)
def test_while_reading(tmp_path, monkeypatch, change):
    path = write(tmp_path / "x.nii.gz")
    finish = ByteStream.finish

    def meanwhile(self):
        CHANGES[change](path)
        return finish(self)

    monkeypatch.setattr(ByteStream, "finish", meanwhile)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.code == "E-INPUT-CHANGED"


def test_a_link_that_is_let_alone_is_followed(tmp_path):
    write(tmp_path / "x.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "link.nii.gz").array, read_volume(tmp_path / "x.nii.gz").array)


HEADERS = {
    "x.nhdr": "NRRD0005\ntype: uint8\ndimension: 3\nspace: LPS\nsizes: 4 4 4\n"
    "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nencoding: raw\ndata file: {0}\n",
    "x.mhd": "ObjectType = Image\nNDims = 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
    "ElementSpacing = 1 1 1\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = {0}\n",
}


def detached(folder, header, name="x.raw"):
    (folder / "in" / "sub").mkdir(parents=True)
    (folder / "secret.raw").write_bytes(bytes(range(64, 128)))
    (folder / "in" / "x.raw").write_bytes(bytes(range(64)))
    (folder / "in" / "sub" / "x.raw").write_bytes(bytes(range(64)))
    (folder / "in" / header).write_text(HEADERS[header].format(name))
    return folder / "in" / header


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("name", ["x.raw", "sub/x.raw", "./x.raw", "sub/../x.raw"])
def test_data_in_the_folder_of_their_header(tmp_path, header, name):
    volume = read_volume(detached(tmp_path, header, name))
    assert sorted(volume.array.ravel()) == list(range(64))


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("name", ["listing.raw", "LIST_1.raw", "50%.raw", "100% 1.raw"])
def test_names_that_only_look_like_several_files(tmp_path, header, name):
    path = detached(tmp_path, header, name)
    (tmp_path / "in" / "x.raw").rename(tmp_path / "in" / name)
    assert read_volume(path).array.max() == 63


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(
    "name",
    ["../secret.raw", "{folder}/secret.raw", "sub/../../secret.raw", "LIST", "list 2", "s%d.raw 1 4 1", "s%03d.raw 1 4",
     "way/secret.raw", "link.raw", "x\0.raw"],
)  # fmt: skip
def test_data_elsewhere(tmp_path, header, name):
    path = detached(tmp_path, header, name.format(folder=tmp_path))
    (tmp_path / "in" / "way").symlink_to(tmp_path)
    (tmp_path / "in" / "link.raw").symlink_to(tmp_path / "secret.raw")
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.code == "E-PATH-ESCAPE"


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("swapped", ["in/x.raw", "in/sub/x.raw", "in/sub"])
def test_data_that_become_a_link_out_of_the_folder(tmp_path, monkeypatch, header, swapped):
    path = detached(tmp_path, header, "sub/x.raw" if "sub" in swapped else "x.raw")
    (tmp_path / "x.raw").write_bytes(bytes(range(64, 128)))
    claim = ByteStream.refuse_claim

    def meanwhile(self, claimed):
        place = tmp_path / swapped
        if not place.is_symlink():
            place.rename(tmp_path / "aside")
            place.symlink_to(tmp_path if swapped == "in/sub" else tmp_path / "secret.raw")
        return claim(self, claimed)

    monkeypatch.setattr(ByteStream, "refuse_claim", meanwhile)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.code in {"E-INPUT-CHANGED", "E-PATH-ESCAPE"}


@pytest.mark.parametrize("change", ["another slice", "a slice rewritten"])
def test_a_dicom_folder_that_is_being_filled(slices, monkeypatch, change):
    folder = slices.series()
    first = min(folder.iterdir())
    decode_series = dicom.decode_series

    def meanwhile(path, options):
        decoded = decode_series(path, options)
        if change == "another slice":
            (folder / "new.dcm").write_bytes(first.read_bytes())
        else:
            touch(first)
        return decoded

    monkeypatch.setattr(dicom, "decode_series", meanwhile)
    with pytest.raises(InputError) as caught:
        read_volume(folder)
    assert caught.value.code == "E-INPUT-CHANGED"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_the_place_of_a_file_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(InputError) as caught, opened(tmp_path / "x"):
        pass
    assert caught.value.code == "E-NOT-REGULAR"


def test_hashing_a_file_that_grows(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"abc")
    monkeypatch.setattr("hashlib.file_digest", lambda *_: append(tmp_path / "x"))
    with pytest.raises(InputError) as caught:
        sha256_of(tmp_path / "x")
    assert caught.value.code == "E-INPUT-CHANGED"
