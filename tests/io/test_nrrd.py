"""NRRD and MetaImage: read where right, refused by name where not."""

from __future__ import annotations

import bz2
import gzip
import zlib

import numpy as np
import pytest
from SimpleITK import GetImageFromArray, WriteImage

from medseg.core.errors import InputError
from medseg.core.reading import Reading
from medseg.io.volumes import read_labels, read_volume

NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "32 40 24",
    "space directions": "(0.8,0,0) (0,0.8,0) (0,0,2.5)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(-30,-20,-50)",
}
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "-30 -20 -50",
    "ElementSpacing": "0.8 0.8 2.5",
    "DimSize": "32 40 24",
    "ElementType": "MET_SHORT",
}


def nrrd(recipes, *, data=None, drop=(), name="x.nrrd", **changes):
    """Write an NRRD whose fields are changed (underscores stand for spaces) or dropped."""
    fields = NRRD | {key.replace("_", " "): value for key, value in changes.items()}
    header = "".join(f"{key}: {value}\n" for key, value in fields.items() if key not in drop)
    voxels = recipes.volume().tobytes(order="F") if data is None else data
    return recipes.save(f"NRRD0004\n# made by a test\n{header}\n".encode() + voxels, name)


def meta(recipes, *, data=None, drop=(), name="x.mha", file="LOCAL", **changes):
    fields = {key: value for key, value in (META | changes).items() if key not in drop}
    header = "".join(f"{key} = {value}\n" for key, value in fields.items()) + f"ElementDataFile = {file}\n"
    voxels = recipes.volume().tobytes(order="F") if data is None else data
    return recipes.save(header.encode() + voxels, name)


def voxels(recipes, dtype="<i2"):
    return recipes.volume().astype(dtype).tobytes(order="F")


def detached(recipes, maker, **changes):
    recipes.save(voxels(recipes), "x.raw")
    return maker(recipes, data=b"", **changes)


def escaping(recipes, maker, **changes):
    recipes.save(voxels(recipes), "secret.raw")
    return maker(recipes, data=b"", **changes)


def linked(recipes):
    recipes.save(voxels(recipes), "secret.raw")
    (recipes.folder / "in").mkdir()
    (recipes.folder / "in" / "x.raw").symlink_to(recipes.folder / "secret.raw")
    return nrrd(recipes, data=b"", data_file="x.raw", name="in/x.nhdr")


VALID = {
    "R00": nrrd,
    "R00-nhdr": lambda r: detached(r, nrrd, data_file="x.raw", name="x.nhdr"),
    "R00-big": lambda r: nrrd(r, endian="big", data=voxels(r, ">i2")),
    "R00-gzip": lambda r: nrrd(r, encoding="gzip", data=gzip.compress(voxels(r))),
    "R00-bzip2": lambda r: nrrd(r, encoding="bzip2", data=bz2.compress(voxels(r))),
    "R00-ascii": lambda r: nrrd(r, encoding="ascii", data=" ".join(map(str, r.volume().ravel("F"))).encode()),
    "R00-skip": lambda r: nrrd(r, byte_skip="16", data=bytes(16) + voxels(r)),
    "R00-micron": lambda r: nrrd(
        r,
        space_directions="(800,0,0) (0,800,0) (0,0,2500)",
        space_origin="(-30000,-20000,-50000)",
        space_units='"um" "um" "um"',
    ),
    "R03": lambda r: nrrd(
        r,
        space="right-anterior-superior",
        space_directions="(-0.8,0,0) (0,-0.8,0) (0,0,2.5)",
        space_origin="(30,20,-50)",
    ),
    "R03-las": lambda r: nrrd(
        r, space="LAS", space_directions="(0.8,0,0) (0,-0.8,0) (0,0,2.5)", space_origin="(-30,20,-50)"
    ),
    "R07": lambda r: nrrd(r, data=voxels(r) + b"\1" * 5000),
    "R10-control": meta,
    "R10-mhd": lambda r: detached(r, meta, file="x.raw", name="x.mhd"),
    "R10-big": lambda r: meta(r, BinaryDataByteOrderMSB="True", data=voxels(r, ">i2")),
    "R10-zlib": lambda r: meta(r, CompressedData="True", data=zlib.compress(voxels(r))),
    "R10-header-size": lambda r: meta(r, HeaderSize="-1", data=bytes(7) + voxels(r)),
}
FLAGS = {"R00-micron": "W-UNITS", "R07": "W-TRAILING"}


