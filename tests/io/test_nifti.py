"""Every fault of a NIfTI file by its own name: refused with its code, or read with the marker where it belongs."""

from __future__ import annotations

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from medseg.core.errors import GeometryError, InputError
from medseg.core.reading import Reading
from medseg.io.volumes import read_volume

AFFINE = np.array([[-0.8, 0, 0, 30], [0, -0.8, 0, 20], [0, 0, 2.5, -50], [0, 0, 0, 1.0]])


def extension(recipes, size, text=b"x" * 8, offset=None):
    data = recipes.nifti()
    head = bytearray(data[:348]) + b"\1\0\0\0" + struct.pack("<ii", size, 6) + text
    struct.pack_into("<f", head, 108, float(len(head) if offset is None else offset))
    return bytes(head + data[352:])


def big_endian(recipes):
    image = nib.Nifti1Image(recipes.volume(), AFFINE, nib.Nifti1Header(endianness=">"))
    image.set_data_dtype(np.int16)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 1)
    return recipes.save(image.to_bytes(), "x.nii")


def nifti_2(recipes):
    image = nib.Nifti2Image(recipes.volume(), AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 1)
    return recipes.save(image.to_bytes())


def two_members(recipes):
    data = bytes(recipes.nifti())
    half = len(data) // 2
    return recipes.raw_gzip(gzip.compress(data[:half]) + gzip.compress(data[half:]))


def paired(recipes, name):
    recipes.pair()
    return recipes.folder / name


