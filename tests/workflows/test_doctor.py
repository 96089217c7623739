"""A dataset with a fault of every kind, checked and repaired from the command line; every repair against its truth."""

from __future__ import annotations

import gzip
import json
import struct
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - its own name for itself
from pydicom.uid import generate_uid

from medseg.apps import cli
from medseg.core.case import Case, Dataset
from medseg.core.doctor import DoctorReport
from medseg.core.errors import UsageError
from medseg.core.geometry import Geometry
from medseg.core.reading import Reading
from medseg.data.check import check_dataset
from medseg.data.manifest import read_manifest, write_manifest
from medseg.io.documents import read_document
from medseg.io.files import sha256_of
from medseg.io.volumes import read_labels, read_volume
from medseg.workflows.doctor import heal
from medseg.workflows.workspace import Workspace

SHAPE = (24, 20, 12)
MARKER = (17, 6, 8)
LABELS = {"left_kidney": 1, "right_kidney": 2}
TURN = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
GRID = Geometry.from_parts(SHAPE, (1.5, 1.5, 3.0), TURN, (40.0, -70.0, 300.0))
MARKER_MM = GRID.to_world(MARKER)


def image(number: int) -> np.ndarray:
    """A body of noise in air, with one bright voxel."""
    array = np.full(SHAPE, -1000, np.int16)
    array[3:21, 3:17] = np.random.default_rng(number).integers(0, 80, (18, 14, 12))
    array[MARKER] = 2000
    return array


def mask() -> np.ndarray:
    """Axes run R, A, S: low indices are the patient's left."""
    array = np.zeros(SHAPE, np.uint8)
    array[4:8, 5:10, 3:9] = 1
    array[15:20, 5:10, 3:9] = 2
    return array


def moved(affine: np.ndarray, offset_mm) -> np.ndarray:
    result = affine.copy()
    result[:3, 3] += offset_mm
    return result


class Ward:
    """Cases on disk, each with one fault."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases: list[Case] = []

    def save(self, name: str, array: np.ndarray, affine: np.ndarray, *, codes=(1, 1), units="mm") -> Path:
        found = nib.Nifti1Image(array, affine)
        found.set_qform(affine, codes[0], strip_shears=True)
        found.set_sform(affine, codes[1])
        found.header.set_xyzt_units(units)
        path = self.folder / name
        path.write_bytes(gzip.compress(found.to_bytes(), 1) if name.endswith(".gz") else found.to_bytes())
        return path

    def add(
        self,
        name: str,
        *,
        array=None,
        affine=GRID.affine,
        label=None,
        label_affine=None,
        codes=(1, 1),
        units="mm",
        **fields,
    ) -> Case:
        label_affine = affine if label_affine is None else label_affine
        array = image(len(self.cases)) if array is None else array
        case = Case(
            id=name,
            images=(self.save(f"{name}.nii.gz", array, affine, codes=codes, units=units),),
            label=self.save(
                f"{name}_label.nii.gz", mask() if label is None else label, label_affine, codes=codes, units=units
            ),
            **fields,
        )
        self.cases.append(case)
        return case

    def write(self) -> Path:
        path = self.folder / "manifest.json"
        write_manifest(Dataset(name="ward", labels=LABELS, cases=tuple(self.cases)), path)
        return path


def sheared(degrees: float) -> np.ndarray:
    """The second axis leans; no qform can say so."""
    lean = np.eye(3)
    lean[0, 1] = np.tan(np.deg2rad(degrees))
    affine = GRID.affine.copy()
    affine[:3, :3] = TURN @ lean @ np.diag(GRID.spacing_mm)
    return affine


def mirrored() -> np.ndarray:
    affine = GRID.affine.copy()
    affine[:3, 0] *= -1
    return affine


def coarse() -> tuple[np.ndarray, Geometry]:
    """The same structures on voxels twice as long in the plane, which need not be a multiple of the image's."""
    grid = GRID.resized((12, 10, 12))
    return mask()[::2, ::2], grid


