"""Recipes for whole and broken images; every test breaks one thing of a file that is otherwise right."""

from __future__ import annotations

import gzip
import importlib
import struct
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medseg.core.errors import MedsegError
from medseg.io.contained import containable
from medseg.io.decoded import Decoded, ReadOptions

SPACING = (0.8, 0.8, 2.5)
MARKER = (20, 10, 15)
MARKER_RAS = (14.0, 12.0, -12.5)


class Hostile:
    """The readers of hostile/hostile_readers.py, as what reads files asks the real ones."""

    folder = Path(__file__).parent / "hostile"

    @staticmethod
    def reader(name: str):
        return containable(getattr(importlib.import_module("hostile_readers"), name))

    def asked(self, name: str, path=Path("x"), options=None) -> Decoded:
        return self.reader(name)(path, options or ReadOptions())

    def number(self, name: str) -> int:
        return self.asked(name).array.item()

    def refused(self, name: str, path=Path("case.nii.gz")) -> MedsegError:
        with pytest.raises(MedsegError) as caught:
            self.asked(name, path)
        assert caught.value.file == path
        return caught.value


class Recipes:
    """Makes images of a noisy block with one bright voxel, whose place in the patient is known."""

    marker_ras = np.array(MARKER_RAS)
    affine = np.array([[-0.8, 0, 0, 30], [0, -0.8, 0, 20], [0, 0, 2.5, -50], [0, 0, 0, 1.0]])
    offsets = {  # noqa: RUF012 - a table
        "sizeof_hdr": 0,
        "dim": 40,
        "datatype": 70,
        "bitpix": 72,
        "pixdim": 76,
        "vox_offset": 108,
        "slope": 112,
        "units": 123,
        "qform_code": 252,
        "sform_code": 254,
        "quatern": 256,
        "srow": 280,
        "magic": 344,
    }

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def volume(shape=(32, 40, 24), dtype=np.int16):
        array = np.random.default_rng(5).integers(-1000, 80, shape).astype(dtype)
        array[tuple(min(at, size - 1) for at, size in zip(MARKER, shape, strict=True))] = 3000
        return array

    def nifti(self, array=None, affine=None, *, codes=(1, 1)) -> bytearray:
        array = self.volume() if array is None else array
        image = nib.Nifti1Image(array, self.affine if affine is None else affine, dtype=array.dtype)
        image.set_qform(image.affine, codes[0])
        image.set_sform(image.affine, codes[1])
        return bytearray(image.to_bytes())

    def patched(self, *changes, data=None) -> bytearray:
        """Overwrite header fields: (field or (field, byte offset), struct format, values ...)."""
        data = self.nifti() if data is None else data
        for field, kind, *values in changes:
            name, more = field if isinstance(field, tuple) else (field, 0)
            struct.pack_into(f"<{kind}", data, self.offsets[name] + more, *values)
        return data

    def save(self, data: bytes, name="x.nii.gz") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(bytes(data), 1) if name.lower().endswith(".gz") else bytes(data))
        return path

    def rotated(self, degrees):
        turn = np.deg2rad(degrees)
        matrix = np.eye(4)
        matrix[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        return matrix @ self.affine

    def with_affine(self, **entries):
        affine = self.affine.copy()
        for place, value in entries.items():
            affine[int(place[1]), int(place[2])] = value
        return affine

    def two_transforms(self, qform, sform, *, codes=(1, 1)):
        image = nib.Nifti1Image(self.volume(), self.affine)
        image.set_qform(qform, codes[0])
        image.set_sform(sform, codes[1])
        return image.to_bytes()

    def raw_gzip(self, data, name="x.nii.gz"):
        path = self.folder / name
        path.write_bytes(data)
        return path

    def packed(self):
        return bytearray(gzip.compress(bytes(self.nifti()), 1))

    def flipped(self, data, position, mask=0xFF):
        data[position] ^= mask
        return data

    def pair(self, *, drop=()):
        image = nib.Nifti1Pair(self.volume(), self.affine)
        image.set_qform(self.affine, 1)
        image.set_sform(self.affine, 1)
        nib.save(image, self.folder / "x.img")
        for suffix in drop:
            (self.folder / f"x{suffix}").unlink()

    def analyze(self):
        nib.save(nib.AnalyzeImage(self.volume(), None), self.folder / "x.img")
        return self.folder / "x.img"

    def turned_qform(self):
        affine = self.affine.copy()
        affine[:3, :3] = np.diag([0.8, -0.8, 2.5])
        affine[0, 3] = -30
        return affine

    @staticmethod
    def marker_of(volume) -> np.ndarray:
        """Where the brightest voxel lies, RAS mm."""
        index = np.unravel_index(int(volume.array[0].argmax()), volume.geometry.shape)
        return volume.geometry.to_world(index)


class SliceRecipes:
    """Makes a CT series of 16 axial slices, 2.5 mm apart, with one bright voxel whose place is known."""

    marker_ras = np.array([14.0, 12.0, -30.0])
    series_uid = "1.2.826.0.1.3680043.10.543.5"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def volume(num_slices=16):
        """(columns, rows, slices) HU, as the reader should give them."""
        array = np.random.default_rng(5).integers(-1000, 80, (32, 40, num_slices)).astype(np.int16)
        array[20, 10, min(8, num_slices - 1)] = 3000
        return array

    def slice(self, number, pixels, height, *, uid=None) -> Dataset:
        """One slice; pixels (rows, columns) in HU are stored unsigned with an intercept of -1024."""
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.Modality, data.SeriesDescription, data.PatientID = "CT", "thorax", "x"
        data.SeriesInstanceUID = uid or self.series_uid
        data.InstanceNumber = number
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.ImagePositionPatient = [-30, -20, height]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing = [0.8, 0.8]
        data.SliceThickness = 2.5
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = (pixels.astype(np.int32) + 1024).astype(np.uint16).tobytes()
        return data

    def series(self, change=None, *, folder="s", heights=None, uid=None, num_slices=16) -> Path:
        """Write the slices; `change(index, slice)` edits one, or returns False to leave it out."""
        place = self.folder / folder
        place.mkdir(exist_ok=True)
        heights = [-50 + 2.5 * index for index in range(num_slices)] if heights is None else heights
        volume = self.volume(len(heights))
        for index, height in enumerate(heights):
            data = self.slice(index + 1, volume[:, :, index].T, height, uid=uid)
            if change is None or change(index, data) is not False:
                self.save(data, place / f"{folder}_{index:03d}.dcm")
        return place

    @staticmethod
    def save(data: Dataset, path: Path) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.save_as(path, enforce_file_format=True)
        return path


@pytest.fixture
def little_memory():
    """A context in which no more than 256 MiB can be taken beyond what the process has."""

    @contextmanager
    def limited():
        resource = pytest.importorskip("resource")
        statm = Path("/proc/self/statm")
        if not statm.exists():
            yield
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    return limited


@pytest.fixture
def slices(tmp_path: Path) -> SliceRecipes:
    return SliceRecipes(tmp_path)


@pytest.fixture
def recipes(tmp_path: Path) -> Recipes:
    return Recipes(tmp_path)


@pytest.fixture(scope="session")
def hostile():
    sys.path.insert(0, str(Hostile.folder))
    yield Hostile()
    sys.path.remove(str(Hostile.folder))
