"""MONAI's loader gives the same array and grid as the one door."""

from __future__ import annotations

import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged

from medseg.core.errors import MedsegError
from medseg.io.monai_reader import VolumeReader
from medseg.io.volumes import read_volume

# MONAI announces a decoder that it does not find
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")


def test_one_file(recipes):
    path = recipes.save(recipes.nifti())
    image = LoadImage(reader=VolumeReader(), ensure_channel_first=True, image_only=True)(path)
    volume = read_volume(path)
    assert tuple(image.shape) == volume.array.shape
    np.testing.assert_array_equal(image.numpy(), volume.array)
    np.testing.assert_allclose(image.affine, volume.geometry.affine)


def test_several_files_become_channels(recipes):
    first = recipes.save(recipes.nifti())
    second = recipes.save(recipes.nifti(recipes.volume()[::-1]), "y.nii.gz")
    load = Compose([LoadImaged("image", reader=VolumeReader()), EnsureChannelFirstd("image")])
    image = load({"image": [str(first), str(second)]})["image"]
    assert tuple(image.shape) == (2, 32, 40, 24)
    np.testing.assert_array_equal(image[1].numpy(), recipes.volume()[::-1])


def test_a_series_is_a_folder(slices):
    image = LoadImage(reader=VolumeReader(), ensure_channel_first=True, image_only=True)(slices.series())
    np.testing.assert_array_equal(image[0].numpy(), slices.volume())


def test_what_is_refused_stays_refused(recipes):
    path = recipes.save(recipes.nifti(codes=(0, 0)))
    with pytest.raises(MedsegError) as caught:
        LoadImage(reader=VolumeReader(), image_only=True)(path)
    assert caught.value.code == "E-NO-ORIENTATION"


@pytest.mark.parametrize(("name", "known"), [("x.NII.GZ", True), ("x.nrrd", True), ("x.txt", False)])
def test_suffixes(name, known):
    assert VolumeReader().verify_suffix(name) is known