@pytest.fixture
def ward(tmp_path) -> Ward:
    folder = tmp_path / "ward"
    folder.mkdir()
    return Ward(folder)


def fill(ward: Ward) -> None:
    """Twenty cases; `EXPECTED` says what is wrong with each."""
    ward.add("good", patient="p1")
    ward.add("shear_small", affine=sheared(0.8), codes=(0, 1))
    ward.add("shear_large", affine=sheared(15), codes=(0, 1))
    ward.add("nearly", label_affine=moved(GRID.affine, (0.12, 0, 0)))
    ward.add("turned", label=mask()[:, ::-1], label_affine=GRID.affine @ _flip(1))
    ward.add("coarse", label=coarse()[0], label_affine=coarse()[1].affine)
    ward.add("elsewhere", label_affine=moved(GRID.affine, (50, 0, 0)))
    ward.add("float", label=mask().astype(np.float32) * np.float32(0.9999))
    ward.add("fraction", label=mask().astype(np.float32) * np.float32(0.5))
    metres = GRID.affine / 1000
    metres[3, 3] = 1
    ward.add("metres", affine=metres, units="meter")
    ward.add("lost", codes=(0, 0))
    conflict = ward.add("conflict")
    for path in (conflict.images[0], conflict.label):
        data = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into("<12f", data, 280, *mirrored()[:3].ravel())
        path.write_bytes(gzip.compress(data))
    named = ward.add("named")
    wrong = named.images[0].with_name("named.nii")
    ward.cases[-1] = named.model_copy(update={"images": (named.images[0].rename(wrong),)})
    ward.add("unknown", label=np.where(mask() == 2, 9, mask()).astype(np.uint8))
    broken = image(70).astype(np.float32)
    broken[0, 0, 0] = np.nan
    ward.add("nan", array=broken, label=mask().astype(np.float32) * np.float32(0.25))
    cut = ward.add("cut")
    cut.images[0].write_bytes(cut.images[0].read_bytes()[:900])
    ward.add("mirrored", affine=mirrored())
    ward.add("twin", array=image(0), patient="p2")
    ward.add("outside", label=np.roll(mask(), 10, axis=1) * (np.arange(20) >= 17)[None, :, None].astype(np.uint8))
    ward.add("empty", label=np.zeros(SHAPE, np.uint8))


