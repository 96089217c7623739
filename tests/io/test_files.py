"""Writing leaves the old file or the new one; reading refuses what is not a readable file."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from medseg.core.errors import InputError
from medseg.io.files import atomic_path, require_file, sha256_of, staged_folder, write_bytes, write_text


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_written_in_one_step(tmp_path):
    path = tmp_path / "new" / "case.nii.gz"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert entries(path.parent) == ["case.nii.gz"]


def test_order_is_write_flush_rename_flush(tmp_path, monkeypatch):
    steps = []
    real_fsync, real_rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("flush"), real_fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda *pair: (steps.append("rename"), real_rename(*pair))[1])
    write_text(tmp_path / "x.txt", "word")
    assert steps == ["flush", "rename", "flush"]


def fail_half_way(path, error):
    path.write_text("half")
    raise error


@pytest.mark.parametrize("error", [RuntimeError("boom"), OSError(errno.EIO, "broken")])
def test_an_error_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_path(path) as temporary:
        fail_half_way(temporary, error)
    assert path.read_text() == "old"
    assert entries(tmp_path) == ["x.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk(tmp_path):
    with pytest.raises(InputError) as caught, atomic_path(tmp_path / "x.txt"):
        Path("/dev/full").write_bytes(b"x")
    assert caught.value.code == "E-DISK-FULL"
    assert entries(tmp_path) == []


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "x.txt").mkdir()
    with pytest.raises(InputError) as caught:
        write_text(tmp_path / "x.txt", "word")
    assert caught.value.code == "E-NOT-WRITABLE"
    assert entries(tmp_path) == ["x.txt"]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file") as caught:
        write_text(tmp_path / "file" / "x.txt", "word")
    assert caught.value.code == "E-NOT-WRITABLE"


def test_a_name_too_long(tmp_path):
    with pytest.raises(InputError) as caught:
        write_text(tmp_path / ("x" * 300 + ".nii.gz"), "word")
    assert caught.value.code == "E-PATH-TOO-LONG"
    assert entries(tmp_path) == []


@contextmanager
def as_another_user():
    """Give up root's right to read and write everything for a moment."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_f37_and_o02_no_permission(tmp_path):
    file = tmp_path / "x.nii"
    file.write_text("x")
    file.chmod(0)
    tmp_path.chmod(0o555)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    with as_another_user():
        with pytest.raises(InputError) as unreadable:
            require_file(file)
        with pytest.raises(InputError) as unwritable:
            write_text(tmp_path / "y.txt", "word")
    tmp_path.chmod(0o755)
    assert unreadable.value.code == "E-PERM"
    assert unwritable.value.code == "E-NOT-WRITABLE"
    assert str(tmp_path) in unwritable.value.message
    assert entries(tmp_path) == ["x.nii"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_no_permission_for_the_folder(tmp_path):
    (tmp_path / "in").mkdir(mode=0o700)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    with as_another_user(), pytest.raises(InputError) as caught:
        require_file(tmp_path / "in" / "x.nii")
    assert caught.value.code == ("E-PERM" if os.geteuid() == 0 else "E-NOT-FOUND")


@pytest.mark.parametrize("code", ["E-NOT-FOUND", "E-IS-DIR"])
def test_not_a_file(tmp_path, code):
    path = tmp_path if code == "E-IS-DIR" else tmp_path / "absent"
    with pytest.raises(InputError) as caught:
        require_file(path)
    assert caught.value.code == code
    assert caught.value.file == path


def test_a_dangling_link_names_its_target(tmp_path):
    (tmp_path / "x").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="gone") as caught:
        require_file(tmp_path / "x")
    assert caught.value.code == "E-NOT-FOUND"


def test_sha256(tmp_path):
    write_bytes(tmp_path / "x", b"abc")
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_a_staged_folder_replaces_namesakes_together_and_leaves_the_rest(tmp_path):
    write_text(tmp_path / "cases" / "old.html", "old")
    write_text(tmp_path / "index.html", "old")
    write_text(tmp_path / "notes.txt", "mine")
    with staged_folder(tmp_path) as staging:
        write_text(staging / "cases" / "new.html", "new")
        write_text(staging / "index.html", "new")
        assert (tmp_path / "index.html").read_text() == "old"
    assert entries(tmp_path) == ["cases", "index.html", "notes.txt"]
    assert entries(tmp_path / "cases") == ["new.html"]
    assert (tmp_path / "index.html").read_text() == "new"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_by_the_file_that_was_meant_not_by_where_it_is_staged(tmp_path):
    with pytest.raises(InputError) as caught, staged_folder(tmp_path) as staging, atomic_path(staging / "a" / "x.txt"):
        Path("/dev/full").write_bytes(b"x")
    assert (caught.value.code, caught.value.file) == ("E-DISK-FULL", tmp_path / "a" / "x.txt")
    assert f"the disk of {tmp_path / 'a'} is full" in caught.value.message


def test_a_staged_folder_that_fails_leaves_what_was_there(tmp_path):
    write_text(tmp_path / "index.html", "old")

    def fail() -> None:
        with staged_folder(tmp_path) as staging:
            write_text(staging / "index.html", "new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert entries(tmp_path) == ["index.html"]
    assert (tmp_path / "index.html").read_text() == "old"
    write_text(tmp_path / "file", "no folder")
    with pytest.raises(InputError) as caught, staged_folder(tmp_path / "file"):
        pass
    assert caught.value.code == "E-NOT-WRITABLE"
