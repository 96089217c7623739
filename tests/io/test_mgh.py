"""FreeSurfer files, against nibabel's writer."""

from __future__ import annotations

import struct

import nibabel as nib
import numpy as np
import pytest

from medseg.core.errors import InputError
from medseg.core.reading import Reading
from medseg.io.volumes import read_volume


def mgh(recipes, dtype=np.int16, *changes, cut=None):
    image = nib.MGHImage(recipes.volume(dtype=dtype), recipes.affine)
    data = bytearray(image.to_bytes())
    for offset, kind, value in changes:
        struct.pack_into(f">{kind}", data, offset, value)
    return data[:cut]


@pytest.mark.parametrize("name", ["x.mgh", "x.mgz"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_read(recipes, name, dtype):
    data = mgh(recipes, dtype)
    path = recipes.save(data, "x.mgh.gz" if name == "x.mgz" else name)
    volume = read_volume(path.rename(recipes.folder / name))
    np.testing.assert_allclose(recipes.marker_of(volume), recipes.marker_ras, atol=0.01)
    np.testing.assert_array_equal(volume.array[0], recipes.volume())
    assert volume.array.dtype == dtype
    assert volume.warnings == ()


@pytest.mark.parametrize(
    ("code", "changes", "cut"),
    [
        ("E-DTYPE", [(20, "i", 9)], None),
        ("E-NO-ORIENTATION", [(28, "h", 0)], None),
        ("E-NDIM", [(16, "i", 3)], None),
        ("E-SHORT-DATA", [], 5000),
        ("E-SHORT-DATA", [], 200),
        ("E-SIZE-MISMATCH", [(4, "i", 100_000)], None),
        ("E-GEOM-NONFINITE", [(30, "f", float("nan"))], None),
    ],
)
def test_refused(recipes, code, changes, cut):
    with pytest.raises(InputError) as caught:
        read_volume(recipes.save(mgh(recipes, np.int16, *changes, cut=cut), "x.mgh"))
    assert caught.value.code == code


def test_orientation_is_assumed_only_when_asked(recipes):
    path = recipes.save(mgh(recipes, np.int16, (28, "h", 0)), "x.mgh")
    assert read_volume(path, Reading(assume_orientation=True)).warnings == ("W-ORIENTATION-ASSUMED",)


def test_oblique_axes_in_another_order(recipes):
    affine = recipes.rotated(30)[:, [1, 2, 0, 3]]
    volume = read_volume(recipes.save(nib.MGHImage(recipes.volume(), affine).to_bytes(), "x.mgh"))
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-4)
