"""Fifty words in every field of text that an input can have: no command leaves one in what it writes or says.

What may say them, by design: `medseg series` shows descriptions and UIDs; DICOM results name the patient (`COPIED`);
`check --fix` copies sound files. `demo` and `import-nnunet` read no images; the listener has its own test.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from medseg.apps import cli
from medseg.core.prediction import Prediction
from medseg.core.volume import LabelMap
from medseg.engine.predict import Predictor

OWN_READERS = True
SHAPE = (44, 40, 22)
AXES = np.diag([3.5, 3.5, -5.0])
EXAMINATIONS = {"ct_january": ("20260110", 12), "ct_april": ("20260412", 16)}
NAMELESS = {"a": "nii", "b": "nrrd", "c": "mha"}
# Four characters (AS) would be found by chance.
TEXT = {
    "PN": "PatientName ReferringPhysicianName OperatorsName PerformingPhysicianName NameOfPhysiciansReadingStudy",
    "LO": "PatientID IssuerOfPatientID InstitutionName StudyDescription SeriesDescription ProtocolName "
    "ManufacturerModelName DeviceSerialNumber",
    "SH": "AccessionNumber StationName StudyID StackID",
    "LT": "AdditionalPatientHistory PatientComments",
    "ST": "InstitutionAddress DerivationDescription",
    "UT": "TextValue",
    "UC": "LongCodeValue",
    "UR": "RetrieveURL",
    "AE": "RetrieveAETitle",
    "CS": "BodyPartExamined",
}
# Digits that nothing else has; the day of the study is shown by follow-up, which is about days.
NUMBERS = {
    "PatientBirthDate": "19130704",
    "SeriesDate": "19130705",
    "StudyTime": "041337.918273",
    "AcquisitionTime": "041338.918273",
    "AcquisitionDateTime": "19130706041339.918273",
    "ExposureTime": "1926070461",
    "PatientWeight": "61.728391307",
    "DeviceUID": "1.2.826.0.1.913070461.1",
    "StudyInstanceUID": "1.2.826.0.1.913070461.2",
    "SeriesInstanceUID": "1.2.826.0.1.913070461.3",
    "FrameOfReferenceUID": "1.2.826.0.1.913070461.4",
}
ELSEWHERE = (
    *("private", "private bytes", "nested", "nested twice", "sender", "preamble", "unreadable", "no number"),
    *("descrip", "aux_file", "db_name", "intent_name", "extension", "nrrd key", "nrrd comment", "nrrd content"),
    *("nrrd type", "mha comment", "mha key", "mha type"),
)
WORDS = {
    name: f"ZQ{index:02d}CANARY"
    for index, name in enumerate((*(name for names in TEXT.values() for name in names.split()), *ELSEWHERE))
}
CANARIES = {**WORDS, **NUMBERS}
COPIED = {
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize"),
    *("PatientWeight", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber"),
    "ReferringPhysicianName",
}

# Numbers, coded terms and technical text, which the profile keeps.
KEPT = {"BodyPartExamined", "ExposureTime", "LongCodeValue", "ManufacturerModelName"}


def plant(data):
    """Every canary that a DICOM object can hold."""
    for name in (name for names in TEXT.values() for name in names.split()):
        setattr(data, name, f"{WORDS[name]}^DOE" if name in TEXT["PN"] else WORDS[name])
    for name, value in NUMBERS.items():
        setattr(data, name, value)
    block = data.private_block(0x0029, "SOMEONE", create=True)
    block.add_new(1, "LO", WORDS["private"])
    block.add_new(2, "OB", WORDS["private bytes"].encode() + b"\0")
    inner, outer = Dataset(), Dataset()
    inner.PatientComments, outer.RequestedProcedureDescription = WORDS["nested twice"], WORDS["nested"]
    outer.ReferencedStudySequence = [inner]
    data.RequestAttributesSequence = [outer]
    data.file_meta.SourceApplicationEntityTitle = WORDS["sender"]
    data.preamble = WORDS["preamble"].encode().ljust(128, b"\0")


def hounsfield(radius):
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    points = index @ AXES + (-75, -68, 55)
    values = np.full(SHAPE, -1000)
    for centre, radii, value in (
        ((0, 0, 0), (66, 56, 52), 20),
        ((-20, 0, 0), (40, 38, 36), 60),
        ((-35, 5, 5), (radius,) * 3, 150),
    ):
        values[np.linalg.norm((points - centre) / np.array(radii), axis=-1) < 1] = value
    return values


def labelled(values):
    found = (np.abs(values - 60) < 20).astype(np.uint8)
    found[np.abs(values - 150) < 40] = 2
    return found


def see(_, volume, **_options):
    """What a good network would answer."""
    found = LabelMap(labelled(volume.array[0]), volume.geometry)
    return Prediction(found, classes={"kind": {"a": 0.3, "b": 0.7}})


def write_nrrd(path, values, kind):
    head = (
        f"NRRD0005\n# {WORDS['nrrd comment']}\ncontent: {WORDS['nrrd content']}\ntype: {kind}\ndimension: 3\n"
        f"sizes: 44 40 22\nspace: left-posterior-superior\nspace directions: (3.5,0,0) (0,3.5,0) (0,0,5)\n"
        f"space origin: (0,0,0)\nencoding: raw\nendian: little\nname:={WORDS['nrrd key']}\n\n"
    )
    path.write_bytes(head.encode() + values.astype("<i2").tobytes(order="F"))


def write_mha(path, values, kind):
    head = (
        f"ObjectType = Image\nNDims = 3\nComment = {WORDS['mha comment']}\nPatient = {WORDS['mha key']}\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 3.5 3.5 5\nDimSize = 44 40 22\n"
        f"ElementType = {kind}\nElementDataFile = LOCAL\n"
    )
    path.write_bytes(head.encode() + values.astype("<i2").tobytes(order="F"))


def write_nifti(path, values):
    image = nib.Nifti1Image(values.astype(np.int16), np.diag([3.5, 3.5, 5, 1]))
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[name] = WORDS[name].encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", WORDS["extension"].encode()))
    nib.save(image, path)


@pytest.fixture
def place(series, monkeypatch, workspace, tmp_path):
    """`source` holds all canaries; `work` is where the commands run; home, caches and temporary files are searched."""
    for name in ("source", "source/images", "source/labels", "work", "home", "cache", "tmp"):
        (tmp_path / name).mkdir()
    for number, (name, (date, radius)) in enumerate(EXAMINATIONS.items(), start=1):
        values, lps = hounsfield(radius), np.eye(4)
        lps[:3, :3], lps[:3, 3] = AXES, (-75, -68, 55)

        def draw(data, values=values, number=number, date=date):
            plant(data)
            data.PixelData = (values[:, :, data.InstanceNumber - 1].T + 1024).astype(np.uint16).tobytes()
            for uid in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
                setattr(data, uid, f"{NUMBERS[uid]}.{number}")
            data.StudyDate = date

        series.write(f"source/{name}", SHAPE, lps, change=draw)
    values = hounsfield(14)
    values = write_images(tmp_path / "source")
    spoil(tmp_path / "source", values)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # through a short name, because Chromium puts a socket there, whose path may have 107 letters
    short = Path(tempfile.mkdtemp(), "t")
    short.symlink_to(tmp_path / "tmp")
    monkeypatch.setenv("TMPDIR", str(short))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(Predictor, "predict", see)
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "source" / "model").symlink_to(workspace.newest_bundle())
    yield tmp_path
    shutil.rmtree(short.parent)


def write_images(source):
    """Three images with their masks, no two alike; the last one's voxels."""
    for radius, (name, suffix) in enumerate(NAMELESS.items(), start=13):
        values, path = hounsfield(radius), source / "images" / f"{name}.{suffix}"
        if suffix == "nii":
            write_nifti(path, values)
        elif suffix == "nrrd":
            write_nrrd(path, values, "short")
        else:
            write_mha(path, values, "MET_SHORT")
        turn = 1 if suffix == "nii" else -1
        mask = nib.Nifti1Image(labelled(values), np.diag([3.5 * turn, 3.5 * turn, 5, 1]))
        nib.save(mask, source / "labels" / f"{name}.nii")
    return values


