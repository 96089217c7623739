"""Every fault of a NIfTI file by its own name: refused with its code, fast."""

from __future__ import annotations

import os
import struct
import time
import zlib

import nibabel as nib
import numpy as np
import pytest

from medseg.core.errors import GeometryError, InputError
from medseg.io.decoded import settle_geometry
from medseg.io.volumes import read_volume

AFFINE = np.array([[-0.8, 0, 0, 30], [0, -0.8, 0, 20], [0, 0, 2.5, -50], [0, 0, 0, 1.0]])


def bomb(recipes, edge):
    head = recipes.patched(("dim", "4h", 3, edge, edge, edge), ("datatype", "hh", 2, 8))[:352]
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(edge * edge)
    body = [packer.compress(bytes(head)), *(packer.compress(block) for _ in range(edge)), packer.flush()]
    return recipes.raw_gzip(b"".join(body))


def link(recipes, target):
    (recipes.folder / "x.nii.gz").symlink_to(target)
    return recipes.folder / "x.nii.gz"


def loop(recipes):
    link(recipes, recipes.folder / "y.nii.gz")
    (recipes.folder / "y.nii.gz").symlink_to(recipes.folder / "x.nii.gz")
    return recipes.folder / "x.nii.gz"


def folder(recipes):
    (recipes.folder / "x.nii.gz").mkdir()
    return recipes.folder / "x.nii.gz"


def fifo(recipes):
    os.mkfifo(recipes.folder / "x.nii")
    return recipes.folder / "x.nii"


def orphan(recipes, drop, name):
    recipes.pair(drop=drop)
    return recipes.folder / name


def colours(recipes, channels):
    array = np.zeros((8, 9, 10), dtype=[(name, "u1") for name in channels])
    array["R"] = 7
    image = nib.Nifti1Image(array, AFFINE)
    image.set_qform(AFFINE, 1)
    return recipes.save(image.to_bytes())


def nifti_2(recipes, first=-0.8):
    """Only a sform, and a pixdim that agrees with it: `first` is the x of the first column."""
    data = bytearray(nib.Nifti2Image(recipes.volume(), AFFINE).to_bytes())
    struct.pack_into("<ii", data, 344, 0, 1)
    struct.pack_into("<d", data, 400, first)
    struct.pack_into("<d", data, 112, abs(first))
    return data


def vector(recipes):
    image = nib.Nifti1Image(np.stack([recipes.volume()] * 3, -1)[..., None, :], AFFINE)
    image.set_qform(AFFINE, 1)
    image.header.set_intent("vector")
    return recipes.save(image.to_bytes())


def with_value(recipes, dtype, *values):
    array = recipes.volume(dtype=dtype)
    for at, value in enumerate(values, start=5):
        array[at, at, at] = value
    return recipes.save(recipes.nifti(array))


