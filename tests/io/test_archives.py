"""Hostile archives: nothing leaves the folder, nothing but plain files comes out, nothing grows without end."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib

import pytest

from medseg.core.errors import InputError
from medseg.io import archives
from medseg.io.archives import extract, read_member, zip_members

MIB = 1 << 20


class Packer:
    """Makes archives, honest ones and others."""

    def __init__(self, folder):
        self.folder = folder

    def zip(self, *members, method=zipfile.ZIP_DEFLATED, mode=0o100644):
        path = self.folder / "x.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members:
                entry = zipfile.ZipInfo("placeholder")
                entry.filename = entry.orig_filename = name
                entry.compress_type, entry.external_attr = method, mode << 16
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # about names that are there twice
                    archive.writestr(entry, data)
        return path

    def tar(self, *members, kind=tarfile.REGTYPE, link="", name="x.tar.gz"):
        path = self.folder / name
        with tarfile.open(path, "w:bz2" if name.endswith("bz2") else "w:gz" if name.endswith("gz") else "w") as archive:
            for member, data in members:
                entry = tarfile.TarInfo(member)
                entry.type, entry.linkname, entry.size = kind, link, len(data)
                archive.addfile(entry, io.BytesIO(data))
        return path

    def patched(self, path, *changes):
        """Overwrite fields of the last entry of a zip's directory and of its local header, the same way."""
        data = bytearray(path.read_bytes())
        for kind, directory_offset, local_offset, value in changes:
            struct.pack_into(kind, data, data.rindex(b"PK\1\2") + directory_offset, value)
            if local_offset is not None:
                struct.pack_into(kind, data, data.rindex(b"PK\3\4", 0, data.rindex(b"PK\1\2")) + local_offset, value)
        path.write_bytes(data)
        return path


@pytest.fixture
def pack(tmp_path):
    return Packer(tmp_path)


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path):
    """Whatever was refused: no file beside the archive, no temporary folder."""
    yield
    assert {path.name for path in tmp_path.iterdir()} <= {"x.zip", "x.tar", "x.tar.gz", "x.tar.bz2", "out", "flip"}


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


GOOD = (("a/1.dcm", b"one" * 50), ("a/2.dcm", b""), ("b c/é.txt", bytes(range(256))), ("a/b/c", b"x"))


@pytest.mark.parametrize("make", ["zip", "x.tar", "x.tar.gz", "x.tar.bz2"])
def test_honest_archives_are_unpacked_as_they_are(pack, tmp_path, make):
    path = pack.zip(*GOOD) if make == "zip" else pack.tar(*GOOD, name=make)
    extract(path, tmp_path / "out")
    assert contents(tmp_path / "out") == dict(GOOD)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700


def test_stored_members_folders_and_members_one_by_one(pack, tmp_path):
    path = pack.zip(("a/", b""), ("a/2", b"two"), ("a/1", b"one"), method=zipfile.ZIP_STORED)
    members = zip_members(path)
    assert [(member.name, member.size, read_member(path, member)) for member in members] == [
        ("a/1", 3, b"one"),
        ("a/2", 3, b"two"),
    ]
    extract(path, tmp_path / "out")
    assert contents(tmp_path / "out") == {"a/1": b"one", "a/2": b"two"}


def test_a_folder_that_is_there_is_not_touched(pack, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError) as caught:
        extract(pack.zip(*GOOD), tmp_path / "out")
    assert caught.value.code == "E-NOT-WRITABLE"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_member_without_a_name(pack, tmp_path):
    path = pack.zip(("q", b"one"))
    path.write_bytes(path.read_bytes().replace(b"q", b"\0"))
    with pytest.raises(InputError) as caught:
        extract(path, tmp_path / "out")
    assert caught.value.code.startswith("E-")


def test_a_member_before_the_beginning(pack, tmp_path):
    """The directory is said to begin later than it does, so that the members' places turn negative."""
    path = pack.zip(*GOOD)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\5\6") + 16
    struct.pack_into("<L", data, at, struct.unpack_from("<L", data, at)[0] + 500)
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        extract(path, tmp_path / "out")
    assert caught.value.code == "E-ZIP"


