from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from medseg.core.case import Case, Dataset
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.data.check import check_dataset
from medseg.data.importers import import_dataset
from medseg.io.volumes import write_labels, write_volume

REAL_DATA = Path(os.environ.get("MEDSEG_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
LABELS = {"left_kidney": 1, "right_kidney": 2}


def _oblique(shape=(14, 12, 9), spacing_mm=(1.5, 1.5, 3.0), *, mirrored=False) -> Geometry:
    turn = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
    if mirrored:
        turn = turn @ np.diag([-1.0, 1, 1])
    return Geometry.from_parts(shape, spacing_mm, turn, (40.0, -70.0, 300.0))


class Cohort:
    """Four sound cases on disk, to be spoilt one file at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(7)
        self.cases = [self.make(f"case_{n}") for n in range(4)]

    def make(self, name: str, *, geometry: Geometry | None = None, patient: str = "", **fields) -> Case:
        geometry = geometry or _oblique()
        image, label = self.folder / f"{name}.nii.gz", self.folder / f"{name}_label.nii.gz"
        write_volume(self.image(geometry), image)
        write_labels(self.labels(geometry), label)
        return Case(id=name, images=(image,), label=label, patient=patient, **fields)

    def image(self, geometry: Geometry) -> Volume:
        noise = self.rng.normal(40, 20, size=(1, *geometry.shape))
        noise[:, :2] = -1000
        return Volume(noise.astype(np.int16), geometry)

    def labels(self, geometry: Geometry) -> LabelMap:
        array = np.zeros(geometry.shape, dtype=np.uint8)
        array[2:4, 3:6, 2:5] = 1  # the axes run R, A, S: low indices are the patient's left
        array[9:12, 3:6, 2:5] = 2
        return LabelMap(array, geometry)

    def rewrite_labels(self, number: int, change) -> None:
        label_map = self.labels(_oblique())
        change(label_map.array)
        assert self.cases[number].label is not None
        write_labels(label_map, self.cases[number].label)

    def report(self, **fields):
        return check_dataset(Dataset(name="d", cases=tuple(self.cases), **({"labels": LABELS} | fields)))


@pytest.fixture
def cohort(tmp_path):
    return Cohort(tmp_path)


def _codes(report):
    return [(finding.severity, finding.code, finding.case) for finding in report.findings]


def test_sound_cases_have_no_findings(cohort):
    report = cohort.report()
    assert report.findings == ()
    assert (report.num_cases, report.num_ok, report.num_errors) == (4, 4, 0)


def test_progress_sees_every_case(cohort):
    told = []

    def progress(items, description, total):
        told.append((description, total))
        yield from items

    check_dataset(Dataset(name="d", labels=LABELS, cases=tuple(cohort.cases)), progress=progress)
    assert told == [("checking cases", 4)]


def test_a_broken_case_does_not_hide_the_others(cohort):
    cohort.cases[1].images[0].unlink()
    hurt = cohort.cases[2].images[0]
    hurt.write_bytes(hurt.read_bytes()[:200])
    cohort.cases[3].label.write_text("not an image", encoding="utf-8")
    report = cohort.report()
    assert [(severity, case) for severity, _, case in _codes(report)] == [
        ("error", "case_1"),
        ("error", "case_2"),
        ("error", "case_3"),
    ]
    assert report.findings[0].code == "E-NOT-FOUND"
    assert report.findings[1].file == str(cohort.cases[2].images[0])
    assert (report.num_ok, report.num_errors) == (1, 3)


def test_a_disk_that_fails_is_a_finding(cohort, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("medseg.io.examine.read_unchecked", fail)
    assert {code for _, code, _ in _codes(cohort.report())} == {"E-READ"}


def test_flags_of_image_and_mask_are_notes(cohort):
    label = cohort.cases[2].label
    label.write_bytes(gzip.compress(gzip.decompress(label.read_bytes()) + b"left over"))
    report = cohort.report()
    assert _codes(report) == [("note", "W-TRAILING", "case_2")]
    assert (report.findings[0].file, report.findings[0].fixable) == (str(label), "yes")


def test_mask_on_another_grid(cohort):
    moved = cohort.labels(_oblique(spacing_mm=(1.5, 1.5, 3.1)))
    write_labels(moved, cohort.cases[0].label)
    assert _codes(cohort.report()) == [("error", "E-GRID-MISMATCH", "case_0")]


def test_not_finite(cohort):
    image = cohort.image(_oblique())
    values = image.array.astype(np.float32)
    values[0, 3, 3, 3] = np.nan
    path = cohort.folder / "nan.nii"
    header_free = Volume(values, image.geometry)
    cohort.cases[0] = cohort.cases[0].model_copy(update={"images": (path,)})
    import nibabel as nib

    nib.save(nib.Nifti1Image(header_free.array[0], header_free.geometry.affine), path)
    assert _codes(cohort.report()) == [("error", "E-NONFINITE", "case_0")]


def test_unknown_values_are_named_and_counted(cohort):
    def change(array):
        array[5, 5, 5:8] = 9

    cohort.rewrite_labels(2, change)
    finding = cohort.report().findings[0]
    assert (finding.code, finding.case) == ("E-LABEL-UNKNOWN", "case_2")
    assert "9 (3 voxels)" in finding.message
    assert cohort.report(ignore_value=9).findings == ()


def test_x06_empty_mask_and_label_that_never_occurs(cohort):
    cohort.rewrite_labels(0, lambda array: array.fill(0))
    report = cohort.report(labels=LABELS | {"spleen": 3})
    assert _codes(report) == [
        ("warning", "W-LABEL-ABSENT", ""),
        ("warning", "W-EMPTY-MASK", "case_0"),
        ("note", "W-LABEL-PARTIAL", ""),
        ("note", "W-LABEL-PARTIAL", ""),
    ]
    assert "'spleen'" in report.findings[0].message
    assert report.num_ok == 3


def test_voxels_of_a_label_said_not_to_be_annotated(cohort):
    cohort.cases[3] = cohort.cases[3].model_copy(update={"labelled": ("left_kidney",)})
    assert _codes(cohort.report()) == [("warning", "W-LABELLED", "case_3")]


def test_swapped_sides_are_seen_in_world_space(cohort):
    mirrored = cohort.make("mirrored", geometry=_oblique(mirrored=True))
    cohort.cases.append(mirrored)
    report = cohort.report()
    assert _codes(report) == [("warning", "W-LEFT-RIGHT", "mirrored")]
    assert "11 mm" in report.findings[0].message or "10 mm" in report.findings[0].message


def test_the_same_voxels_twice(cohort):
    twin = cohort.make("twin")
    twin.images[0].write_bytes(cohort.cases[1].images[0].read_bytes())
    cohort.cases.append(twin)
    assert _codes(cohort.report()) == [("error", "E-DUPLICATE", "twin")]
    cohort.cases[-1] = twin.model_copy(update={"patient": "case_1"})
    assert _codes(cohort.report()) == [("warning", "W-DUPLICATE", "twin")]


def test_one_id_twice(cohort):
    cohort.cases.append(cohort.make("other").model_copy(update={"id": "case_0"}))
    assert _codes(cohort.report()) == [("error", "E-CASE-DUPLICATE", "case_0")]


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"split": "train"}, {"split": "test"}, "train and in test"),
        ({"fold": 0}, {"fold": 2}, "fold 0 and in fold 2"),
        ({"split": "test", "fold": 2}, {"fold": 2}, "test and in fold 2"),
    ],
)
def test_one_patient_on_two_sides(cohort, first, second, words):
    cohort.cases[0] = cohort.cases[0].model_copy(update={"patient": "p", **first})
    cohort.cases[1] = cohort.cases[1].model_copy(update={"patient": "p", **second})
    cohort.cases[2] = cohort.cases[2].model_copy(update={"patient": "q", **first})
    report = cohort.report()
    assert _codes(report) == [("error", "E-LEAK", "case_1")]
    assert words in report.findings[0].message


def test_folds_of_test_cases_do_not_matter(cohort):
    for number in range(2):
        fields = {"patient": "p", "split": "test", "fold": number}
        cohort.cases[number] = cohort.cases[number].model_copy(update=fields)
    assert cohort.report().findings == ()


def test_ct_numbers_that_are_not_hu(cohort):
    offset = Volume(cohort.image(_oblique()).array + 1024, _oblique())
    write_volume(Volume(np.maximum(offset.array, 0) * 2, offset.geometry), cohort.cases[0].images[0])
    report = cohort.report()
    assert _codes(report) == [("warning", "W-INTENSITY", "case_0")]
    assert "as if 1024 had been added" in report.findings[0].message
    assert {code for _, code, _ in _codes(cohort.report(channels=("MRI",)))} == {"W-MODALITY"}


def test_what_most_cases_share_is_said_once(cohort):
    for case in cohort.cases:
        image = cohort.image(_oblique())
        write_volume(Volume(np.maximum(image.array, 0), image.geometry), case.images[0])
    report = cohort.report()
    assert _codes(report) == [("warning", "W-INTENSITY", "")]
    assert "4 of 4 cases" in report.findings[0].message
    assert report.num_ok == 4


@pytest.mark.parametrize(("edge_mm", "is_unusual"), [(7.0, True), (1.4, True), (5.5, False), (1.6, False)])
def test_voxels_of_an_unusual_size(cohort, edge_mm, is_unusual):
    cohort.cases.append(cohort.make("other", geometry=_oblique(spacing_mm=(1.5, 1.5, edge_mm))))
    report = cohort.report()
    assert _codes(report) == ([("warning", "W-SPACING", "other")] if is_unusual else [])
    assert all(f"1.5x1.5x{edge_mm:g} mm" in finding.message for finding in report.findings)


def test_cases_without_mask_or_class_are_counted(cohort):
    cohort.cases[0] = cohort.cases[0].model_copy(update={"label": None})
    cohort.cases[1] = cohort.cases[1].model_copy(update={"classes": {"kind": "no"}})
    report = cohort.report(heads={"kind": ("no", "yes")})
    assert _codes(report) == [
        ("warning", "W-CLASS-ABSENT", ""),
        ("note", "W-NO-MASK", ""),
        ("note", "W-NO-CLASS", ""),
    ]
    assert report.num_ok == 4
    assert "3 cases have no class" in report.findings[2].message


@pytest.mark.parametrize("channels", [("CT", "PET")])
def test_wrong_number_of_channels(cohort, channels):
    assert {severity for severity, _, _ in _codes(cohort.report(channels=channels))} == {"error"}


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("hippocampus", {}, {"W-LABEL-FLOAT"}),
        ("sarcoma_pet", {}, set()),
        ("openkbp", {}, {"W-INTENSITY", "W-LABEL-PARTIAL"}),
        ("brats2013", {"images": "Flair*,T1c*", "masks": "OTMultiClass*"}, {"W-LABEL-FLOAT"}),
        ("ms_longitudinal", {}, set()),
    ],
)
def test_good_scans_are_called_good(tmp_path, name, options, expected):
    if not (REAL_DATA / name).is_dir():
        pytest.skip(f"no folder {REAL_DATA / name}; name it with MEDSEG_REAL_DATA")
    report = check_dataset(import_dataset(REAL_DATA / name, out=tmp_path / "m.json", **options))
    assert {finding.code for finding in report.findings} == expected
    assert report.num_ok == report.num_cases
