"""The miniature cohort: eight phantom cases, preprocessed and trained on for a few steps, shared by the whole suite."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from medseg.core.reading import Containment
from medseg.core.settings import InferSettings, PreprocessSettings, TrainSettings
from medseg.data.phantom import make_phantom
from medseg.io.contained import contained
from medseg.workflows.infer import Inferred, infer
from medseg.workflows.preprocess import preprocess
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

NUM_CASES = 8


@pytest.fixture(scope="session")
def readers() -> Iterator[ExitStack]:
    """Holds the process that reads for module after module."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module", autouse=True)
def one_reader(request: pytest.FixtureRequest, readers: ExitStack) -> None:
    """One process reads for all modules of commands in a row, as it does for all cases of a command.

    It keeps the environment that it was started in: a module whose tests change what reading depends on, or watch the
    process, says `OWN_READERS = True`.
    """
    if request.path.parent.name in {"apps", "workflows"} and not hasattr(request.module, "OWN_READERS"):
        readers.enter_context(contained(Containment()))  # one inside another is the outer one
    else:
        readers.close()


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of the miniature cohort."""
    return make_phantom(tmp_path_factory.mktemp("cohort"), seed=3, num_cases=NUM_CASES)


@pytest.fixture(scope="session")
def workspace(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a store of coarse voxels and a model after a few steps: fast, and no good at its task."""
    place = Workspace(tmp_path_factory.mktemp("workspace"))
    preprocess(
        place, PreprocessSettings(manifest=cohort, spacing_mm=(5.0, 5.0, 6.0), patch_size=(32, 32, 16), target="cpu")
    )
    train(place, TrainSettings(epochs=2, warmup_steps=2))
    return place


@pytest.fixture(scope="session")
def inferred(workspace: Workspace, cohort: Path) -> Inferred:
    """Predictions of every case of the cohort."""
    return infer(workspace.newest_bundle(), workspace.predictions, InferSettings(), folder=cohort)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans; tests that need it are marked `real_data`."""
    folder = Path(os.environ.get("MEDSEG_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder of real scans: set MEDSEG_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def dcmtk() -> dict[str, str]:
    """DCMTK's network programs. They say so: pynetdicom brings others of the same names, which take other options."""

    def find(name: str) -> str:
        for place in os.get_exec_path():
            path = shutil.which(name, path=place)
            if path and b"$dcmtk" in subprocess.run([path, "--version"], check=False, capture_output=True).stdout:
                return path
        pytest.skip(f"DCMTK's {name} is not installed")

    return {name: find(name) for name in ("storescu", "storescp", "echoscu")}


class SeriesMaker:
    """Writes CT series of noise, with the identity of a patient, at any place and orientation."""

    identity: ClassVar[dict[str, str]] = {
        "PatientName": "Müller^Jörg",
        "PatientID": "P-17",
        "PatientBirthDate": "19610203",
        "PatientSex": "M",
        "StudyInstanceUID": "1.2.826.0.1.3680043.10.543.1",
        "SeriesInstanceUID": "1.2.826.0.1.3680043.10.543.2",
        "FrameOfReferenceUID": "1.2.826.0.1.3680043.10.543.3",
        "StudyDate": "20260102",
        "StudyTime": "101500",
        "StudyID": "S1",
        "AccessionNumber": "A-99",
        "ReferringPhysicianName": "Ärztin^Ida",
    }

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name, shape, lps, *, shear_mm=0.0, change=None, enhanced=False) -> Path:
        """A folder of slices, or one enhanced file in it.

        Args:
            name: Of the folder.
            shape: Columns, rows, slices.
            lps: (4, 4) index (column, row, slice) to LPS mm; the slices may run against their normal.
            shear_mm: Drift of each slice along its columns, as under a tilted gantry.
            change: Edits each slice's data set, or the enhanced one.
            enhanced: One multi-frame file, frames in reverse order.
        """
        place = self.folder / name
        place.mkdir()
        pixels = np.random.default_rng(1).integers(0, 2000, shape[::-1]).astype(np.uint16)
        step_mm = np.linalg.norm(lps[:3, :3], axis=0)
        down = lps[:3, 1] / step_mm[1]
        positions = [lps[:3, 3] + index * (lps[:3, 2] + shear_mm * down) for index in range(shape[2])]
        cosines = [*(lps[:3, 0] / step_mm[0]), *down]
        if enhanced:
            self._enhanced(place / "enhanced.dcm", pixels[::-1], positions[::-1], cosines, step_mm, change)
            return place
        for index, position in enumerate(positions):
            data = self._plain(CTImageStorage, pixels[index])
            data.ImagePositionPatient, data.ImageOrientationPatient = self._ds(position), self._ds(cosines)
            data.PixelSpacing, data.SliceThickness = self._ds(step_mm[[1, 0]]), self._ds(step_mm[2:])[0]
            data.InstanceNumber = index + 1
            self._save(data, place / f"{index:03d}.dcm", change)
        return place

    def _enhanced(self, path, pixels, positions, cosines, step_mm, change) -> None:
        data = self._plain(EnhancedCTImageStorage, pixels)
        data.NumberOfFrames = len(positions)
        orientation, measures, shared = Dataset(), Dataset(), Dataset()
        orientation.ImageOrientationPatient = self._ds(cosines)
        measures.PixelSpacing, measures.SliceThickness = self._ds(step_mm[[1, 0]]), self._ds(step_mm[2:])[0]
        shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
        data.SharedFunctionalGroupsSequence = [shared]
        data.PerFrameFunctionalGroupsSequence = []
        for position in positions:
            group, where = Dataset(), Dataset()
            where.ImagePositionPatient = self._ds(position)
            group.PlanePositionSequence = [where]
            data.PerFrameFunctionalGroupsSequence.append(group)
        self._save(data, path, change)

    def _plain(self, kind, pixels) -> Dataset:
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SpecificCharacterSet = "ISO_IR 100"
        for name, value in self.identity.items():
            setattr(data, name, value)
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = kind
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
        data.Modality, data.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.OperatorsName, data.InstitutionName = "Operator^Olaf", "Hospital"
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.Rows, data.Columns = pixels.shape[-2:]
        data.PixelData = np.ascontiguousarray(pixels).tobytes()
        return data

    @staticmethod
    def _ds(numbers) -> list[str]:
        return [format_number_as_ds(float(number)) for number in numbers]

    @staticmethod
    def _save(data, path, change) -> None:
        if change is not None:
            change(data)
        data.save_as(path, enforce_file_format=True)


@pytest.fixture
def series(tmp_path: Path) -> SeriesMaker:
    return SeriesMaker(tmp_path)