ESCAPES = {
    "parent": "../evil",
    "deep parent": "a/b/../../../evil",
    "absolute": "/evil",
    "backslash": "..\\evil",
    "drive": "C:\\evil",
    "drive relative": "c:evil",
    "share": "\\\\host\\share\\evil",
    "two-dot leader": "\u2025/evil",
    "full-width dots": "\uff0e\uff0e/evil",
    "full-width slash": "..\uff0fevil",
    "dots and a space": ".. /evil",
    "three dots": "a/.../evil",
}
STRANGE = {
    "nul character": "a\0.dcm",
    "newline": "a\nb",
    "escape sequence": "a\x1b[2Jb",
    "CON": "CON",
    "NUL with a suffix": "a/nul.dcm",
    "COM1": "com1/x",
    "full-width LPT": "\uff2c\uff30\uff341.txt",
    "trailing dot": "aux.",
}
TWINS = {
    "the same": ("a/x", "a/x"),
    "case": ("a/x", "A/X"),
    "composed and not": ("caf\u00e9", "cafe\u0301"),
    "sharp s": ("stra\u00dfe", "STRASSE"),
    "trailing dot": ("x", "x."),
    "dot segment": ("a/x", "a/./x"),
    "file and folder": ("a", "a/x"),
    "folder and file": ("a/x", "a"),
}


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("code", "names"),
    [("E-PATH-ESCAPE", ("fine", name)) for name in ESCAPES.values()]
    + [("E-ARCHIVE-MEMBER", ("fine", name)) for name in STRANGE.values()]
    + [("E-ARCHIVE-MEMBER", names) for names in TWINS.values()]
    + [("E-PATH-TOO-LONG", ("n" * 256,))],
    ids=[*ESCAPES, *STRANGE, *(f"twin: {name}" for name in TWINS), "long"],
)
def test_names(pack, tmp_path, kind, code, names):
    members = [(name, b"x") for name in names]
    if kind == "tar" and "\0" in names[-1]:
        pytest.skip("a tar header ends a name at NUL")
    with pytest.raises(InputError) as caught:
        extract(pack.zip(*members) if kind == "zip" else pack.tar(*members), tmp_path / "out")
    assert caught.value.code == code
    assert caught.value.remedy
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_what_is_no_plain_file_in_a_tar(pack, tmp_path, kind):
    with pytest.raises(InputError) as caught:
        extract(pack.tar(("x", b""), kind=kind, link="/etc/passwd"), tmp_path / "out")
    assert caught.value.code in {"E-ARCHIVE-MEMBER", "E-ZIP"}


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_what_is_no_plain_file_in_a_zip(pack, mode):
    with pytest.raises(InputError) as caught:
        zip_members(pack.zip(("x", b"/etc/passwd"), mode=mode | 0o777))
    assert caught.value.code == "E-ARCHIVE-MEMBER"