@pytest.mark.parametrize("row", VALID)
def test_valid_is_read(recipes, row):
    volume = read_volume(VALID[row](recipes))
    np.testing.assert_allclose(recipes.marker_of(volume), recipes.marker_ras, atol=0.01)
    np.testing.assert_array_equal(volume.array[0], recipes.volume())
    assert volume.array.dtype == np.int16
    assert volume.array.dtype.isnative
    assert volume.warnings == ((FLAGS[row],) if row in FLAGS else ())


def looping(recipes):
    (recipes.folder / "a.raw").symlink_to("b.raw")
    (recipes.folder / "b.raw").symlink_to("a.raw")
    return nrrd(recipes, data=b"", data_file="a.raw", name="x.nhdr")


REFUSED = {
    "R01": ("E-PATH-ESCAPE", lambda r: escaping(r, nrrd, data_file="../secret.raw", name="in/x.nhdr")),
    "R01b": ("E-PATH-ESCAPE", lambda r: nrrd(r, data=b"", data_file="/etc/passwd", name="x.nhdr")),
    "R01-link": ("E-PATH-ESCAPE", linked),
    "R01-list": ("E-PATH-ESCAPE", lambda r: nrrd(r, data=b"", data_file="LIST", name="x.nhdr")),
    "R01-long": ("E-PATH-TOO-LONG", lambda r: nrrd(r, data=b"", data_file="x" * 300, name="x.nhdr")),
    "R01-loop": ("E-SYMLINK-LOOP", looping),
    "R01-missing": ("E-PAIR-MISSING", lambda r: nrrd(r, data=b"", data_file="x.raw", name="x.nhdr")),
    "R02": ("E-NO-ORIENTATION", lambda r: nrrd(r, drop=("space", "space directions", "space origin"))),
    "R02b": ("E-NO-ORIENTATION", lambda r: nrrd(r, drop=("space origin",))),
    "R03b": ("E-SPACE-UNKNOWN", lambda r: nrrd(r, space="scanner-xyz")),
    "R04": ("E-SHORT-DATA", lambda r: nrrd(r, data=voxels(r)[:30720])),
    "R05": ("E-GZ-TRUNC", lambda r: nrrd(r, encoding="gzip", data=gzip.compress(voxels(r))[:9000])),
    "R05-bzip2": ("E-GZ-TRUNC", lambda r: nrrd(r, encoding="bzip2", data=bz2.compress(voxels(r))[:9000])),
    "R05-bzip2-bits": ("E-GZ-CRC", lambda r: nrrd(r, encoding="bzip2", data=b"BZh9" + bytes(9000))),
    "R05-ascii": ("E-SHORT-DATA", lambda r: nrrd(r, encoding="ascii", data=b"1 2 3")),
    "R06": ("E-SIZE-MISMATCH", lambda r: nrrd(r, sizes="100000 100000 100000")),
    "R06b": ("E-DIMS", lambda r: nrrd(r, sizes="-32 40 24")),
    "R08": ("E-GEOM-NONFINITE", lambda r: nrrd(r, space_directions="(nan,0,0) (0,0.8,0) (0,0,2.5)")),
    "R09": (
        "E-NDIM",
        lambda r: nrrd(
            r,
            dimension="4",
            sizes="2 32 40 24",
            kinds="list domain domain domain",
            space_directions="none (0.8,0,0) (0,0.8,0) (0,0,2.5)",
            data=voxels(r) * 2,
        ),
    ),
    "R-rgb": ("E-RGB", lambda r: nrrd(r, dimension="4", sizes="3 32 40 24", kinds="RGB-color domain domain domain")),
    "R-type": ("E-DTYPE", lambda r: nrrd(r, type="block")),
    "R-hex": ("E-ENCODING", lambda r: nrrd(r, encoding="hex")),
    "R-line-skip": ("E-ENCODING", lambda r: nrrd(r, line_skip="2")),
    "R-words": ("E-HEADER", lambda r: nrrd(r, sizes="a b c")),
    "R-nan-sizes": ("E-HEADER", lambda r: nrrd(r, sizes="nan 40 24")),
    "R-parts-of-voxels": ("E-HEADER", lambda r: nrrd(r, sizes="32.4 40 24")),
    "R-empty-skip": ("E-HEADER", lambda r: nrrd(r, byte_skip="")),
    "M-inf-sizes": ("E-HEADER", lambda r: meta(r, DimSize="inf 40 24")),
    "M-parts-of-voxels": ("E-HEADER", lambda r: meta(r, DimSize="32.4 40 24")),
    "M-empty-channels": ("E-HEADER", lambda r: meta(r, ElementNumberOfChannels="")),
    "R-no-sizes": ("E-HEADER", lambda r: nrrd(r, drop=("sizes",))),
    "R-no-end": ("E-HEADER", lambda r: r.save(b"NRRD0004\ntype: short\n", "x.nrrd")),
    "R-gz": ("E-NOT-IMAGE", lambda r: r.save(b"NRRD0004\ntype: short\n", "x.nrrd.gz")),
    "R10": ("E-PATH-ESCAPE", lambda r: escaping(r, meta, file="../secret.raw", name="in/x.mhd")),
    "R10-list": ("E-PATH-ESCAPE", lambda r: meta(r, file="slice%03d.raw 1 24 1", name="x.mhd")),
    "R11": ("E-SIZE-MISMATCH", lambda r: meta(r, DimSize="100000 100000 100000")),
    "R12": ("E-SHORT-DATA", lambda r: meta(r, data=voxels(r)[:30720])),
    "R12-zlib": ("E-GZ-TRUNC", lambda r: meta(r, CompressedData="True", data=zlib.compress(voxels(r))[:9000])),
    "M-orientation": ("E-NO-ORIENTATION", lambda r: meta(r, drop=("TransformMatrix",))),
    "M-nan": ("E-GEOM-NONFINITE", lambda r: meta(r, Offset="nan 0 0")),
    "M-matrix": ("E-HEADER", lambda r: meta(r, TransformMatrix="1 0 0 1")),
    "M-header-size": ("E-HEADER", lambda r: meta(r, HeaderSize="-5")),
    "M-long": ("E-PATH-TOO-LONG", lambda r: meta(r, file="x" * 300, name="x.mhd")),
    "M-words": ("E-HEADER", lambda r: meta(r, DimSize="a b c")),
    "M-no-sizes": ("E-HEADER", lambda r: meta(r, drop=("DimSize",))),
    "M-no-data": ("E-HEADER", lambda r: r.save(b"ObjectType = Image\nNDims = 3\n", "x.mha")),
    "M-type": ("E-DTYPE", lambda r: meta(r, ElementType="MET_STRING")),
    "M-rgb": ("E-RGB", lambda r: meta(r, ElementNumberOfChannels="3")),
    "M-vector": ("E-NDIM", lambda r: meta(r, ElementNumberOfChannels="2")),
    "M-2d": ("E-NDIM", lambda r: meta(r, NDims="2", DimSize="32 40")),
}