def spoil(source, values):
    """Images that are refused because of the words in their headers."""
    whole = (source / "ct_april" / "003.dcm").read_bytes()
    (source / "bad_place").mkdir()
    at = whole.index(b"\x20\x00\x32\x00DS") + 8
    (source / "bad_place" / "x.dcm").write_bytes(
        whole[:at] + WORDS["no number"].encode() + whole[at + len(WORDS["no number"]) :]
    )
    at = whole.index(b"\x20\x00\x13\x00IS")
    (source / "bad_bytes").mkdir()
    (source / "bad_bytes" / "x.dcm").write_bytes(
        whole[:at] + b"\x28\x00\x10\x00US\x0b\x00" + WORDS["unreadable"].encode() + b"!"
    )
    write_nrrd(source / "bad_type.nrrd", values, WORDS["nrrd type"])
    write_mha(source / "bad_type.mha", values, WORDS["mha type"])


@pytest.fixture
def run(monkeypatch, capsys):
    said: list[str] = []

    def call(*words: object, code: int = 0) -> None:
        monkeypatch.setattr(sys, "argv", ["medseg", "-v", "--debug", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        assert (caught.value.code or 0) == code, captured
        said.extend((captured.out, captured.err))

    call.said = said
    return call


def found_in(data: bytes) -> set[str]:
    """Names of the canaries in bytes, packed ones too."""
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    if data[:5] == b"%PDF-":
        data += b"".join(pdf_parts(data))
    found = {
        name
        for name, word in CANARIES.items()
        if word.encode() in data or word.encode("utf-16-le") in data or word.encode("utf-16-be") in data
    }
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found.update(*(found_in(archive.read(name)) | found_in(name.encode()) for name in archive.namelist()))
    return found


def pdf_parts(data: bytes) -> list[bytes]:
    """The unpacked streams of a PDF, and its text where there is a tool that reads it."""
    parts = []
    for packed in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL):
        try:
            parts.append(zlib.decompress(packed))
        except zlib.error:
            continue
    assert parts
    if shutil.which("pdftotext"):
        parts.append(subprocess.run(["pdftotext", "-", "-"], input=data, capture_output=True, check=True).stdout)
    return parts


def found_in_object(path: Path) -> set[str]:
    """Names of the canaries of a DICOM result, but for the references and the patient's and study's attributes."""
    found: set[str] = found_in(pydicom.dcmread(path).preamble)
    for holder in (pydicom.dcmread(path), pydicom.dcmread(path).file_meta):
        for element in holder.iterall():
            if element.VR not in {"UI", "SQ"} and element.keyword not in COPIED:
                found |= found_in(element.value if isinstance(element.value, bytes) else str(element.value).encode())
    return found


def leaks(place: Path, *, objects_apart: bool = True) -> dict[str, set[str]]:
    """By file; names of files count too."""
    files = [path for name in ("work", "home", "cache", "tmp") for path in (place / name).rglob("*") if path.is_file()]
    assert files
    found = {}
    for path in files:
        is_object = objects_apart and path.suffix == ".dcm"
        found[str(path.relative_to(place))] = (
            found_in_object(path) if is_object else found_in(path.read_bytes())
        ) | found_in(str(path.relative_to(place)).encode())
    return {name: words for name, words in found.items() if words}


def test_fifty_canaries_are_planted_and_the_search_finds_them(place):
    assert len(CANARIES) >= 50
    sources = {path for path in (place / "source").rglob("*") if path.is_file() and "model" not in path.parts}
    planted = set().union(*(found_in(path.read_bytes()) for path in sources))
    assert planted == set(CANARIES)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.gz", gzip.compress(WORDS["PatientName"].encode()))
    assert found_in(packed.getvalue()) == {"PatientName"}


def manifest_of(place: Path, *, again: tuple[str, ...] = ("",)) -> Path:
    """Each image is a case, once for each ending of its name."""
    cases = [
        {"id": name + end, "images": [f"source/images/{name}.{suffix}"], "label": f"source/labels/{name}.nii"}
        | {"split": "val" if name == "c" else "train", "classes": {"kind": name if name == "a" else "b"}}
        for name, suffix in NAMELESS.items()
        for end in again
    ]
    path = place / "manifest.json"
    dataset = {"name": "d", "labels": {"organ": 1, "lesion": 2}, "heads": {"kind": ["a", "b"]}, "cases": cases}
    path.write_text(json.dumps(dataset))
    return path


def test_images_and_datasets(run, place):
    source, manifest = place / "source", manifest_of(place)
    run("import", source, "--images", "images", "--masks", "labels", "--labels", "organ=1,lesion=2", "-o", "m.json")
    run("check", "--manifest", manifest, "--report", "found.json")
    run("check", "--manifest", manifest, "--fix", "mended")
    run("preprocess", "--manifest", manifest, "-w", "ws", "--set", "preprocess.target=cpu")
    run("infer", "--input", manifest, "--bundle", source / "model", "--out", "found")
    run("evaluate", "--predictions", "found", "--manifest", manifest, "--out", "scores", "--jobs", 1)
    run("report", "scores", *(("--pdf",) if any(map(shutil.which, ("chromium", "google-chrome"))) else ()))
    run("compare", "scores", "scores", "--out", "compared")
    copies = {f"work/mended/images/{name}.{suffix}" for name, suffix in NAMELESS.items()}
    assert set(leaks(place)) == copies, "sound files are copied as they are, all else holds nothing"
    for copy in copies:
        assert (place / copy).read_bytes() == (source / "images" / Path(copy).name).read_bytes()
    assert found_in("".join(run.said).encode()) == set()


def test_a_hospitals_series(run, place):
    source = place / "source"
    scans = [source / name for name in EXAMINATIONS]
    volumes = [word for scan in scans for word in ("--volume", scan)]
    formats = "nifti,dicom-seg,dicom-sr,dicom-rtstruct"
    run("infer", *volumes, "--bundle", source / "model", "--format", formats, "--out", "found")
    run("measure", "found", "--image", source, "--out", "measured")
    run("stage", "measured", "--table", "liver_hcc_tnm8", "--given", "extension=no", "--given", "vascular_invasion=no")
    run("follow-up", *scans, "--predictions", "found", "--out", "followed", "--no-register")
    run("to-dicom", "found/ct_april.nii.gz", "--series", scans[1], "--format", "dicom-seg", "--out", "archive")
    assert leaks(place) == {}
    assert found_in("".join(run.said).encode()) == set()


def test_what_is_learnt(run, place):
    manifest, case = manifest_of(place, again=("", "2")), place / "source" / "images" / "b.nrrd"
    small = ("--set", "preprocess.spacing_mm=[5,5,6]", "--set", "preprocess.patch_size=[32,32,16]")
    run("preprocess", "-m", manifest, "-w", "ws", "--set", "preprocess.target=cpu", *small)
    run("train", "-w", "ws", "--preview")
    short = ("--epochs", 1, "--set", "train.warmup_steps=1", "--device", "cpu")
    run("train", "-w", "ws", *short)
    (bundle,) = (place / "work" / "ws" / "runs").glob("*/bundle")
    run("ensemble", bundle, bundle, "--out", "both")
    run("export", bundle, "--out", "exported", "--format", "torch-export", "--case", case)
    run("baseline", "-m", manifest, "-w", "ws", "--bundle", bundle, "--models", "tree", "--masks", "reference")
    assert leaks(place) == {}
    assert found_in("".join(run.said).encode()) == set()


@pytest.mark.slow
def test_folds_and_the_best_of_them(run, place):
    small = ("--set", "preprocess.spacing_mm=[5,5,6]", "--set", "preprocess.patch_size=[32,32,16]")
    run("preprocess", "-m", manifest_of(place), "-w", "ws", "--set", "preprocess.target=cpu", *small)
    short = ("--epochs", 1, "--set", "train.warmup_steps=1", "--device", "cpu")
    run("train", "-w", "ws", "--folds", 2, *short)
    (folds,) = (place / "work" / "ws" / "runs").glob("*/cross-validation.json")
    run("find-best", folds.parent, "-w", "ws", "--out", "best", "--min-volumes", 1)
    assert leaks(place) == {}
    assert found_in("".join(run.said).encode()) == set()


def test_a_list_of_series_speaks_of_them_and_keeps_nothing(run, place):
    run("series", place / "source" / "ct_january")
    run("series", place / "source" / "ct_april", "--json")
    run("series", place / "source" / "bad_bytes", code=3)
    shown = {"SeriesDescription", "SeriesInstanceUID"}
    assert found_in("".join(run.said).encode()) == shown
    (place / "work" / "kept").touch()
    assert leaks(place) == {}


def test_nameless_copies(run, place):
    run("deidentify", place / "source", "--out", "nameless", "--key", place / "key", code=7)
    assert set().union(*leaks(place, objects_apart=False).values()) == KEPT
    shutil.rmtree(place / "work" / "nameless")
    archive = shutil.make_archive(str(place / "packed"), "zip", place / "source", "ct_april")
    run("deidentify", archive, "--out", "nameless", "--key", place / "key", "--keep-words", "--shift-dates")
    times = {"StudyTime", "AcquisitionTime"}  # of day, which stay where dates move
    assert set().union(*leaks(place, objects_apart=False).values()) == KEPT | times
    shutil.rmtree(place / "work" / "nameless")
    values = json.loads(manifest_of(place).read_text())
    values["cases"][0] |= {"patient": WORDS["PatientID"], "attributes": {"site": f"seen by {WORDS['PatientID']}"}}
    (place / "named.json").write_text(json.dumps(values | {"description": WORDS["StudyDescription"]}))
    run("deidentify", place / "named.json", "--out", "nameless", "--key", place / "key", "--keep-columns", "site")
    assert leaks(place, objects_apart=False) == {}
    run("deidentify", place / "named.json", "--out", "faceless", "--key", place / "key", "--deface", code=7)
    assert leaks(place, objects_apart=False) == {}
    assert found_in("".join(run.said).encode()) == set()


REFUSED = {"bad_place": 3, "bad_bytes": 3, "bad_type.nrrd": 3, "bad_type.mha": 3, ".": 3, "ct_april": 1}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_and_crashes(run, place, monkeypatch, name):
    source = place / "source"

    def fail(_, volume):
        header = pydicom.dcmread(source / "ct_april" / "003.dcm")
        return DSfloat(str(header.PatientName)) + volume

    monkeypatch.setattr(Predictor, "predict", fail if name == "ct_april" else see)
    run("infer", "--volume", source / name, "--bundle", source / "model", "--out", "found", code=REFUSED[name])
    assert found_in("".join(run.said).encode()) == set()