ONLY_SFORM = ("qform_code", "h", 0)
ONLY_QFORM = ("sform_code", "h", 0)
NAN, INF = float("nan"), float("inf")
REFUSED = {
    "F01": ("E-EMPTY", lambda r: r.raw_gzip(b"")),
    "F02": ("E-EMPTY", lambda r: r.raw_gzip(b"", "x.nii")),
    "F03": ("E-GZ-TRUNC", lambda r: r.raw_gzip(r.packed()[:60])),
    "F04": ("E-GZ-TRUNC", lambda r: r.raw_gzip(r.packed()[: len(r.packed()) // 2])),
    "F05": ("E-SHORT-DATA", lambda r: r.save(r.nifti()[: 352 + 30720], "x.nii")),
    "F05b": ("E-SHORT-DATA", lambda r: r.save(r.nifti()[:-2], "x.nii")),
    "F06": ("E-GZ-CRC", lambda r: r.raw_gzip(r.flipped(r.packed(), -8))),
    "F06-length": ("E-GZ-CRC", lambda r: r.raw_gzip(r.flipped(r.packed(), -1))),
    "F06b": ("E-GZ-TRUNC", lambda r: r.raw_gzip(r.packed()[:-8])),
    "F07": ("E-GZ-CRC", lambda r: r.raw_gzip(r.flipped(r.packed(), len(r.packed()) // 2, 0x10))),
    "F12": ("E-NOT-IMAGE", lambda r: r.raw_gzip(b"<html><body>404 Not Found</body></html>" * 20)),
    "F13": ("E-NOT-IMAGE", lambda r: r.raw_gzip(b"\x89PNG\r\n\x1a\n" + bytes(600))),
    "F14": ("E-SIZE-MISMATCH", lambda r: r.save(r.patched(("dim", "4h", 3, 32767, 32767, 32767)))),
    "F14b": ("E-SIZE-MISMATCH", lambda r: r.save(r.patched(("dim", "4h", 3, 1500, 1500, 1500)))),
    "F16": ("E-DIMS", lambda r: r.save(r.patched(("dim", "h", 0)))),
    "F17": ("E-DIMS", lambda r: r.save(r.patched(("dim", "h", 9)))),
    "F18": ("E-DIMS", lambda r: r.save(r.patched((("dim", 2), "h", -32)))),
    "F19": ("E-DIMS", lambda r: r.save(r.patched((("dim", 6), "h", 0)))),
    "F20": ("E-DIMS", lambda r: r.save(r.patched(("dim", "8h", 7, *[32767] * 7)))),
    "F21": ("E-VOX-OFFSET", lambda r: r.save(r.patched(("vox_offset", "f", 0.0)))),
    "F21b": ("E-VOX-OFFSET", lambda r: r.save(r.patched(("vox_offset", "f", 353.0)))),
    "F22": ("E-VOX-OFFSET", lambda r: r.save(r.patched(("vox_offset", "f", 1e9)))),
    "F23": ("E-VOX-OFFSET", lambda r: r.save(r.patched(("vox_offset", "f", NAN)))),
    "F23b": ("E-VOX-OFFSET", lambda r: r.save(r.patched(("vox_offset", "f", -100.0)))),
    "F25": ("E-MAGIC", lambda r: r.save(r.patched(("magic", "4s", bytes(4))))),
    "F25-pair": ("E-MAGIC", lambda r: r.save(r.patched(("magic", "4s", b"ni1\0")))),
    "F26": ("E-DTYPE", lambda r: r.save(r.patched(("datatype", "h", 999)))),
    "F30": ("E-PAIR-MISSING", lambda r: orphan(r, (".img",), "x.hdr")),
    "F30b": ("E-PAIR-MISSING", lambda r: orphan(r, (".hdr",), "x.img")),
    "F32": ("E-NO-ORIENTATION", lambda r: r.analyze()),
    "F33": ("E-IS-DIR", folder),
    "F34": ("E-NOT-FOUND", lambda r: link(r, r.folder / "nope.nii.gz")),
    "F35": ("E-SYMLINK-LOOP", loop),
    "F36": ("E-NOT-REGULAR", fifo),
    "F38": ("E-NOT-FOUND", lambda r: r.folder / "absent.nii.gz"),
    "F39": ("E-PATH-TOO-LONG", lambda r: r.folder / ("a" * 5000 + ".nii.gz")),
    "F41": ("E-EXT-MISMATCH", lambda r: r.save(r.nifti(), "x.dcm")),
    "F43": ("E-NOT-REGULAR", lambda r: link(r, "/dev/zero")),
    "G01": ("E-GEOM-CONFLICT", lambda r: r.save(r.two_transforms(r.turned_qform(), AFFINE))),
    "G01b": ("E-GEOM-CONFLICT", lambda r: r.save(r.two_transforms(AFFINE, r.turned_qform(), codes=(1, 2)))),
    "G01c": ("E-GEOM-CONFLICT", lambda r: r.save(r.patched((("pixdim", 12), "f", 1.0), ONLY_SFORM))),
    "G03": ("E-NO-ORIENTATION", lambda r: r.save(r.nifti(codes=(0, 0)))),
    "G04": (
        "E-GEOM-SINGULAR",
        lambda r: r.save(r.patched(("srow", "12f", *[0.0] * 12), ("pixdim", "4f", *[0.0] * 4), ONLY_SFORM)),
    ),
    "G04b": ("E-GEOM-CONFLICT", lambda r: r.save(r.patched(("srow", "12f", *[0.0] * 12), ONLY_SFORM))),
    "G05": ("E-GEOM-NONFINITE", lambda r: r.save(r.patched(("srow", "f", NAN), ONLY_SFORM))),
    "G05b": ("E-GEOM-NONFINITE", lambda r: r.save(r.patched((("srow", 12), "f", INF), ONLY_SFORM))),
    "G05c": ("E-GEOM-NONFINITE", lambda r: r.save(r.patched(("quatern", "f", NAN), ONLY_QFORM))),
    "G06": (
        "E-GEOM-SHEAR",
        lambda r: r.save(r.nifti(affine=r.with_affine(a12=2.5 * np.tan(np.deg2rad(15))), codes=(0, 1))),
    ),
    "G07": ("E-GEOM-QUATERN", lambda r: r.save(r.patched(ONLY_QFORM, ("quatern", "3f", 1.0, 1.0, 1.0)))),
    "G08": ("E-SPACING", lambda r: r.save(r.patched((("pixdim", 12), "f", 0.0), ONLY_QFORM))),
    "G08b": ("E-GEOM-CONFLICT", lambda r: r.save(r.patched((("pixdim", 12), "f", 0.0)))),
    "G09": ("E-SPACING", lambda r: r.save(r.patched((("pixdim", 4), "f", -0.8), ONLY_QFORM))),
    "G10": ("E-SPACING", lambda r: r.save(r.patched((("pixdim", 12), "f", NAN), ONLY_QFORM))),
    "G13": ("E-SPACING", lambda r: r.save(r.nifti(affine=AFFINE @ np.diag([1e-6, 1e-6, 1e-6, 1])))),
    "G13b": ("E-SPACING", lambda r: r.save(r.nifti(affine=AFFINE @ np.diag([1e3, 1e3, 1e3, 1])))),
    "X10": ("E-SPACING", lambda r: r.save(r.nifti(affine=AFFINE @ np.diag([1e-3, 1e-3, 1e-3, 1])))),  # metres as mm
    "G22": ("E-NDIM", lambda r: r.save(r.nifti(np.stack([r.volume()] * 3, -1)))),
    "G23": ("E-NDIM", vector),
    "G25": ("E-NDIM", lambda r: r.save(r.nifti(r.volume()[:, :, 15]))),
    "V01": ("E-NONFINITE", lambda r: with_value(r, np.float32, NAN)),
    "V02": ("E-NONFINITE", lambda r: with_value(r, np.float32, INF, -INF)),
    "V03": ("E-CONSTANT", lambda r: r.save(r.nifti(np.zeros((32, 40, 24), np.int16)))),
    "V04": ("E-NONFINITE", lambda r: r.save(r.nifti(np.full((32, 40, 24), NAN, np.float32)))),
    "V08": ("E-SCALE", lambda r: r.save(r.patched(("slope", "ff", 1.0, NAN)))),
    "V12": ("E-INTENSITY", lambda r: with_value(r, np.float64, 1e300)),
    "V13": ("E-RGB", lambda r: colours(r, "RGB")),
    "V14": ("E-RGB", lambda r: colours(r, "RGBA")),
    "V15": ("E-COMPLEX", lambda r: r.save(r.nifti((r.volume() + 5j).astype(np.complex64)))),
    "V16": ("E-DTYPE", lambda r: r.save(r.patched(("datatype", "hh", 1536, 128)))),
    "V17": ("E-INTENSITY", lambda r: with_value(r, np.int64, 2**53 + 1)),
    "V18": ("E-DTYPE", lambda r: r.save(r.patched(("datatype", "hh", 1, 1)))),
    "short-header": ("E-SHORT-DATA", lambda r: r.save(r.nifti()[:340], "x.nii")),
    "short-nifti-2": ("E-SHORT-DATA", lambda r: r.save(nifti_2(r)[:400], "x.nii")),
    "huge": ("E-SPACING", lambda r: r.save(nifti_2(r, 1e300))),
    "long-tail": ("E-SIZE-MISMATCH", lambda r: r.save(bytes(r.nifti()) + bytes(65 << 20))),
}


@pytest.mark.parametrize("row", REFUSED)
def test_bad_is_refused_with_its_code(recipes, little_memory, row):
    code, make = REFUSED[row]
    path = make(recipes)
    began = time.process_time()
    with pytest.raises(InputError) as caught, little_memory():
        read_volume(path)
    assert caught.value.code == code
    assert caught.value.remedy
    assert row == "F39" or caught.value.file.stem == path.stem
    assert time.process_time() - began < 2


def test_truncation_says_how_much_is_missing(recipes):
    with pytest.raises(InputError, match="expected 61440 bytes of voxels, found 30720"):
        read_volume(recipes.save(recipes.nifti()[: 352 + 30720], "x.nii"))


def test_f15_refused_before_inflating_when_over_the_limit(recipes, monkeypatch):
    path = bomb(recipes, 128)
    with pytest.raises(InputError) as constant:
        read_volume(path)
    assert constant.value.code == "E-CONSTANT"
    monkeypatch.setattr("medseg.io.streams.MAX_BYTES", 1 << 20)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.code == "E-TOO-LARGE"


def test_random_damage_of_gzip_is_always_found(recipes):
    """One bit, one cut or one lost page anywhere; only the header's unchecked bytes (time, name) may pass unharmed."""
    whole = bytes(recipes.packed())
    rng = np.random.default_rng(11)
    reference = recipes.volume()
    for trial in range(150):
        data = bytearray(whole)
        at = int(rng.integers(0, len(data)))
        if trial % 3 == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif trial % 3 == 1:
            data = data[:at]
        else:
            data[at : at + 4096] = bytes(len(data[at : at + 4096]))
        if bytes(data) == whole:
            continue
        try:
            volume = read_volume(recipes.raw_gzip(data))
        except InputError:
            continue
        assert at < 10, f"damage at byte {at} was accepted"
        np.testing.assert_array_equal(volume.array[0], reference)


def test_numbers_too_small_to_divide_by_are_refused_without_a_warning(tmp_path):
    axes = [[1.4e-309, 5e-324, 5e-324, 0], [0, 0, 1, 0.8], [0.9, 2.5, 1, 1], [0, 0, 0, 1]]
    with pytest.raises(GeometryError) as caught:
        settle_geometry(axes, (4, 3, 6), tmp_path / "x.nii")
    assert caught.value.code == "E-GEOM-SINGULAR"