@pytest.mark.parametrize("row", REFUSED)
def test_bad_is_refused_with_its_code(recipes, little_memory, row):
    code, make = REFUSED[row]
    path = make(recipes)
    with pytest.raises(InputError) as caught, little_memory():
        read_volume(path)
    assert caught.value.code == code
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["x.nrrd", "x.mha"])
def test_orientation_is_assumed_only_when_asked(recipes, name):
    if name == "x.nrrd":
        path = nrrd(recipes, drop=("space", "space directions", "space origin"), spacings="0.8 0.8 2.5")
    else:
        path = meta(recipes, drop=("TransformMatrix",))
    volume = read_volume(path, Reading(assume_orientation=True))
    assert volume.geometry.axis_codes == "RAS"
    assert volume.geometry.spacing_mm == (0.8, 0.8, 2.5)
    assert volume.warnings == ("W-ORIENTATION-ASSUMED",)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_several_channels_as_sitk_writes_them(recipes, suffix):
    channels = np.stack([recipes.volume(), recipes.volume()[::-1]])
    image = GetImageFromArray(channels.transpose(3, 2, 1, 0), isVector=True)
    WriteImage(image, recipes.folder / f"x{suffix}")
    np.testing.assert_array_equal(read_volume(recipes.folder / f"x{suffix}", channels=2).array, channels)


def test_a_mask_in_a_name_with_two_suffixes(recipes):
    mask = (recipes.volume() > 0).astype(np.uint8)
    path = nrrd(recipes, type="uchar", data=mask.tobytes(order="F"), name="x.seg.nrrd")
    np.testing.assert_array_equal(read_labels(path).array, mask)


def test_a_spacing_of_too_many_numbers_is_refused_also_where_orientation_is_assumed(recipes):
    path = meta(recipes, drop=("TransformMatrix",), ElementSpacing="1 1 2 0 1")
    with pytest.raises(InputError) as caught:
        read_volume(path, Reading(assume_orientation=True))
    assert caught.value.code == "E-HEADER"
