"""The laws of the one door: every format gives the same volume, other libraries agree, labels are whole numbers."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zlib
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from SimpleITK import ReadImage

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import Geometry, lps_to_ras
from medseg.core.volume import Volume
from medseg.io import streams
from medseg.io.formats import SUFFIXES
from medseg.io.volumes import read_labels, read_volume, read_volumes, write_volume

ORIENTATIONS = list(product(permutations(range(3)), product((-1, 1), repeat=3)))
SHAPE = (7, 6, 5)
GRIDS = st.tuples(
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[st.floats(-0.4, 0.4)] * 3),
    st.tuples(*[st.floats(0.5, 5)] * 3),
    st.tuples(*[st.floats(-300, 300)] * 3),
)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def grid(parts):
    """Axes in any order and sign, turned by up to 23 degrees about each axis, anisotropic, off the origin."""
    (order, signs), angles, spacing, origin = parts
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        one = np.eye(3)
        first, second = (other for other in range(3) if other != axis)
        one[first, first] = one[second, second] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ one
    direction = turn @ (np.eye(3)[:, list(order)] * np.array(signs))
    return Geometry.from_parts(SHAPE, spacing, direction, origin)


def voxels():
    return np.random.default_rng(9).integers(-1000, 3000, (1, *SHAPE)).astype(np.int16)


def as_dicom(slices, volume, folder):
    """Slices of a volume whose third axis is their normal: PS3.3 C.7.6.2."""
    affine = lps_to_ras(volume.geometry.affine)
    cosines = affine[:3, :3] / np.array(volume.geometry.spacing_mm)
    folder.mkdir()
    for index in range(SHAPE[2]):
        data = slices.slice(index, volume.array[0, :, :, index].T, 0)
        data.ImagePositionPatient = [round(float(x), 7) for x in affine[:3] @ [0, 0, index, 1]]
        data.ImageOrientationPatient = [round(float(x), 10) for x in (*cosines[:, 0], *cosines[:, 1])]
        data.PixelSpacing = [round(volume.geometry.spacing_mm[axis], 9) for axis in (1, 0)]
        slices.save(data, folder / f"{index}.dcm")
    return folder


def towards_normal(volume):
    """The array as the DICOM reader stacks it: along the normal, whichever way the source ran."""
    return volume.array if np.linalg.det(volume.geometry.affine[:3, :3]) > 0 else volume.array[..., ::-1]


@FEW
@given(GRIDS)
def test_every_format_gives_the_same_volume(tmp_path_factory, slices, parts):
    folder = tmp_path_factory.mktemp("law")
    source = Volume(voxels(), grid(parts))
    for name in ("x.nii.gz", "x.nii", "x.nrrd", "x.mha"):
        write_volume(source, folder / name)
        read = read_volume(folder / name)
        np.testing.assert_array_equal(read.array, source.array)
        assert read.array.dtype == np.int16
        assert read.geometry.deviation_mm(source.geometry) < 0.01
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    series = read_volume(as_dicom(slices, source, folder / "s"))
    np.testing.assert_array_equal(series.array, towards_normal(source))
    for corner in series.geometry.corners_mm():
        assert np.linalg.norm(source.geometry.corners_mm() - corner, axis=1).min() < 0.01


def test_reading_parses_no_python(tmp_path, slices, monkeypatch):
    """CPython's parser fails now and then where two threads parse at once; readers run in threads."""
    source = Volume(voxels(), grid((ORIENTATIONS[0], (0.0, 0.0, 0.0), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))))
    paths = [tmp_path / f"x{suffix}" for suffix in (".nii", ".nrrd", ".mha")]
    for path in paths:
        write_volume(source, path)
    nib.save(nib.Nifti2Image(source.array[0], source.geometry.affine), tmp_path / "2.nii")
    nib.save(nib.MGHImage(source.array[0], source.geometry.affine), tmp_path / "x.mgz")
    monkeypatch.setattr("ast.parse", lambda *_, **__: pytest.fail("a header's reader parses Python"))
    for path in (*paths, tmp_path / "2.nii", tmp_path / "x.mgz", as_dicom(slices, source, tmp_path / "s")):
        assert read_volume(path).array.shape == (1, *SHAPE)


