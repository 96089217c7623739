"""Time and peak memory of `medseg to-dicom` for a 512 x 512 x 300 CT series and a mask of ten organs.

The peak is the operating system's account of the whole process: reading the series' headers and the mask, writing,
reading back and comparing. `load` is how many processes wanted the machine's cores in that minute: beside others the
time by the clock says little, the processor time stays. Writes benchmarks/results/dicom_seg.json.

    python benchmarks/bench_dicom_seg.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap
from medseg.io.volumes import write_labels

SHAPE = (512, 512, 300)
SPACING_MM = (0.8, 0.8, 1.5)
NAMES = ("liver", "spleen", "pancreas", "stomach", "colon", "aorta", "heart", "brain", "kidney left", "kidney right")


def make_series(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 2000, SHAPE[:2]).astype(np.uint16).tobytes()
    folder.mkdir()
    for index in range(SHAPE[2]):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "2.25.1", "2.25.2", "2.25.3"
        data.Modality, data.PatientID, data.PatientName = "CT", "bench", "Bench"
        data.ImagePositionPatient = [-200, -200, SPACING_MM[2] * index]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = list(SPACING_MM[:2]), SPACING_MM[2]
        data.Rows, data.Columns = SHAPE[1], SHAPE[0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.PixelData = pixels
        data.save_as(folder / f"{index:03d}.dcm", enforce_file_format=True)


def make_mask(path: Path) -> None:
    """Ten ellipsoids of 15 to 40 % of the field along each axis."""
    rng, array = np.random.default_rng(0), np.zeros(SHAPE, np.uint8)
    places = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    for value in range(1, len(NAMES) + 1):
        centre, radius = rng.uniform(0.2, 0.8, 3) * SHAPE, rng.uniform(0.15, 0.4, 3) * SHAPE
        array[sum(((x - c) / r) ** 2 for x, c, r in zip(places, centre, radius, strict=True)) < 1] = value
    geometry = Geometry.from_parts(SHAPE, SPACING_MM, np.diag([-1.0, -1.0, 1.0]), (200, 200, 0))
    write_labels(LabelMap(array, geometry), path)


def measure(folder: Path, name: str) -> dict[str, float]:
    labels = ",".join(f"{label}={value}" for value, label in enumerate(NAMES, start=1))
    command = [sys.executable, "-m", "medseg", "to-dicom", str(folder / "mask.nii.gz"), "--series", str(folder / "ct")]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--labels", labels, "--format", name, "--quiet"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return {
        "wall_s": round(time.perf_counter() - start, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        "load": round(os.getloadavg()[0], 1),
        "num_cores": os.cpu_count() or 0,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_series(folder / "ct")
        make_mask(folder / "mask.nii.gz")
        result: dict[str, object] = {"what": "medseg to-dicom, 512x512x300, 10 segments, whole process, read back"}
        result |= {kind: measure(folder, kind) for kind in ("dicom-seg", "dicom-rtstruct")}
        written = pydicom.dcmread(folder / "mask.seg.dcm", stop_before_pixels=True)
        result["frames"], result["segments"] = int(written.NumberOfFrames), len(written.SegmentSequence)
    Path(__file__).with_name("results").joinpath("dicom_seg.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
