"""A coverage-guided fuzz run over the readers: whatever bytes come in, a volume or a refusal with a code comes out.

A finding is any other exception, a warning that escapes, more than 10 s for one input, or more than 1 GB of memory. The
seeds are small whole files made by code; every finding leaves the bytes that caused it and its traceback under
`--folder`. Adds the run to benchmarks/results/fuzz.json. Needs Linux and atheris (`pip install atheris`), one process:

    nice -n 19 python benchmarks/fuzz_readers.py --minutes 35
    python benchmarks/fuzz_readers.py --minutes 10 nrrd dicom       # these formats only
    python benchmarks/fuzz_readers.py --replay nrrd FILE            # what one input does, without atheris
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy as np

TIMEOUT_S, MEMORY_MB, LONGEST_INPUT = 10, 1024, 16384
SPLIT = b"\x00NEXT-FILE\x00"
NAMES = {
    "nifti": "x.nii",
    "nifti-gz": "x.nii.gz",
    "nrrd": "x.nrrd",
    "metaimage": "x.mha",
    "mgh": "x.mgh",
    "dicom": "x.dcm",
    "folder": "series",
    "zip": "x.zip",
    "tar": "x.tar",
}
SHARE = {"dicom": 2.0, "folder": 2.0, "nrrd": 1.5, "mgh": 0.5}  # of the time; the others 1


def array():
    return np.arange(120, dtype=np.int16).reshape(4, 5, 6) * 7 - 300


def dicom_slices(count, syntax=None, edge=5):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    for index in range(count):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{index + 1}"
        data.SeriesInstanceUID, data.StudyInstanceUID, data.Modality = "1.2.3.4", "1.2.3", "CT"
        data.FrameOfReferenceUID, data.PatientID = "1.2.3.9", "x"
        data.ImageType, data.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], index + 1
        data.ImagePositionPatient, data.ImageOrientationPatient = [-30, -20, 2.5 * index], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [0.8, 0.8], 2.5
        data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = edge, edge, 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = (np.arange(edge * edge, dtype=np.uint16) * (index + 3)).tobytes()
        if syntax:
            data.compress(syntax)
        held = io.BytesIO()
        data.save_as(held, enforce_file_format=True)
        yield held.getvalue()


def written(name, folder):
    """The bytes of our own file of that name: one of the formats that are written."""
    from medseg.core.geometry import Geometry
    from medseg.core.volume import Volume
    from medseg.io.volumes import write_volume

    write_volume(Volume(array()[None], Geometry.from_parts((4, 5, 6), (0.8, 0.9, 2.5))), folder / name)
    return (folder / name).read_bytes()


def mgh():
    head = np.array([1, 4, 5, 6, 1, 4, 0], ">i4").tobytes() + np.array([1], ">i2").tobytes()
    place = np.array([0.8, 0.9, 2.5, -1, 0, 0, 0, 0, -1, 0, 1, 0, 3, 4, 5], ">f4").tobytes()
    return (head + place).ljust(284, b"\0") + array().astype(">i2").tobytes(order="F")


def packed_tar():
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (("s/a.txt", b"hello"), ("s/" + "long" * 40, b"x" * 700)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return held.getvalue()


def packed_zip(members):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, data in enumerate(members):
            archive.writestr(f"s/{index}.dcm", data)
    return held.getvalue()


def seeds(kind, folder):
    """Small whole files of one format."""
    if kind in {"nifti", "nifti-gz"}:
        import nibabel as nib

        second = nib.Nifti2Image(array(), np.diag([0.8, 0.9, 2.5, 1])).to_bytes()
        plain = [written("x.nii", folder), second]
        return [gzip.compress(data) for data in plain] if kind == "nifti-gz" else plain
    if kind == "nrrd":
        attached = written("x.nrrd", folder)
        detached = b"NRRD0005\ntype: short\ndimension: 3\nsizes: 4 5 6\nspace: RAS\nencoding: raw\nendian: little\n"
        detached += b"space directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (0,0,0)\n"
        seg = b"kinds: domain domain domain\ndata file: x.raw\nSegment0_Name:=liver\n\n"
        return [attached, detached + b"\n" + array().tobytes(), detached + seg]
    if kind == "metaimage":
        header = b"ObjectType = Image\nNDims = 3\nDimSize = 4 5 6\nElementType = MET_SHORT\nElementSpacing = 1 1 2\n"
        header += b"TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
        return [written("x.mha", folder), header + b"ElementDataFile = LOCAL\n" + array().tobytes(),
                header + b"ElementDataFile = x.raw\n"]  # fmt: skip
    if kind == "mgh":
        return [mgh()]
    if kind == "dicom":
        from pydicom.uid import JPEG2000Lossless, RLELossless

        return [next(dicom_slices(1, *how)) for how in ((None,), (RLELossless,), (JPEG2000Lossless, 32))]
    return {
        "folder": lambda: [SPLIT.join(dicom_slices(3))],
        "zip": lambda: [packed_zip(dicom_slices(3)), packed_zip([b"no image"])],
        "tar": lambda: [packed_tar(), gzip.compress(packed_tar())],
    }[kind]()


def place_input(kind, data, folder):
    path = folder / NAMES[kind]
    if kind != "folder":
        path.write_bytes(data)
        return path
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for index, part in enumerate(data.split(SPLIT)[:8]):
        (path / f"{index}.dcm").write_bytes(part)
    return path


def read(kind, data, folder):
    """Read one input, and once more with everything settled that may be settled; return the code of a refusal."""
    from medseg.core.errors import MedsegError
    from medseg.core.reading import AS_IT_IS, Reading
    from medseg.io.archives import extract
    from medseg.io.volumes import read_volume

    path = place_input(kind, data, folder)
    if kind == "tar":
        shutil.rmtree(folder / "out", ignore_errors=True)
        try:
            extract(path, folder / "out")
        except MedsegError as refusal:
            return refusal.code
        return "read"
    code = "read"
    for reading in (AS_IT_IS, Reading(assume_orientation=True, prefer="sform", fix_geometry=True)):
        try:
            read_volume(path, reading)
        except MedsegError as refusal:
            code = refusal.code
    return code


def prepared_folder():
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108
    (folder / "x.raw").write_bytes(array().tobytes())
    return folder


def worker(kind, corpus, findings, seconds):
    """The process that libFuzzer runs in; it goes on after an exception and stops at a hang or a memory bomb."""
    import atheris

    with atheris.instrument_imports(include=["medseg.io"] + (["pydicom"] if kind in {"dicom", "folder"} else [])):
        import medseg.io.archives
        import medseg.io.dicom
        import medseg.io.volumes  # noqa: F401
    folder, seen, codes = prepared_folder(), set(), {}
    for index, data in enumerate(seeds(kind, folder)):
        (corpus / f"seed-{index}").write_bytes(data)
    warnings.simplefilter("error")

    def one_input(data):
        try:
            code = read(kind, data, folder)
        except Exception as error:  # noqa: BLE001 - what the run looks for
            at = next((f for f in reversed(traceback.extract_tb(error.__traceback__)) if "medseg" in f.filename), None)
            where = f"{type(error).__name__}-{Path(at.filename).stem if at else 'harness'}-{at.lineno if at else 0}"
            if where not in seen:
                seen.add(where)
                (findings / where).write_bytes(data)
                (findings / f"{where}.txt").write_text(traceback.format_exc())
            code = f"FINDING {where}"
        if code not in codes:
            print(f"OUTCOME {code}", file=sys.stderr, flush=True)
        codes[code] = codes.get(code, 0) + 1

    limits = [f"-max_total_time={seconds}", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB}"]
    atheris.Setup(
        [sys.argv[0], str(corpus), *limits, f"-max_len={LONGEST_INPUT}", "-print_final_stats=1", "-seed=7",
         f"-artifact_prefix={findings}/"],
        one_input,
    )  # fmt: skip
    atheris.Fuzz()


def run_format(kind, seconds, folder):
    corpus, findings = folder / f"corpus-{kind}", folder / f"findings-{kind}"
    for made in (corpus, findings):
        made.mkdir(parents=True, exist_ok=True)
    log = folder / f"{kind}.log"
    start = time.monotonic()
    command = [sys.executable, __file__, "--worker", kind, "--folder", str(folder), "--seconds", str(int(seconds))]
    with log.open("wb") as file:
        subprocess.run(command, stderr=file, stdout=file, check=False)
    text = log.read_text(errors="replace")
    numbers = re.findall(r"#(\d+)\s+\S+\s+cov: (\d+) ft: (\d+)", text)
    executed = re.findall(r"number_of_executed_units: (\d+)", text)
    row = {
        "seconds": round(time.monotonic() - start),
        "executions": int(executed[-1]) if executed else int(numbers[-1][0]) if numbers else 0,
        "coverage_edges": int(numbers[-1][1]) if numbers else 0,
        "coverage_edges_of_seeds": int(numbers[0][1]) if numbers else 0,
        "features": int(numbers[-1][2]) if numbers else 0,
        "outcomes": sorted(set(re.findall(r"OUTCOME (\S+)$", text, re.MULTILINE))),
        "findings": sorted(path.name for path in findings.iterdir() if path.suffix != ".txt"),
    }
    print(kind, json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="format", help=f"any of {', '.join(NAMES)}; all by default")
    parser.add_argument("--minutes", type=float, default=35, help="in all")
    parser.add_argument("--folder", type=Path, default=Path("fuzz-readers"), help="for corpus, logs and findings")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "fuzz.json")
    parser.add_argument("--replay", nargs=2, metavar=("FORMAT", "FILE"))
    parser.add_argument("--worker", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, default=60, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.replay:
        warnings.simplefilter("error")
        print(read(given.replay[0], Path(given.replay[1]).read_bytes(), prepared_folder()))
        return
    if given.worker:
        folder = given.folder
        worker(given.worker, folder / f"corpus-{given.worker}", folder / f"findings-{given.worker}", given.seconds)
    formats = given.formats or list(NAMES)
    whole = sum(SHARE.get(kind, 1) for kind in formats)
    rows = {
        kind: run_format(kind, given.minutes * 60 * SHARE.get(kind, 1) / whole, given.folder.resolve())
        for kind in formats
    }
    result = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "limits": {"seconds": TIMEOUT_S, "memory_mb": MEMORY_MB, "longest_input": LONGEST_INPUT},
        "minutes": round(sum(row["seconds"] for row in rows.values()) / 60, 1),
        "executions": sum(row["executions"] for row in rows.values()),
        "formats": rows,
    }
    runs = json.loads(given.output.read_text())["runs"] if given.output.exists() else []
    given.output.write_text(json.dumps({"runs": [*runs, result]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