@FEW
@given(GRIDS)
def test_other_readers_agree(tmp_path_factory, parts):
    """nibabel on NIfTI; SimpleITK on all: the same numbers at the same places."""
    folder = tmp_path_factory.mktemp("others")
    source = Volume(voxels(), grid(parts))
    for name in ("x.nii.gz", "x.nrrd", "x.mha"):
        write_volume(source, folder / name)
        image = ReadImage(folder / name)
        for index in ((0, 0, 0), (SHAPE[0] - 1, 0, 0), (0, SHAPE[1] - 1, 0), (1, 2, SHAPE[2] - 1)):
            x, y, z = image.TransformIndexToPhysicalPoint(index)
            np.testing.assert_allclose((-x, -y, z), source.geometry.to_world(index), atol=0.01)
            assert image[index] == source.array[0][index]
    image = nib.load(folder / "x.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), source.array[0])
    np.testing.assert_allclose(image.get_sform(), source.geometry.affine, atol=1e-4)
    # near half a turn a float32 quaternion leaves this much open
    np.testing.assert_allclose(image.get_qform(), source.geometry.affine, atol=1.5e-3 * 5)


ASK_ITK = """
import itk, json, sys
images = [itk.imread(name) for name in sys.argv[1:]]
arrays = [itk.array_view_from_image(image).T.tolist() for image in images]
print(json.dumps([arrays, [list(image.TransformIndexToPhysicalPoint((3, 1, 2))) for image in images]]))
"""


def test_itk_agrees(tmp_path):
    """In a process of its own: ITK's wrappers do not bear warnings that are errors."""
    source = Volume(voxels(), grid((ORIENTATIONS[29], (0.3, -0.2, 0.1), (0.7, 1.1, 4.0), (12.0, -40.0, 7.0))))
    paths = [tmp_path / name for name in ("x.nii.gz", "x.nrrd", "x.mha")]
    for path in paths:
        write_volume(source, path)
    answer = subprocess.run([sys.executable, "-c", ASK_ITK, *paths], capture_output=True, check=True)
    arrays, points = json.loads(answer.stdout)
    assert len(arrays) == 3
    for array, (x, y, z) in zip(arrays, points, strict=True):
        np.testing.assert_array_equal(array, source.array[0])
        np.testing.assert_allclose((-x, -y, z), source.geometry.to_world((3, 1, 2)), atol=0.01)


@pytest.mark.parametrize("inflater", ["isal", "zlib"])
def test_both_inflaters_read_and_check(recipes, monkeypatch, inflater):
    if inflater == "isal":
        pytest.importorskip("isal")
        assert streams.inflater().__name__.startswith("isal")
    else:
        monkeypatch.setattr(streams, "find_spec", lambda _: None)
        assert streams.inflater() is zlib
    path = recipes.save(recipes.nifti())
    np.testing.assert_array_equal(read_volume(path).array[0], recipes.volume())
    whole = path.read_bytes()
    for code, damaged in (
        ("E-GZ-CRC", whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]),
        ("E-GZ-TRUNC", whole[:-1]),
        ("E-GZ-TRUNC", whole[: len(whole) // 2]),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError) as caught:
            read_volume(path)
        assert caught.value.code == code
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:9999]) + gzip.compress(gzip.decompress(whole)[9999:]))
    np.testing.assert_array_equal(read_volume(path).array[0], recipes.volume())


def test_channels_are_stacked_and_must_share_a_grid(recipes):
    first = recipes.save(recipes.nifti())
    second = recipes.save(recipes.nifti(recipes.volume()[::-1]), "y.nii.gz")
    case = read_volumes([first, second], channels=2)
    np.testing.assert_array_equal(case.array, [recipes.volume(), recipes.volume()[::-1]])
    assert read_volumes([first]).array.shape == (1, 32, 40, 24)
    moved = recipes.save(recipes.nifti(affine=recipes.with_affine(a03=31)), "z.nii.gz")
    with pytest.raises(GeometryError) as apart:
        read_volumes([first, moved])
    assert apart.value.code == "E-GRID-MISMATCH"
    with pytest.raises(InputError) as missing:
        read_volumes([first, second], channels=3)
    assert missing.value.code == "E-CHANNELS"


def block(value, dtype):
    array = np.zeros((32, 40, 24), dtype)
    array[8:20, 8:20, 8:20] = value
    return array