def test_a_link_and_a_file_behind_it(pack, tmp_path):
    """The classic: a link to another place, then a file through it."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("way")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("way/evil"))
    with pytest.raises(InputError) as caught:
        extract(path, tmp_path / "out")
    assert caught.value.code == "E-ARCHIVE-MEMBER"


def test_encrypted_members(pack):
    path = pack.patched(pack.zip(("x", b"secret" * 20)), ("<H", 8, 6, 0x1))
    with pytest.raises(InputError) as caught:
        zip_members(path)
    assert caught.value.code == "E-ENCRYPTED"


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_bombs(pack, tmp_path, kind, monkeypatch, little_memory):
    monkeypatch.setattr(archives, "_SPARE_BYTES", MIB)
    members = [(f"{number}.dcm", bytes(4 * MIB)) for number in range(3)]
    path = pack.zip(*members) if kind == "zip" else pack.tar(*members)
    with pytest.raises(InputError) as caught, little_memory():
        extract(path, tmp_path / "out")
    assert caught.value.code == "E-TOO-LARGE"


def test_a_bomb_of_a_header(pack, tmp_path, monkeypatch, little_memory):
    """A pax header as long as a volume: refused while it inflates."""
    monkeypatch.setattr(archives, "_SPARE_BYTES", MIB)
    with pytest.raises(InputError) as caught, little_memory():
        extract(pack.tar(("././@PaxHeader", bytes(16 * MIB)), kind=tarfile.XHDTYPE), tmp_path / "out")
    assert caught.value.code == "E-TOO-LARGE"


def test_many_members(pack, monkeypatch):
    monkeypatch.setattr("medseg.io.archive_names._MOST_MEMBERS", 20)
    assert len(zip_members(pack.zip(*[(str(n), b"") for n in range(20)]))) == 20
    with pytest.raises(InputError) as caught:
        zip_members(pack.zip(*[(str(n), b"") for n in range(21)]))
    assert caught.value.code == "E-TOO-LARGE"


@pytest.mark.parametrize("claimed", [10, 3 * MIB - 1, 3 * MIB + 1, 5 * MIB])
def test_forged_sizes(pack, claimed, little_memory):
    """The directory claims another size than comes out: not more is inflated than that, and it is refused."""
    path = pack.patched(pack.zip(("x", bytes(3 * MIB))), ("<L", 24, 22, claimed))
    (member,) = zip_members(path)
    with pytest.raises(InputError) as caught, little_memory():
        read_member(path, member)
    assert caught.value.code == "E-ZIP"


@pytest.mark.parametrize(
    "field", [("<L", 16, 14, 7), ("<L", 20, 18, 5), ("<L", 42, None, 9), ("<L", 42, None, 1 << 30)]
)
def test_forged_checksum_length_and_place(pack, field):
    path = pack.patched(pack.zip(("y", b"other"), ("x", b"some data " * 30)), field)
    with pytest.raises(InputError) as caught:
        read_member(path, zip_members(path)[0])
    assert caught.value.code == "E-ZIP"


def test_members_that_share_their_bytes(pack, monkeypatch):
    """Overlapping entries make a zip far larger than its ratio of compression: what is claimed together is refused."""
    monkeypatch.setattr(archives, "_SPARE_BYTES", MIB)
    packed = zlib.compress(bytes(MIB), 9)[2:-4]
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, zlib.crc32(bytes(MIB)), len(packed), MIB, 1, 0) + b"x"
    entries = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 0, zlib.crc32(bytes(MIB)), len(packed), MIB, 1, *[0] * 6)
        + bytes([65 + number])
        for number in range(20)
    )
    start = len(local) + len(packed)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 20, 20, len(entries), start, 0)
    path = pack.folder / "x.zip"
    path.write_bytes(local + packed + entries + end)
    with pytest.raises(InputError) as caught:
        zip_members(path)
    assert caught.value.code == "E-TOO-LARGE"


def test_a_tar_that_lost_its_last_members(pack, tmp_path):
    path = pack.tar(("a", b"x" * 512), ("b", b"y" * 512), name="x.tar")
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(InputError, match="end mark") as caught:
        extract(path, tmp_path / "out")
    assert caught.value.code == "E-ZIP"


def test_archives_inside_stay_closed(pack, tmp_path):
    inner = pack.zip(("../evil", b"x")).read_bytes()
    extract(pack.zip(("inner.zip", inner)), tmp_path / "out")
    assert contents(tmp_path / "out") == {"inner.zip": inner}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_of_packing_are_named(pack, method):
    with pytest.raises(InputError, match=f"method {method}") as caught:
        zip_members(pack.zip(("x", b"data"), method=method))
    assert caught.value.code == "E-ZIP"


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tar.bz2", "x.zip"])
def test_damage_is_found(pack, tmp_path, name):
    """Cut anywhere, or one byte changed in packed data: never another content than was packed."""
    members = [(f"{n}.bin", os.urandom(700)) for n in range(4)]
    path = pack.zip(*members) if name == "x.zip" else pack.tar(*members, name=name)
    whole = path.read_bytes()
    for position in range(3, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:position])
        if whole[position:].strip(b"\0"):
            with pytest.raises(InputError):
                extract(path, tmp_path / "cut")
        if name == "x.tar":
            continue  # a bare tar has no checksum of its data
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
        try:
            extract(path, tmp_path / "flip" / str(position))
        except InputError:
            continue
        assert set(contents(tmp_path / "flip" / str(position)).values()) == {data for _, data in members}


@pytest.mark.parametrize("data", [b"", b"PK\3\4 and nothing", b"\x1f\x8b\x08\0 and nothing", b"BZh9", b"x" * 3000])
def test_what_is_no_archive(tmp_path, data):
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(InputError):
        extract(tmp_path / "x.zip", tmp_path / "out")