def in_units(recipes, unit, factor):
    affine = AFFINE * factor
    affine[3, 3] = 1
    image = nib.Nifti1Image(recipes.volume(), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units(unit)
    return recipes.save(image.to_bytes())


ONLY_SFORM = ("qform_code", "h", 0)
ONLY_QFORM = ("sform_code", "h", 0)
LARGE_TEXT = b"<!DOCTYPE l [<!ENTITY a 'aaaa'>]>".ljust(3_000_000 - 8)

VALID = {
    "OK1": lambda r: r.save(r.nifti()),
    "OK2": big_endian,
    "OK3": nifti_2,
    "OK4": lambda r: r.save(r.nifti(affine=r.rotated(30))),
    "OK5": lambda r: r.save(r.nifti(affine=r.with_affine(a00=0.8, a03=-30))),
    "OK6": lambda r: r.save(r.nifti(), "pat\u00fcent \u60a3\u8005 01 .nii.gz"),
    "OK7": lambda r: r.save(r.nifti(), "-rf\n x.nii.gz"),
    "F08": lambda r: r.raw_gzip(bytes(r.packed()) + b"\7" * 1024),
    "F08-zeros": lambda r: r.raw_gzip(bytes(r.packed()) + bytes(1024)),
    "F09": two_members,
    "F10": lambda r: r.raw_gzip(bytes(r.nifti())),
    "F11": lambda r: r.raw_gzip(bytes(r.packed()), "x.nii"),
    "F24": lambda r: r.save(r.patched(("sizeof_hdr", "i", 0))),
    "F27": lambda r: r.save(r.patched(("bitpix", "h", 8))),
    "F29": lambda r: r.save(extension(r, 2**31 - 1)),
    "F29b": lambda r: r.save(extension(r, -16)),
    "F29c": lambda r: r.save(extension(r, 3_000_000, LARGE_TEXT)),
    "F30-hdr": lambda r: paired(r, "x.hdr"),
    "F30-img": lambda r: paired(r, "x.img"),
    "F42": lambda r: r.save(r.nifti(), "X.NII.GZ"),
    "G02": lambda r: r.save(r.nifti(codes=(1, 0))),
    "G06b": lambda r: r.save(r.nifti(affine=r.with_affine(a10=1e-4, a21=2e-4), codes=(0, 1))),
    "G11": lambda r: in_units(r, "meter", 1e-3),
    "G12": lambda r: in_units(r, "micron", 1e3),
    "G22b": lambda r: r.save(r.nifti(r.volume()[..., None])),
    "V05": lambda r: r.save(r.patched(("slope", "ff", 0.0, 5.0))),
    "V06": lambda r: r.save(r.patched(("slope", "ff", float("nan"), 0.0))),
    "V07": lambda r: r.save(r.patched(("slope", "ff", float("inf"), 0.0))),
    "V09": lambda r: r.save(
        r.patched(("slope", "ff", 2.0, -1000.0), data=r.nifti(((r.volume() // 2 * 2 + 1000) // 2).astype(np.uint16)))
    ),
    "V11": lambda r: r.save(r.nifti(np.where(np.arange(32)[:, None, None] < 4, -3024, r.volume()).astype(np.int16))),
}
FLAGS = {
    "F08": "W-TRAILING",
    "F10": "W-EXT",
    "F11": "W-EXT",
    "F24": "W-HDR",
    "F27": "W-HDR",
    "F29": "W-EXTENSION",
    "F29b": "W-EXTENSION",
    "G11": "W-UNITS",
    "G12": "W-UNITS",
    "V05": "W-SCALE",
    "V06": "W-SCALE",
    "V07": "W-SCALE",
}
MARKERS = {
    "OK4": np.array([14.0, 12 * np.cos(np.pi / 6) + 12.5 * 0.5, 12 * 0.5 - 12.5 * np.cos(np.pi / 6)]),
    "OK5": np.array([-14.0, 12.0, -12.5]),
}


@pytest.mark.parametrize("row", VALID)
def test_valid_or_repairable_is_read(recipes, row):
    volume = read_volume(VALID[row](recipes))
    np.testing.assert_allclose(recipes.marker_of(volume), MARKERS.get(row, recipes.marker_ras), atol=0.01)
    assert volume.warnings == ((FLAGS[row],) if row in FLAGS else ())
    if row == "V09":
        np.testing.assert_array_equal(volume.array[0], recipes.volume() // 2 * 2)
        assert volume.array.dtype == np.float32
    elif row != "V11":
        np.testing.assert_array_equal(volume.array[0], recipes.volume())
        assert volume.array.dtype == np.int16
        assert volume.array.dtype.isnative


def test_prefer_decides_a_conflict(recipes):
    path = recipes.save(recipes.two_transforms(AFFINE, recipes.turned_qform(), codes=(1, 2)))
    from_qform, from_sform = read_volume(path, Reading(prefer="qform")), read_volume(path, Reading(prefer="sform"))
    np.testing.assert_allclose(recipes.marker_of(from_qform), [14, 12, -12.5], atol=0.01)
    np.testing.assert_allclose(recipes.marker_of(from_sform), [-14, 12, -12.5], atol=0.01)
    assert from_qform.warnings == ("W-GEOM-QFORM",)
    assert from_sform.warnings == ("W-GEOM-SFORM",)


@pytest.mark.parametrize(
    "make", [lambda r: r.analyze(), lambda r: r.save(r.nifti(codes=(0, 0)))], ids=["analyze", "nifti"]
)
def test_orientation_is_assumed_only_when_asked(recipes, make):
    volume = read_volume(make(recipes), Reading(assume_orientation=True))
    assert volume.geometry.axis_codes == "RAS"
    assert "W-ORIENTATION-ASSUMED" in volume.warnings
    np.testing.assert_array_equal(volume.array[0], recipes.volume())


def test_channels_are_read_only_when_asked(recipes):
    channels = np.stack([recipes.volume(), recipes.volume()[::-1]], -1)
    volume = read_volume(recipes.save(recipes.nifti(channels)), channels=2)
    np.testing.assert_array_equal(volume.array, np.moveaxis(channels, -1, 0))
    with pytest.raises(InputError) as caught:
        read_volume(recipes.save(recipes.nifti()), channels=2)
    assert caught.value.code == "E-CHANNELS"


@pytest.mark.parametrize(
    "shape", [pytest.param((32, 40, 1), id="G26"), pytest.param((3, 3, 3), id="G27"), pytest.param((1, 1, 1), id="G28")]
)
def test_tiny_volumes_are_read_and_flagged(recipes, shape):
    volume = read_volume(recipes.save(recipes.nifti(recipes.volume(shape))))
    assert volume.geometry.shape == shape
    assert volume.warnings == ("W-SMALL",)


def test_a_pair_whose_names_are_as_long_as_names_may_be(recipes):
    """The packed form of the twin's name would be longer than the system allows."""
    recipes.pair()
    stem = "a" * 251
    for suffix in (".hdr", ".img"):
        (recipes.folder / f"x{suffix}").rename(recipes.folder / f"{stem}{suffix}")
    path = recipes.folder / f"{stem}.hdr"
    np.testing.assert_array_equal(read_volume(path).array[0], recipes.volume())
    path.with_suffix(".img").unlink()
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.code == "E-PAIR-MISSING"


@pytest.mark.parametrize("angle", [0, 1e-4, 4e-4, 7e-4, 1e-3, 3e-3])
def test_a_large_slice_turned_a_little_more_than_half_is_no_conflict(recipes, angle):
    """The float32 quaternion of such a grid is off by more than half of its small voxels at the far corner."""
    affine = np.diag([0.2, 0.2, 1.0, 1.0])
    affine[:2, :2] = [[-0.2 * np.cos(angle), 0.2 * np.sin(angle)], [-0.2 * np.sin(angle), -0.2 * np.cos(angle)]]
    array = np.zeros((1600, 1600, 1), np.uint8)
    array[0, 0] = 1
    volume = read_volume(recipes.save(recipes.nifti(array, affine), "x.nii"))
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-6)


def test_a_preference_without_a_conflict_changes_and_flags_nothing(recipes):
    path = recipes.save(recipes.nifti())
    assert all(read_volume(path, Reading(prefer=name)).warnings == () for name in ("sform", "qform"))


def test_preferring_an_absent_qform_does_not_silence_a_wrong_pixdim(recipes):
    path = recipes.save(recipes.patched((("pixdim", 12), "f", 1.0), ("qform_code", "h", 0)))
    with pytest.raises(GeometryError, match="E-GEOM-CONFLICT"):
        read_volume(path, Reading(prefer="qform"))
    assert read_volume(path, Reading(prefer="sform")).warnings == ("W-GEOM-SFORM",)
