"""Every voxel keeps its place in the patient, whatever way its axes run: files of other libraries in, ours out to them.

The full count (48 orientations, 20 tilts) is benchmarks/bench_orientation.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.valuerep import format_number_as_ds
from scipy.spatial.transform import Rotation
from SimpleITK import GetArrayFromImage, GetImageFromArray, ReadImage, WriteImage

from medseg.io.volumes import read_volume, write_volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass
class Case:
    """A grid on which each voxel holds its own number; RAS mm."""

    array: np.ndarray
    spacing: np.ndarray
    affine: np.ndarray


@st.composite
def cases(draw):
    shape = draw(st.tuples(*[st.integers(4, 7)] * 3))
    spacing = np.array(draw(st.tuples(*[st.floats(0.3, 6)] * 3)))
    axes = np.eye(3)[:, draw(st.permutations(range(3)))] * draw(st.tuples(*[st.sampled_from((1, -1))] * 3))
    tilt = Rotation.from_rotvec(draw(st.tuples(*[st.floats(-40, 40)] * 3)), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = tilt @ axes * spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-600, 600)] * 3))
    array = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.prod(shape)).reshape(shape)
    return Case(array.astype(np.int16), spacing, affine)


def places(array, affine):
    """(voxels, 3) RAS mm of the voxels in the order of their numbers."""
    index = np.stack(np.unravel_index(np.argsort(array, axis=None), array.shape), axis=1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def save_nifti(case, path):
    image = nib.Nifti1Image(case.array, case.affine)
    image.set_qform(case.affine, 1)
    image.set_sform(case.affine, 1)
    nib.save(image, path)


def save_itk(case, path):
    image = GetImageFromArray(case.array.T)
    image.SetSpacing(case.spacing.tolist())
    image.SetDirection(((LPS @ case.affine)[:3, :3] / case.spacing).ravel().tolist())
    image.SetOrigin((LPS @ case.affine)[:3, 3].tolist())
    WriteImage(image, path)


def itk_affine(image):
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS @ affine


def check(case: Case, source: Path) -> None:
    expected = places(case.array, case.affine)
    volume = read_volume(source)
    assert np.abs(places(volume.array[0], volume.geometry.affine) - expected).max() < 0.01
    nifti, nrrd = source.with_name("out.nii.gz"), source.with_name("out.nrrd")
    write_volume(volume, nifti)
    image = nib.load(nifti)
    assert np.abs(places(np.asanyarray(image.dataobj), image.affine) - expected).max() < 0.01
    write_volume(volume, nrrd)
    image = ReadImage(nrrd)
    assert np.abs(places(GetArrayFromImage(image).T, itk_affine(image)) - expected).max() < 0.01


@pytest.mark.parametrize(("name", "save"), [("x.nii.gz", save_nifti), ("x.nrrd", save_itk), ("x.mha", save_itk)])
def test_files_of_one_volume(tmp_path_factory, name, save):
    path = tmp_path_factory.mktemp("orientation") / name

    @settings(max_examples=40, deadline=None)
    @given(cases())
    def holds(case):
        save(case, path)
        check(case, path)

    holds()


def test_dicom_series(slices):
    """With right-handed axes only: the third is the cross product of the other two."""

    def number(values):
        return [format_number_as_ds(float(value)) for value in values]

    @settings(max_examples=20, deadline=None)
    @given(cases().filter(lambda case: np.linalg.det(case.affine) > 0))
    def holds(case):
        lps = LPS @ case.affine
        folder = slices.folder / "series"
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for index in range(case.array.shape[2]):
            data = slices.slice(index + 1, case.array[:, :, index].T, 0)
            data.ImagePositionPatient = number(lps[:3, 3] + index * lps[:3, 2])
            data.ImageOrientationPatient = number((lps[:3, :2] / case.spacing[:2]).T.ravel())
            data.PixelSpacing = number(case.spacing[[1, 0]])
            data.SliceThickness = format_number_as_ds(float(case.spacing[2]))
            slices.save(data, folder / f"{index}.dcm")
        check(case, folder)

    holds()
