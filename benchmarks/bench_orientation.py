"""Does every voxel keep its place in the patient? 48 axis orientations x 20 tilts, four formats in, two out.

Each voxel of a 7 x 6 x 5 grid (anisotropic, off-origin) holds its own number, so that each is a marker whose place
follows from the grid by hand. Other libraries write the files (nibabel NIfTI, SimpleITK NRRD and MHA, pydicom DICOM)
and medseg reads them; medseg writes what it read as NIfTI and NRRD, and nibabel and SimpleITK read that. A check is one
file read; its error is that of its worst voxel. A flip is a voxel that lies half of the smallest voxel edge away or
more. A DICOM series has no left-handed axes (its third axis is the cross product of the other two), so that it takes
part with the 24 right-handed orientations. Writes benchmarks/results/orientation.json.

    python benchmarks/bench_orientation.py
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds
from scipy.spatial.transform import Rotation
from SimpleITK import GetArrayFromImage, GetImageFromArray, ReadImage, WriteImage

from medseg.io.volumes import read_volume, write_volume

SHAPE = (7, 6, 5)
SPACING_MM = (0.7, 1.1, 3.2)
ORIGIN_MM = (-61.37, 112.71, -433.29)
NUM_TILTS = 20
LIMIT_MM = 0.01
FLIP_MM = min(SPACING_MM) / 2
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affines() -> Iterator[np.ndarray]:
    """Every signed permutation of the axes, upright and tilted by up to 45 degrees; (4, 4), index to RAS mm."""
    rng = np.random.default_rng(11)
    turns = rng.normal(size=(NUM_TILTS, 3))
    turns *= (rng.uniform(1, 45, NUM_TILTS) / np.linalg.norm(turns, axis=1))[:, None]
    turns[0] = 0
    for order, signs, tilt in product(permutations(range(3)), product((1, -1), repeat=3), turns):
        affine = np.eye(4)
        axes = np.eye(3)[:, order] * signs
        affine[:3, :3] = Rotation.from_rotvec(tilt, degrees=True).as_matrix() @ axes * SPACING_MM
        affine[:3, 3] = ORIGIN_MM
        yield affine


def places(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(voxels, 3) RAS mm of the voxels in the order of their numbers."""
    index = np.stack(np.unravel_index(np.argsort(array, axis=None), array.shape), axis=1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def save_nifti(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nib.save(image, path)


def save_itk(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    lps = TO_LPS @ affine
    image = GetImageFromArray(array.T)
    image.SetSpacing(SPACING_MM)
    image.SetDirection((lps[:3, :3] / SPACING_MM).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    WriteImage(image, path)


def save_dicom(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    lps = TO_LPS @ affine
    path.mkdir(exist_ok=True)
    series = generate_uid(prefix=None)
    for index in range(array.shape[2]):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "2.25.1", series, "2.25.3"
        data.Modality, data.PatientID, data.InstanceNumber = "CT", "bench", index + 1
        data.ImagePositionPatient = [format_number_as_ds(x) for x in lps[:3, 3] + index * lps[:3, 2]]
        cosines = (lps[:3, :2] / SPACING_MM[:2]).T.ravel()
        data.ImageOrientationPatient = [format_number_as_ds(x) for x in cosines]
        data.PixelSpacing, data.SliceThickness = [SPACING_MM[1], SPACING_MM[0]], SPACING_MM[2]
        data.Rows, data.Columns = array.shape[1], array.shape[0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelData = array[:, :, index].T.tobytes()
        data.save_as(path / f"{index}.dcm", enforce_file_format=True)


def load_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    return np.asanyarray(image.dataobj), image.affine


def load_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = ReadImage(path)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return GetArrayFromImage(image).T, TO_LPS @ affine


def load_medseg(path: Path) -> tuple[np.ndarray, np.ndarray]:
    volume = read_volume(path)
    return volume.array[0], volume.geometry.affine


Save = Callable[[np.ndarray, np.ndarray, Path], None]
Load = Callable[[Path], tuple[np.ndarray, np.ndarray]]
IN: dict[str, tuple[str, Save]] = {
    "NIfTI by nibabel": ("in.nii.gz", save_nifti),
    "NRRD by SimpleITK": ("in.nrrd", save_itk),
    "MHA by SimpleITK": ("in.mha", save_itk),
    "DICOM by pydicom": ("series", save_dicom),
}
OUT: dict[str, tuple[str, Load]] = {
    "NIfTI read by nibabel": ("out.nii.gz", load_nifti),
    "NRRD read by SimpleITK": ("out.nrrd", load_itk),
}


def errors_mm(array: np.ndarray, affine: np.ndarray, folder: Path) -> Iterator[tuple[str, float]]:
    """The name of each check of one grid and the error of its worst voxel."""
    expected = places(array, affine)

    def error(load: Load, path: Path) -> float:
        return float(np.linalg.norm(places(*load(path)) - expected, axis=1).max())

    for source, (name, save) in IN.items():
        if save is save_dicom and np.linalg.det(affine) < 0:
            continue
        save(array, affine, folder / name)
        yield f"{source}, read by medseg", error(load_medseg, folder / name)
        volume = read_volume(folder / name)
        for target, (other, load) in OUT.items():
            write_volume(volume, folder / other)
            yield f"{source}, through medseg, {target}", error(load, folder / other)


def main() -> None:
    array = np.random.default_rng(5).permutation(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16)
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for affine in affines():
            for check, error in errors_mm(array, affine, Path(folder)):
                found[check].append(error)
    every = [error for errors in found.values() for error in errors]
    result = {
        "what": f"{'x'.join(map(str, SHAPE))} voxels of {'x'.join(map(str, SPACING_MM))} mm, every voxel a marker; "
        f"48 axis orientations (DICOM: the 24 right-handed ones, it has no others) x {NUM_TILTS} tilts",
        "checks": len(every),
        "voxels_compared": len(every) * array.size,
        "limit_mm": LIMIT_MM,
        "beyond_limit": sum(error > LIMIT_MM for error in every),
        "flips": sum(error >= FLIP_MM for error in every),
        "largest_error_mm": float(f"{max(every):.2g}"),
        "by_check": {
            check: {"checks": len(errors), "largest_error_mm": float(f"{max(errors):.2g}")}
            for check, errors in found.items()
        },
    }
    Path(__file__).with_name("results").joinpath("orientation.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    assert result["beyond_limit"] == 0


if __name__ == "__main__":
    main()