LABELS = {
    "L19": (lambda r: r.nifti(block(0.9999, np.float32)), 1, np.uint8),
    "L20": (lambda r: r.nifti(block(300, np.uint16)), 300, np.uint16),
    "L22": (lambda r: r.patched(("slope", "ff", 1 / 255, 0.0), data=r.nifti(block(255, np.uint8))), 1, np.uint8),
    "int64": (lambda r: r.nifti(block(7, np.int64)), 7, np.uint8),
    "float64": (lambda r: r.nifti(block(65535, np.float64)), 65535, np.uint16),
    "empty": (lambda r: r.nifti(block(0, np.int16)), 0, np.uint8),
}


@pytest.mark.parametrize("row", LABELS)
def test_labels_become_the_smallest_whole_numbers(recipes, row):
    make, value, dtype = LABELS[row]
    mask = read_labels(recipes.save(make(recipes)))
    np.testing.assert_array_equal(mask.array, block(value, dtype))
    assert mask.array.dtype == dtype


@pytest.mark.parametrize(
    ("code", "value", "dtype"),
    [
        ("E-LABEL-FRACTION", 0.9, np.float32),
        pytest.param("E-LABEL-RANGE", -1, np.int16, id="L21"),
        ("E-LABEL-RANGE", 65536, np.int32),
        ("E-NONFINITE", np.nan, np.float32),
    ],
)
def test_labels_that_are_none_are_refused(recipes, code, value, dtype):
    with pytest.raises(InputError) as caught:
        read_labels(recipes.save(recipes.nifti(block(value, dtype))))
    assert caught.value.code == code


def test_flags_of_a_mask_are_kept(recipes):
    mask = read_labels(recipes.save(bytes(recipes.nifti(block(1, np.uint8))) + b"left over"))
    assert mask.warnings == ("W-TRAILING",)


@pytest.mark.parametrize("left_in_bite", [0, 1, 2])
def test_a_member_may_begin_anywhere_in_the_file(recipes, left_in_bite):
    """Gzip with a name as long as it takes for the second member to begin at the end of what is read at once."""
    data = bytes(recipes.nifti())
    first, second = (gzip.compress(part, 1) for part in (data[:900], data[900:]))
    name = b"n" * ((1 << 18) - left_in_bite - len(first) - 1)
    path = recipes.raw_gzip(first[:3] + b"\x08" + first[4:10] + name + b"\0" + first[10:] + second)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], recipes.volume())
    assert volume.warnings == ()


def test_suffixes_name_every_format():
    assert {".nii.gz", ".nrrd", ".mha", ".mgz", ".dcm", ".zip"} <= set(SUFFIXES)


@pytest.mark.parametrize(
    ("code", "name", "content"),
    [
        ("E-PICKLE", "x.npy", b"\x93NUMPY\1\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
        ("E-NOT-IMAGE", "x.npy", b"\x93NUMPY\1\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"),
        ("E-NOT-IMAGE", "x.pdf", b"%PDF-1.4"),
        ("E-NOT-IMAGE", "x.nii.gz", b"version https://git-lfs.github.com/spec/v1"),
        ("E-NOT-DICOM", "x.dcm", b"x" * 900),
    ],
)
def test_other_files_are_named(recipes, code, name, content):
    path = recipes.folder / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.code == code


class Payload:
    """Whoever unpickles it makes a file."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch '{self.sentinel}'",)


@pytest.mark.parametrize(
    ("name", "code"), [*((name, "E-PICKLE") for name in ("x.npy", "x.nii.gz", "x.nrrd", "x")), ("x.dcm", "E-NOT-DICOM")]
)
def test_p01_a_pickled_array_is_never_unpickled(recipes, name, code):
    sentinel, path = recipes.folder / "PWNED", recipes.folder / name
    array = np.empty(1, object)
    array[0] = Payload(sentinel)
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=True)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    assert caught.value.code == code
    assert not sentinel.exists()
    np.load(path, allow_pickle=True)
    assert sentinel.exists(), "the file was harmless, and the test with it"


def test_a_format_under_another_name_is_flagged(recipes):
    write_volume(Volume(voxels(), Geometry.from_parts(SHAPE)), recipes.folder / "x.nrrd")
    renamed = (recipes.folder / "x.nrrd").rename(recipes.folder / "x.nii")
    assert read_volume(renamed).warnings == ("W-EXT",)