def _flip(axis: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[axis, axis] = -1
    matrix[axis, 3] = SHAPE[axis] - 1
    return matrix


EXPECTED = {
    ("shear_small", "E-GEOM-SHEAR", "yes"),
    ("shear_large", "E-GEOM-SHEAR", "no"),
    ("nearly", "E-GRID-MISMATCH", "yes"),
    ("turned", "E-GRID-MISMATCH", "yes"),
    ("coarse", "E-GRID-MISMATCH", "yes"),
    ("elsewhere", "E-GRID-MISMATCH", "no"),
    ("float", "W-LABEL-FLOAT", "yes"),
    ("fraction", "E-LABEL-FRACTION", "no"),
    ("fraction", "W-LABEL-FLOAT", "yes"),
    ("metres", "W-UNITS", "yes"),
    ("lost", "E-NO-ORIENTATION", "--assume-orientation"),
    ("conflict", "E-GEOM-CONFLICT", "--prefer"),
    ("named", "W-EXT", "yes"),
    ("unknown", "E-LABEL-UNKNOWN", "no"),
    ("nan", "E-NONFINITE", "no"),
    ("nan", "E-LABEL-FRACTION", "no"),
    ("nan", "W-LABEL-FLOAT", "yes"),
    ("cut", "E-GZ-TRUNC", "no"),
    ("mirrored", "W-LEFT-RIGHT", "no"),
    ("twin", "E-DUPLICATE", "no"),
    ("outside", "W-OUTSIDE", "no"),
    ("empty", "W-EMPTY-MASK", "no"),
}
LEFT_OUT = {"shear_large", "elsewhere", "fraction", "lost", "conflict", "unknown", "nan", "cut"}
REPAIRED = {"shear_small", "nearly", "turned", "coarse", "float", "metres", "named"}


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


def rows(findings) -> set[tuple[str, str, str]]:
    return {(one["case"], one["code"], one["fixable"]) for one in findings if one["case"]}


def test_every_problem_stands_in_the_table_and_in_the_report_file(ward, run, tmp_path):
    fill(ward)
    manifest = ward.write()
    code, out, _ = run("check", "--manifest", manifest, "--json", "--report", tmp_path / "r.json")
    assert code == 3
    assert rows(json.loads(out)["findings"]) == EXPECTED
    assert (tmp_path / "r.json").read_text() == out
    code, out, _ = run("check", "--manifest", manifest, "--report", tmp_path / "r.csv")
    assert code == 3
    words = out.split()
    assert all(name in out for name in ("fixable", "E-GEOM-SHEAR"))
    assert {code for _, code, _ in EXPECTED} <= set(words)
    table = (tmp_path / "r.csv").read_text()
    assert all(f"{case}," in table and finding in table for case, finding, _ in EXPECTED)
    assert not list(ward.folder.glob("*/"))


def test_the_repair_from_the_command_line(ward, run, tmp_path):
    fill(ward)
    manifest, out = ward.write(), tmp_path / "new"
    before = {path.name: sha256_of(path) for path in ward.folder.iterdir()}
    code, text, err = run("check", "--manifest", manifest, "--fix", out, "--dry-run", "--json")
    assert code == 7
    assert not out.exists()
    planned = DoctorReport.model_validate_json(text)
    code, text, err = run("check", "--manifest", manifest, "--fix", out)
    assert code == 7
    assert "8 case(s) left out, 1 error(s) in what remains" in err
    assert "7 repaired, 5 kept, 8 left out" in text
    assert {path.name: sha256_of(path) for path in ward.folder.iterdir()} == before
    report = read_document(out / "changes.json", DoctorReport)
    for found in (planned, report):
        assert {case.case for case in found.with_outcome("left out")} == LEFT_OUT
        assert {case.case for case in found.with_outcome("repaired")} == REPAIRED
    assert all(case.reasons and all(r.remedy for r in case.reasons) for case in report.with_outcome("left out"))
    assert {case.id for case in read_manifest(out / "manifest.json").cases} == (
        {case.id for case in ward.cases} - LEFT_OUT
    )
    for case in report.with_outcome("repaired"):
        for file in case.files:
            assert file.sha256_before == sha256_of(ward.folder / file.source)
            assert file.sha256_after == sha256_of(out / file.file)
    assert {one.code for one in report.remaining} == {
        "W-LEFT-RIGHT", "E-DUPLICATE", "W-OUTSIDE", "W-EMPTY-MASK", "W-LABEL-PARTIAL",
    }  # fmt: skip
    assert not list(out.rglob(".tmp-*"))
    page = (out / "doctor.html").read_text()
    assert page.count("As found") >= 7
    assert str(tmp_path) not in (out / "changes.json").read_text()
    assert str(tmp_path) not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def heal_one(ward: Ward, tmp_path: Path, **options):
    """Repair and return (report of the case, image, mask) or the reasons against it."""
    reading = Reading(**options)
    healed = heal(Workspace(tmp_path / "w"), ward.write(), tmp_path / "new", reading)
    treated = healed.report.cases[0]
    if treated.outcome == "left out":
        return treated, None, None
    case = read_manifest(tmp_path / "new" / "manifest.json").cases[0]
    return treated, read_volume(case.images[0]), None if case.label is None else read_labels(case.label)


def marker_mm(volume) -> np.ndarray:
    return volume.geometry.to_world(np.unravel_index(int(volume.array[0].argmax()), volume.geometry.shape))


def displacement(treated, code: str) -> list[float | None]:
    return [c.max_displacement_mm for file in treated.files for c in file.changes if c.code == code]


def test_axes_are_straightened_about_the_centre(ward, tmp_path):
    """A lean of 0.8 degrees over 19 voxels of 1.5 mm; polar decomposition turns both axes by half of it."""
    ward.add("case", affine=sheared(0.8), codes=(0, 1))
    treated, volume, labels = heal_one(ward, tmp_path)
    given = Geometry(SHAPE, sheared(0.8))
    half = np.deg2rad(0.4)
    # corner offsets from the centre along the two axes that lean towards one another
    u, v = 11.5 * 1.5, 9.5 * given.spacing_mm[1]
    expected = max(
        np.hypot(u * (1 - np.cos(half)) + s * v * np.sin(half), u * s * np.sin(half) + v * (1 - np.cos(half)))
        for s in (1, -1)
    )
    assert displacement(treated, "E-GEOM-SHEAR") == pytest.approx([expected] * 2, abs=0.005)
    assert expected < 0.5 * 1.5
    np.testing.assert_allclose(volume.geometry.direction.T @ volume.geometry.direction, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(volume.geometry.spacing_mm, given.spacing_mm, atol=1e-5)
    centre = (np.array(SHAPE) - 1) / 2
    np.testing.assert_allclose(volume.geometry.to_world(centre), given.to_world(centre), atol=0.01)
    np.testing.assert_array_equal(labels.array, mask())
    assert volume.geometry.agrees_with(labels.geometry, tolerance_mm=1e-4)
    assert np.linalg.norm(marker_mm(volume) - given.to_world(MARKER)) <= expected + 0.01


def test_a_mask_that_is_nearly_there_takes_the_grid_of_its_image(ward, tmp_path):
    ward.add("case", label_affine=moved(GRID.affine, (0.12, 0, 0)))
    treated, volume, labels = heal_one(ward, tmp_path)
    assert displacement(treated, "E-GRID-MISMATCH") == pytest.approx([0.12], abs=1e-4)
    np.testing.assert_array_equal(labels.array, mask())
    assert labels.geometry.deviation_mm(volume.geometry) < 1e-4
    np.testing.assert_allclose(marker_mm(volume), MARKER_MM, atol=0.01)


@pytest.mark.parametrize("offset_mm", [0.16, 1.4, 50.0])
def test_a_mask_of_the_same_shape_elsewhere_is_left_out(ward, tmp_path, offset_mm):
    ward.add("case", label_affine=moved(GRID.affine, (offset_mm, 0, 0)))
    treated, *_ = heal_one(ward, tmp_path)
    assert [reason.code for reason in treated.reasons] == ["E-GRID-MISMATCH"]
    assert "either its header is wrong or it belongs to another image" in treated.reasons[0].message


def test_axes_of_a_mask_are_exchanged_voxel_for_voxel(ward, tmp_path):
    """Stored with permuted and flipped axes, in the same places of the patient."""
    stored = np.ascontiguousarray(mask().transpose(2, 0, 1)[::-1, :, ::-1])
    matrix = np.zeros((4, 4))
    matrix[2, 0], matrix[0, 1], matrix[1, 2], matrix[3, 3] = -1, 1, -1, 1
    matrix[2, 3], matrix[1, 3] = SHAPE[2] - 1, SHAPE[1] - 1
    ward.add("case", label=stored, label_affine=GRID.affine @ matrix)
    treated, volume, labels = heal_one(ward, tmp_path)
    assert displacement(treated, "E-GRID-MISMATCH") == pytest.approx([0.0], abs=1e-3)
    np.testing.assert_array_equal(labels.array, mask())
    assert labels.geometry.deviation_mm(volume.geometry) < 1e-4


def test_a_mask_of_another_shape_is_resampled_as_an_independent_program_does(ward, tmp_path):
    array, grid = coarse()
    case = ward.add("case", label=array, label_affine=grid.affine)
    treated, volume, labels = heal_one(ward, tmp_path)
    reference = sitk.Resample(
        sitk.ReadImage(str(case.label)), sitk.ReadImage(str(case.images[0])), sitk.Transform(), sitk.sitkNearestNeighbor
    )
    expected = sitk.GetArrayFromImage(reference).T
    np.testing.assert_array_equal(labels.array, expected)
    assert displacement(treated, "E-GRID-MISMATCH") == pytest.approx([np.sqrt(3**2 + 3**2 + 3**2) / 2], abs=1e-3)
    assert labels.geometry.deviation_mm(volume.geometry) < 1e-4
    change = treated.files[0].changes[0]
    assert f"1: {np.count_nonzero(array == 1) * 27 / 1000:.4g} to" in change.now


def test_a_mask_with_a_slice_less_loses_nothing(ward, tmp_path):
    ward.add("case", label=mask()[:, :, :-1])
    treated, _, labels = heal_one(ward, tmp_path)
    np.testing.assert_array_equal(labels.array, mask())
    assert displacement(treated, "E-GRID-MISMATCH") == pytest.approx([0.0], abs=1e-3)


def test_a_mask_that_reaches_outside_the_image_is_left_out(ward, tmp_path):
    ward.add("case", label=mask()[:, :, :-1], label_affine=moved(GRID.affine, (25, 0, 0)))
    treated, *_ = heal_one(ward, tmp_path)
    assert "labelled voxels lie outside the image" in treated.reasons[0].message


def test_a_label_that_would_vanish_is_left_out(ward, tmp_path):
    fine = np.zeros((96, 80, 12), np.uint8)
    fine[16:24, 20:40, 3:9] = 1
    fine[60, 20, 3] = 2
    ward.add("case", label=fine, label_affine=GRID.resized((96, 80, 12)).affine)
    treated, *_ = heal_one(ward, tmp_path)
    assert "the labels [2] would have no voxel left" in treated.reasons[0].message


def test_floats_become_whole_numbers(ward, tmp_path):
    ward.add("case", label=mask().astype(np.float64) * 0.99996)
    treated, _, labels = heal_one(ward, tmp_path)
    assert displacement(treated, "W-LABEL-FLOAT") == [0.0]
    np.testing.assert_array_equal(labels.array, mask())
    stored = nib.load(tmp_path / "new" / treated.files[0].file)
    assert stored.get_data_dtype() == np.uint8


def test_units_become_millimetres(ward, tmp_path):
    metres = GRID.affine / 1000
    metres[3, 3] = 1
    ward.add("case", affine=metres, units="meter")
    treated, volume, _ = heal_one(ward, tmp_path)
    assert displacement(treated, "W-UNITS") == [0.0, 0.0]
    np.testing.assert_allclose(marker_mm(volume), MARKER_MM, atol=0.01)
    assert nib.load(tmp_path / "new" / treated.files[0].file).header.get_xyzt_units()[0] == "mm"


def test_orientation_only_as_allowed(ward, tmp_path):
    ward.add("case", codes=(0, 0))
    treated, *_ = heal_one(ward, tmp_path)
    assert [reason.fixable for reason in treated.reasons] == ["--assume-orientation"] * 2
    treated, volume, labels = heal_one(ward, tmp_path, assume_orientation=True)
    assert displacement(treated, "W-ORIENTATION-ASSUMED") == [None, None]
    np.testing.assert_allclose(marker_mm(volume), np.array(MARKER) * (1.5, 1.5, 3.0), atol=0.01)
    np.testing.assert_array_equal(labels.array, mask())


def test_a_mask_without_orientation_lies_like_its_image_when_allowed(ward, tmp_path):
    case = ward.add("case")
    ward.save("case_label.nii.gz", mask(), GRID.affine, codes=(0, 0))
    treated, volume, labels = heal_one(ward, tmp_path, assume_orientation=True)
    assert [file.kind for file in treated.files] == ["label"]
    assert labels.geometry.deviation_mm(volume.geometry) < 1e-4
    np.testing.assert_array_equal(labels.array, mask())
    assert case.label is not None


@pytest.mark.parametrize("prefer", ["sform", "qform"])
def test_a_conflict_is_settled_as_asked_for(ward, tmp_path, prefer):
    case = ward.add("case")
    for path in (case.images[0], case.label):
        data = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into("<12f", data, 280, *mirrored()[:3].ravel())
        path.write_bytes(gzip.compress(data))
    treated, *_ = heal_one(ward, tmp_path)
    assert [reason.fixable for reason in treated.reasons] == ["--prefer"] * 2
    treated, volume, _ = heal_one(ward, tmp_path, prefer=prefer)
    grid = Geometry(SHAPE, mirrored()) if prefer == "sform" else GRID
    np.testing.assert_allclose(marker_mm(volume), grid.to_world(MARKER), atol=0.01)
    # the mirrored axis is 23 voxels of 1.5 mm long, and its far end moves by twice that
    assert displacement(treated, f"W-GEOM-{prefer.upper()}") == pytest.approx([2 * 23 * 1.5] * 2, abs=0.01)


def test_values_keep_their_number_type(ward, tmp_path):
    array = image(3).astype(np.float64) + 0.1
    ward.add("case", array=array, affine=sheared(0.8), codes=(0, 1))
    treated, *_ = heal_one(ward, tmp_path)
    stored = nib.load(tmp_path / "new" / next(file.file for file in treated.files if file.kind == "image"))
    np.testing.assert_array_equal(stored.get_fdata(), array)


def test_what_was_done_is_not_done_again(ward, tmp_path):
    ward.add("case", affine=sheared(0.8), codes=(0, 1))
    ward.add("good")
    _, _, first = heal_one(ward, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "new").glob("*/*.nii.gz")}
    assert len(written) == 4
    heal_one(ward, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    damaged = tmp_path / "new" / "labels" / "case.nii.gz"
    damaged.write_bytes(b"")
    _, _, again = heal_one(ward, tmp_path)
    np.testing.assert_array_equal(again.array, first.array)
    ward.save("case_label.nii.gz", np.where(mask() == 2, 1, mask()), sheared(0.8), codes=(0, 1))
    _, _, changed = heal_one(ward, tmp_path)
    assert set(np.unique(changed.array)) == {0, 1}


def test_an_interrupted_repair_leaves_no_manifest_and_goes_on(ward, tmp_path, monkeypatch):
    ward.add("case", affine=sheared(0.8), codes=(0, 1))
    ward.add("second", affine=sheared(0.8), codes=(0, 1))
    from medseg.data import treatment

    original = treatment.write_labels

    def interrupted(label_map, path, *, names):
        if "second" in path.name:
            raise KeyboardInterrupt
        original(label_map, path, names=names)

    monkeypatch.setattr(treatment, "write_labels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        heal_one(ward, tmp_path)
    assert not (tmp_path / "new" / "manifest.json").exists()
    assert not list((tmp_path / "new").rglob(".tmp-*"))
    monkeypatch.undo()
    heal_one(ward, tmp_path)
    assert len(read_manifest(tmp_path / "new" / "manifest.json").cases) == 2


def test_sound_files_are_linked_when_asked_for(ward, tmp_path):
    case = ward.add("good")
    heal(Workspace(tmp_path / "w"), ward.write(), tmp_path / "new", link=True)
    made = tmp_path / "new" / "images" / "good.nii.gz"
    assert made.is_symlink()
    assert made.resolve() == case.images[0].resolve()


def test_a_folder_with_something_else_in_it_is_refused(ward, tmp_path):
    ward.add("good")
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("x")
    for folder, code in ((other, "E-NOT-EMPTY"), (ward.folder, "E-WOULD-OVERWRITE"), (tmp_path, "E-WOULD-OVERWRITE")):
        with pytest.raises(UsageError) as caught:
            heal(Workspace(tmp_path / "w"), ward.write(), folder)
        assert caught.value.code == code
    assert sorted(path.name for path in other.iterdir()) == ["mine.txt"]


def test_a_pair_of_files_becomes_one(ward, tmp_path):
    case = ward.add("case")
    pair = nib.Nifti1Pair(image(0), GRID.affine)
    pair.set_qform(GRID.affine, 1)
    pair.set_sform(GRID.affine, 1)
    nib.save(pair, ward.folder / "pair.img")
    ward.cases[0] = case.model_copy(update={"images": (ward.folder / "pair.hdr",)})
    treated, volume, _ = heal_one(ward, tmp_path)
    assert treated.files[0].file == "images/case.nii.gz"
    np.testing.assert_array_equal(volume.array[0], image(0))


def test_a_cohort_that_is_mirrored_throughout_is_told_as_one(ward):
    for number in range(4):
        ward.add(f"case_{number}", affine=mirrored())
    dataset = read_manifest(ward.write())
    found = [one for one in check_dataset(dataset).findings if one.code == "W-LEFT-RIGHT"]
    assert [one.case for one in found] == [""]
    assert "all 4 cases" in found[0].message


def test_allowing_settles_a_check_too(ward, run):
    ward.add("case", codes=(0, 0))
    manifest = ward.write()
    assert run("check", "--manifest", manifest)[0] == 3
    assert run("check", "--manifest", manifest, "--assume-orientation")[0] == 0
    code, _, err = run("check", "--manifest", manifest, "--prefer", "both")
    assert code == 2
    assert "prefer" in err


def test_fix_and_report_do_not_go_together(ward, run, tmp_path):
    ward.add("case")
    code, _, err = run("check", "--manifest", ward.write(), "--fix", tmp_path / "n", "--report", tmp_path / "r.csv")
    assert code == 2
    assert "changes.json" in err


def series(folder: Path, heights: list[float]) -> Path:
    """CT slices at the given heights; a voxel of 2000 HU in the one at 15 mm."""
    folder.mkdir()
    uid = generate_uid()
    for number, height in enumerate(heights):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.SeriesInstanceUID, data.Modality, data.PatientID = uid, "CT", "x"
        data.ImagePositionPatient, data.ImageOrientationPatient = [-20, -30, height], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness, data.InstanceNumber = [2, 2], 5, number + 1
        data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 16, 16, 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        pixels = np.random.default_rng(number).integers(-1000, 80, (16, 16)).astype(np.int16)
        pixels[6, 4] = 2000 if height == 15 else 0
        data.PixelData = pixels.tobytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)
    return folder


def test_a_gap_in_a_dicom_series_is_filled_and_a_whole_one_is_copied(ward, tmp_path):
    gap = series(ward.folder / "gap", [0, 5, 10, 15, 20, 30, 35, 40])
    whole = series(ward.folder / "whole", [0, 5, 10, 15, 20, 25])
    ward.cases += [Case(id="gap", images=(gap,)), Case(id="whole", images=(whole,))]
    healed = heal(Workspace(tmp_path / "w"), ward.write(), tmp_path / "new")
    assert [case.outcome for case in healed.report.cases] == ["repaired", "kept"]
    change = healed.report.cases[0].files[0].changes[0]
    assert change.code == "E-SERIES-GAP"
    repaired, kept = read_manifest(tmp_path / "new" / "manifest.json").cases
    volume = read_volume(repaired.images[0])
    assert volume.geometry.shape == (16, 16, 9)
    # column 4 and row 6 of 2 mm from (-20, -30) in LPS
    np.testing.assert_allclose(marker_mm(volume), (12, 18, 15), atol=0.01)
    assert sorted(path.name for path in kept.images[0].iterdir()) == [f"{n:03d}.dcm" for n in range(6)]
    assert [one for one in healed.report.remaining if one.severity == "error"] == []
    assert "cannot be drawn as one volume" in (tmp_path / "new" / "doctor.html").read_text()


def real(real_data: Path, name: str) -> Path:
    path = real_data / name
    if not path.exists():
        pytest.skip(f"no {name} in the folder of real scans")
    return path


@pytest.mark.real_data
def test_a_real_mask_turned_against_its_series_is_exchanged_exactly(real_data, tmp_path):
    """TotalSegmentator's example: the mask's rows run the other way than the series', aligned in the patient."""
    folder = real(real_data, "totalsegmentator")
    label = folder / "example_seg_dicom.nii.gz"
    values = np.unique(np.asarray(nib.load(label).dataobj).astype(int))
    case = Case(id="dicom", images=(folder / "example_ct_dicom",), label=label)
    labels = {f"organ_{value}": int(value) for value in values if value}
    write_manifest(Dataset(name="d", labels=labels, cases=(case,)), tmp_path / "m.json")
    healed = heal(Workspace(tmp_path / "w"), tmp_path / "m.json", tmp_path / "new", link=True)
    (file,) = healed.report.cases[0].files
    codes = [change.code for change in file.changes]
    assert "E-GRID-MISMATCH" in codes
    made = read_manifest(tmp_path / "new" / "manifest.json").cases[0]
    fitted, image = read_labels(made.label), read_volume(made.images[0])
    assert fitted.geometry.deviation_mm(image.geometry) < 0.01
    original = read_labels(label)
    indices = np.argwhere(original.array)[::97]
    there = np.rint(fitted.geometry.to_index(original.geometry.to_world(indices))).astype(int)
    np.testing.assert_array_equal(fitted.array[tuple(there.T)], original.array[tuple(indices.T)])
    assert np.count_nonzero(fitted.array) == np.count_nonzero(original.array)


@pytest.mark.real_data
def test_real_float_masks_become_whole_numbers(real_data, tmp_path):
    """Some masks of the Decathlon's hippocampus are float32; a brain mask of BraTS holds 0.99999997."""
    masks = sorted(real(real_data, "hippocampus/labelsTr").glob("*.nii.gz"))
    floats = [path for path in masks if nib.load(path).get_data_dtype().kind == "f"][:2]
    brain = next(real(real_data, "brats2013").glob("*/brainmask.nii.gz"))
    cases = [
        Case(id=path.name.split(".")[0], images=(path.parents[1] / "imagesTr" / path.name,), label=path)
        for path in floats
    ]
    cases.append(Case(id="brain", images=(next(brain.parent.glob("*Flair*Std.nii.gz")),), label=brain))
    labels = {"anterior": 1, "posterior": 2}
    manifest = tmp_path / "m.json"
    write_manifest(Dataset(name="d", channels=("MRI",), labels=labels, cases=tuple(cases)), manifest)
    healed = heal(Workspace(tmp_path / "w"), manifest, tmp_path / "new", link=True)
    assert len(floats) == 2
    assert [case.outcome for case in healed.report.cases] == ["repaired"] * 3
    for case in read_manifest(tmp_path / "new" / "manifest.json").cases:
        assert nib.load(case.label).get_data_dtype() == np.uint8
        original = next(one.label for one in cases if one.id == case.id)
        np.testing.assert_array_equal(read_labels(case.label).array, np.rint(nib.load(original).get_fdata()))
    assert "W-LABEL-FLOAT" not in {one.code for one in healed.report.remaining}


def test_preprocess_takes_what_is_allowed(ward, run, tmp_path):
    for number in range(3):
        ward.add(f"case_{number}", codes=(0, 0))
    place = ("preprocess", "--manifest", ward.write(), "--workspace", tmp_path / "w", "--dry-run")
    code, _, err = run(*place)
    assert code == 7
    assert "orientation" in err
    code, out, _ = run(*place, "--assume-orientation")
    assert code == 0
    assert "spacing" in out


def test_a_file_that_claims_too_much_is_one_finding_of_a_contained_check(ward, run):
    ward.add("good")
    large = ward.add("large")
    data = bytearray(gzip.decompress(large.images[0].read_bytes()))
    struct.pack_into("<3h", data, 42, 30000, 30000, 30000)
    large.images[0].write_bytes(gzip.compress(data))
    code, out, _ = run("check", "--manifest", ward.write(), "--json")
    assert code == 3
    assert ("large", "E-SIZE-MISMATCH", "no") in rows(json.loads(out)["findings"])
