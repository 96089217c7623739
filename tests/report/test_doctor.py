"""The doctor's page: whole by itself, readable by a screen reader, and before and after in the same place."""

from __future__ import annotations

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from medseg.core.case import Case, Dataset
from medseg.core.doctor import DoctorReport, Finding
from medseg.core.findings import Provenance
from medseg.core.geometry import Geometry
from medseg.core.reading import Reading
from medseg.core.volume import LabelMap, Volume
from medseg.data.treatment import diagnose, intended
from medseg.io.volumes import write_labels, write_volume
from medseg.report.before_after import compare
from medseg.report.doctor import render_doctor

SHAPE = (24, 20, 12)
GRID = Geometry.from_parts(SHAPE, (1.5, 1.5, 3.0), np.diag([-1.0, -1, 1]), (40.0, 70.0, 300.0))
LABELS = {"left": 1, "right": 2}


@pytest.fixture
def case(tmp_path) -> Case:
    array = np.full(SHAPE, -1000, np.int16)
    array[3:21, 3:17] = np.random.default_rng(1).integers(0, 80, (18, 14, 12))
    mask = np.zeros(SHAPE, np.uint8)
    mask[15:20, 5:10, 3:9], mask[4:8, 5:10, 3:9] = 1, 2
    write_volume(Volume(array[None], GRID), tmp_path / "image.nii.gz")
    write_labels(LabelMap(mask, GRID), tmp_path / "mask.nii.gz")
    return Case(id="case", images=(tmp_path / "image.nii.gz",), label=tmp_path / "mask.nii.gz")


def dataset(case: Case) -> Dataset:
    return Dataset(name="ward", labels=LABELS, cases=(case,))


def contradict(path) -> None:
    """An sform that mirrors left and right."""
    data = bytearray(gzip.decompress(path.read_bytes()))
    affine = GRID.affine.copy()
    affine[0] *= -1
    struct.pack_into("<12f", data, 280, *affine[:3].ravel())
    path.write_bytes(gzip.compress(data))


def report(case: Case, reading: Reading, **changes) -> DoctorReport:
    patient = diagnose(case, dataset(case), reading)
    values = {
        "dataset": "ward",
        "reading": reading,
        "findings": (),
        "cases": (intended(case, patient, case.images[0].parent),),
        "provenance": Provenance(medseg_version="9.8.7", created="2026-01-02T03:04:05Z"),
    }
    return DoctorReport.model_validate(values | changes)


def page(case: Case, reading: Reading, **changes) -> str:
    patient = diagnose(case, dataset(case), reading)
    return render_doctor(report(case, reading, **changes), [compare("case", patient, dataset(case))])


@pytest.mark.parametrize("prefer", ["sform", "qform"])
def test_a_settled_conflict_is_shown_both_ways(case, inspect, prefer):
    contradict(case.images[0])
    contradict(case.label)
    comparison = compare("case", diagnose(case, dataset(case), Reading(prefer=prefer)), dataset(case))
    before, after = comparison.before[0], comparison.after[0]
    assert before.title == after.title
    assert before.png != after.png
    assert [outline.label for outline in before.prediction] == ["left", "right"]
    assert [one.title.split(", ")[-1] for one in comparison.before] == [
        one.title.split(", ")[-1] for one in comparison.after
    ]
    assert all(one.prediction for one in (*comparison.before, *comparison.after))
    faults, text = inspect(page(case, Reading(prefer=prefer)))
    assert faults == []
    assert "As found" in text
    assert f"Allowed: prefer ({prefer})" in text
    assert "80.000" in text  # the first voxel lies 40 mm from the midline


def test_a_mask_of_another_shape_cannot_be_drawn_over_its_image_before(case, inspect):
    mask = nib.load(case.label)
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj)[:, :, :-1], mask.affine), case.label)
    comparison = compare("case", diagnose(case, dataset(case), Reading()), dataset(case))
    assert "another shape" in comparison.note
    assert all(picture.prediction == () for picture in comparison.before)
    assert all(picture.prediction for picture in comparison.after)
    assert inspect(page(case, Reading()))[0] == []


def test_turned_axes_are_drawn_as_naive_software_does(case):
    mask = nib.load(case.label)
    flip = np.eye(4)
    flip[1, 1], flip[1, 3] = -1, SHAPE[1] - 1
    nib.save(nib.Nifti1Image(np.asarray(mask.dataobj)[:, ::-1], mask.affine @ flip), case.label)
    comparison = compare("case", diagnose(case, dataset(case), Reading()), dataset(case))
    assert "voxel by voxel" in comparison.note
    before, after = comparison.before[0], comparison.after[0]
    assert before.png == after.png
    assert [outline.path for outline in before.prediction] != [outline.path for outline in after.prediction]


def test_names_and_reasons_are_escaped_and_listed(case, inspect):
    reason = Finding(
        case="x", severity="error", code="E-GZ-CRC", file="a/<b>.nii", message="<script>no</script>", remedy="Copy it."
    )
    left_out = {"case": "x", "outcome": "left out", "reasons": (reason,)}
    remaining = reason.model_copy(update={"case": "", "severity": "warning", "code": "W-LEFT-RIGHT"})
    done = render_doctor(report(case, Reading(), cases=(left_out,), remaining=(remaining,)))
    faults, text = inspect(done)
    assert faults == []
    assert "<script>no" not in done
    assert "<script>no</script>" in text
    assert "Left out: mending these would be guessing" in text
    assert "Still to be looked at in the new dataset" in text
