"""The same scan, from a file and from other libraries' hands, is the same Volume."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from medseg.core.errors import MedsegError
from medseg.io.memory import volume_from
from medseg.io.volumes import read_volume, write_volume


@pytest.fixture
def affine():
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", (10, -20, 30), degrees=True).as_matrix() * [0.8, 1.5, 2.5]
    matrix[:3, 3] = (-31.0, 12.5, 7.0)
    return matrix


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(-1000, 1000, (9, 8, 7)).astype(np.int16)


def _same(first, second):
    np.testing.assert_array_equal(first.array, second.array)
    np.testing.assert_allclose(first.geometry.affine, second.geometry.affine, atol=1e-4)


def test_every_way_in_gives_the_same_volume(array, affine, tmp_path):
    volume = volume_from(array, affine=affine)
    assert volume.array.shape == (1, 9, 8, 7)
    np.testing.assert_allclose(volume.geometry.affine, affine)
    write_volume(volume, tmp_path / "scan.nii.gz")
    write_volume(volume, tmp_path / "scan.mha")
    _same(volume_from(tmp_path / "scan.nii.gz"), volume)
    _same(volume_from(str(tmp_path / "scan.nii.gz")), volume)
    _same(volume_from(nibabel.Nifti1Image(array, affine)), volume)
    _same(volume_from(sitk.ReadImage(str(tmp_path / "scan.mha"))), read_volume(tmp_path / "scan.mha"))
    _same(volume_from(sitk.ReadImage(str(tmp_path / "scan.mha"))), volume)
    assert volume_from(volume) is volume


def test_channels_come_first(array, affine, tmp_path):
    both = np.stack([array, array + 5])
    volume = volume_from(both, affine=affine)
    _same(volume_from(nibabel.Nifti1Image(np.moveaxis(both, 0, 3), affine)), volume)
    write_volume(volume_from(array, affine=affine), tmp_path / "a.nii")
    write_volume(volume_from(array + 5, affine=affine), tmp_path / "b.nii")
    _same(volume_from([tmp_path / "a.nii", tmp_path / "b.nii"], channels=2), volume)
    image = sitk.GetImageFromArray(np.moveaxis(both, 0, 3).transpose(2, 1, 0, 3), isVector=True)
    np.testing.assert_array_equal(volume_from(image).array, both)


@pytest.mark.parametrize(
    ("image", "affine", "code"),
    [
        (np.ones((3, 4, 5)), None, "E-NO-ORIENTATION"),
        (np.random.default_rng(0).random((3, 4)), np.eye(4), "E-NDIM"),
        (sitk.Image(4, 5, sitk.sitkFloat32), None, "E-NDIM"),
        (np.full((3, 4, 5), np.nan), np.eye(4), "E-NONFINITE"),
        pytest.param(np.zeros((0, 96, 96)), np.eye(4), "E-DIMS", id="X09"),
        (object(), None, "E-IMAGE-TYPE"),
        (np.random.default_rng(0).random((3, 4, 5)), np.zeros((4, 4)), "E-GEOM-SINGULAR"),
    ],
)
def test_what_cannot_be_trusted_is_refused(image, affine, code):
    with pytest.raises(MedsegError) as caught:
        volume_from(image, affine=affine)
    assert caught.value.code == code
