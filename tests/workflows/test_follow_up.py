"""`medseg follow-up` from files to files: balls in a simple body, three examinations with known motions."""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from medseg.apps import cli
from medseg.core.case import Case, Dataset
from medseg.core.errors import InputError, UsageError
from medseg.core.followup import FollowUp
from medseg.core.geometry import Geometry
from medseg.core.measurements import CaseMeasurements
from medseg.core.volume import LabelMap, Volume
from medseg.data.manifest import write_manifest
from medseg.io.dicom_identity import Identity
from medseg.io.documents import read_document
from medseg.io.volumes import read_labels, write_labels, write_volume
from medseg.workflows import follow_up_studies
from medseg.workflows.follow_up import follow_up, read_criteria
from medseg.workflows.follow_up_open import FollowUpSettings
from medseg.workflows.follow_up_studies import StudyRequest, collect_patients

ROUND = np.diag([-1.0, -1.0, 1.0])
GRIDS = (
    Geometry.from_parts((54, 48, 24), (3.0, 3.0, 5.0), None, (-80, -70, -55)),
    Geometry.from_parts((60, 52, 40), (2.8, 2.8, 3.2), ROUND, (82, 72, -62)),
    Geometry.from_parts((54, 48, 24), (3.0, 3.0, 5.0), None, (-78, -71, -57)),
)
SHIFTS = (np.zeros(3), np.array([4.0, -3.0, 2.0]), np.array([-3.0, 2.0, 0.0]))
# the second lesion vanishes and returns, the third is new
COURSES = (
    (((-30, 5, 0), 14), ((30, -10, 5), 12)),
    (((-30, 5, 0), 8),),
    (((-30, 5, 0), 8), ((30, -10, 5), 12), ((0, 35, -10), 11)),
)


def draw(number, course):
    """Image and mask of one examination."""
    geometry = GRIDS[number]
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1).reshape(-1, 3)
    points = geometry.to_world(index) - SHIFTS[number]
    values = np.full(len(points), -1000.0)
    organs = [((0, 0, 0), (68, 56, 52), 40), ((15, 20, 10), (18, 12, 25), -750), ((-20, -25, -12), (14, 10, 16), 300)]
    for centre, radii, value in organs:
        values[np.linalg.norm((points - centre) / np.array(radii), axis=1) < 1] = value
    mask = np.zeros(len(points), np.uint8)
    for centre, radius in course:
        mask[np.linalg.norm(points - centre, axis=1) <= radius] = 1
    values[mask > 0] = 110
    values += np.random.default_rng(number).normal(0, 12, len(values))
    return (
        Volume(values.reshape(geometry.shape)[None].astype(np.int16), geometry),
        LabelMap(mask.reshape(geometry.shape), geometry),
    )


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    """scan_0 to scan_2 and masks/scan_0 to scan_2."""
    folder = tmp_path_factory.mktemp("studies")
    for number, course in enumerate(COURSES):
        image, mask = draw(number, course)
        write_volume(image, folder / f"scan_{number}.nii.gz")
        write_labels(mask, folder / "masks" / f"scan_{number}.nii.gz")
    return folder


def images(studies, *numbers):
    return [studies / f"scan_{number}.nii.gz" for number in numbers or (0, 1, 2)]


def request_for(studies, **options):
    return StudyRequest(**{"predictions": studies / "masks", "labels": {"tumour": 1}, **options})


@pytest.fixture(scope="module")
def followed(studies, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    patients = collect_patients(images(studies), request_for(studies, dates=("2026-01-01", "2026-02-01", "20260401")))
    return follow_up(patients, out, FollowUpSettings(criteria=("recist11", "volumetric_recist")))


def test_the_course_is_told(followed):
    (report,) = followed.reports
    assert [{one.id: one.state for one in point.lesions} for point in report.time_points] == [
        {"tumour-1": "baseline", "tumour-2": "baseline"},
        {"tumour-1": "shrunk", "tumour-2": "vanished"},
        {"tumour-1": "stable", "tumour-2": "reappeared", "tumour-3": "new"},
    ]
    assert [point.days for point in report.time_points] == [0, 31, 90]
    assert [[one.category for one in point.responses] for point in report.time_points] == [[], ["PR"] * 2, ["PD"] * 2]
    assert report.time_points[1].date == date(2026, 2, 1)
    quality = report.time_points[1].registration
    assert quality.stage in {"rigid", "affine"}
    given_up = [flag for flag in report.time_points[1].flags if flag.startswith("W-REGISTRATION")]
    assert len(given_up) == len(quality.refused)
    assert np.array(quality.matrix)[:3, 3] == pytest.approx(SHIFTS[1], abs=1.5)
    assert quality.after.correlation > quality.before.correlation
    assert any(flag.startswith("W-PATIENT-UNKNOWN") for flag in report.flags)


def test_ids_are_the_same_in_every_file(followed, studies):
    (report,) = followed.reports
    folder = followed.out / "scan_0"
    assert read_document(folder / "followup.json", FollowUp) == report
    uids = {}
    for number, point in enumerate(report.time_points):
        mask = read_labels(folder / f"{point.case}.lesions.nii.gz")
        truth = read_labels(studies / "masks" / f"scan_{number}.nii.gz")
        assert mask.geometry.agrees_with(truth.geometry)
        assert ((mask.array > 0) == (truth.array > 0)).all()
        measured = read_document(folder / f"{point.case}.measurements.json", CaseMeasurements)
        assert measured.lesions == ("tumour",)
        for one in measured.measurements:
            lesion = next(lesion for lesion in point.lesions if lesion.id == one.id)
            assert one == lesion.measurement
            assert one.label == "tumour"
            assert uids.setdefault(one.id, one.tracking_uid) == lesion.tracking_uid
            size_ml = np.count_nonzero(mask.array == lesion.number) * mask.geometry.voxel_volume_mm3 / 1000
            assert one.volume_ml == pytest.approx(size_ml)
    assert len(set(uids.values())) == 3
    assert all(uid.startswith("2.25.") for uid in uids.values())


def test_the_page_and_the_table_show_it(followed):
    folder = followed.out / "scan_0"
    page = (folder / "followup.html").read_text(encoding="utf-8")
    for text in ("progressive disease", "tumour-3", "2026-02-01", "Research use only", "E-REGISTRATION"):
        assert (text in page) == (text != "E-REGISTRATION")
    rows = (folder / "followup.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 2 + 2 + 3
    assert rows[0].startswith("patient,case,date,days,lesion,number")
    assert all(len(row.split(",")) == len(rows[0].split(",")) for row in rows)


def test_a_second_run_finds_the_same(followed, studies, tmp_path):
    patients = collect_patients(images(studies, 0, 1), request_for(studies))
    again = follow_up(patients, tmp_path, FollowUpSettings(pictures=False)).reports[0]
    before = followed.reports[0].time_points[1]
    assert again.time_points[1].registration == before.registration
    assert [one.tracking_uid for one in again.time_points[1].lesions] == [one.tracking_uid for one in before.lesions]
    assert again.time_points[1].days is None
    assert again.time_points[1].lesions[0].doubling is None
    assert any(flag.startswith("W-NO-DATES") for flag in again.flags)


def command(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["medseg", "follow-up", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0), *capsys.readouterr()


def test_the_command(monkeypatch, capsys, studies, tmp_path):
    words = [*images(studies, 0, 2), "-p", studies / "masks", "--labels", "tumour=1", "--out", tmp_path / "out"]
    code, out, _ = command(monkeypatch, capsys, *words, "--dry-run", "--json")
    assert code == 0
    assert [study["case"] for study in json.loads(out)["studies"]] == ["scan_0", "scan_2"]
    assert not (tmp_path / "out").exists()
    code, out, err = command(monkeypatch, capsys, *words, "--no-pictures", "--criterion", "rano_hgg")
    assert code == 0
    assert "rano_hgg PD: 1 new lesion (tumour-3)" in " ".join(out.split())
    assert "W-NO-DATES" in err
    code, out, _ = command(monkeypatch, capsys, *words, "--no-pictures", "--no-register", "--json")
    (report,) = json.loads(out)["patients"]
    assert report["time_points"][1]["registration"]["stage"] == "none"
    assert any(flag.startswith("W-UNREGISTERED") for flag in report["time_points"][1]["flags"])


def test_a_manifest_follows_every_patient(monkeypatch, capsys, studies, tmp_path):
    cases = [
        Case(id="b", patient="p1", images=(images(studies)[1],), label=studies / "masks" / "scan_1.nii.gz"),
        Case(id="a", patient="p1", images=(images(studies)[0],), label=studies / "masks" / "scan_0.nii.gz"),
        Case(id="c", patient="p2", images=(images(studies)[0],)),
        Case(id="d", patient="p2", images=(images(studies)[2],)),
        Case(id="e", patient="p3", images=(images(studies)[2],)),
    ]
    dated = [
        one.model_copy(update={"attributes": {"date": day}})
        for one, day in zip(cases, ("2026-03-01", "2026-01-01", "2026-01-01", "2026-01-02", ""), strict=True)
    ]
    path = tmp_path / "manifest.json"
    write_manifest(Dataset(name="x", labels={"tumour": 1}, cases=tuple(dated)), path)
    with pytest.raises(InputError) as caught:
        collect_patients([], StudyRequest(manifest=path))
    assert (caught.value.code, caught.value.case) == ("E-NO-PREDICTION", "c")
    (patient,) = collect_patients([], StudyRequest(manifest=path, patient="p1"))
    assert [study.case for study in patient.studies] == ["a", "b"]
    code, out, _ = command(
        monkeypatch, capsys, "-m", path, "--patient", "p1", "--no-pictures", "-w", tmp_path, "--json"
    )
    assert code == 0
    assert json.loads(out)["patients"][0]["name"] == "p1"
    assert (tmp_path / "followup" / "p1" / "b.lesions.nii.gz").is_file()
    with pytest.raises(InputError, match="fewer than two") as caught:
        collect_patients([], StudyRequest(manifest=path, patient="p3"))
    assert caught.value.code == "E-NOTHING-TO-FOLLOW"


def test_time_points_sort_as_numbers_and_unknown_order_is_said(studies, tmp_path):
    def patient(*steps):
        cases = [
            Case(
                id=f"v{number}",
                patient="p",
                images=(images(studies)[0],),
                label=studies / "masks" / "scan_0.nii.gz",
                attributes={"timepoint": step} if step else {},
            )
            for number, step in enumerate(steps)
        ]
        dataset = Dataset(name="x", labels={"tumour": 1}, cases=tuple(cases))
        return follow_up_studies.patients_of_manifest(dataset, predictions=None)[0]

    assert [study.case for study in patient("10", "9", "1").studies] == ["v2", "v1", "v0"]
    unknown = patient("2", "1", "")
    assert [study.case for study in unknown.studies] == ["v0", "v1", "v2"]
    assert [flag.split(":")[0] for flag in unknown.flags] == ["W-ORDER", "W-NO-DATES"]


def test_two_patients_are_refused_unless_told(monkeypatch, studies):
    names = iter(("ANNA-1234", "BERTA-5678") * 2)
    monkeypatch.setattr(follow_up_studies, "read_identity", lambda _: Identity(patient=next(names)))
    with pytest.raises(InputError) as caught:
        collect_patients(images(studies, 0, 1), request_for(studies))
    assert caught.value.code == "E-OTHER-PATIENT"
    assert "ANNA" not in str(caught.value)
    assert "BERTA" not in str(caught.value)
    (patient,) = collect_patients(images(studies, 0, 1), request_for(studies, allow_other_patient=True))
    assert patient.flags[0].startswith("W-OTHER-PATIENT")
    assert "ANNA" not in " ".join(patient.flags)


@pytest.mark.parametrize(
    ("numbers", "options", "code"),
    [
        ((0,), {}, "E-NO-INPUT"),
        ((0, 1), {"dates": ("2026-01-01",)}, "E-OPTION"),
        ((0, 1), {"dates": ("2026-01-01", "soon")}, "E-DATE"),
        ((0, 1), {"dates": ("2026-02-01", "2026-01-01")}, "E-DATE-ORDER"),
        ((0, 1), {"predictions": Path("nowhere")}, "E-NO-PREDICTION"),
    ],
)
def test_what_cannot_be_followed_is_refused(studies, numbers, options, code):
    with pytest.raises((InputError, UsageError)) as caught:
        collect_patients(images(studies, *numbers), request_for(studies, **options))
    assert caught.value.code == code


def test_two_masks_of_one_image_are_refused(studies, tmp_path):
    for name in ("scan_0.nii.gz", "scan_0.nrrd", "scan_1.nii.gz"):
        write_labels(read_labels(studies / "masks" / "scan_0.nii.gz"), tmp_path / name)
    with pytest.raises(UsageError) as caught:
        collect_patients(images(studies, 0, 1), request_for(studies, predictions=tmp_path))
    assert caught.value.code == "E-NAME-CLASH"


def test_images_beside_a_manifest_are_refused(studies):
    with pytest.raises(UsageError) as caught:
        collect_patients(images(studies), StudyRequest(manifest=Path("m.json")))
    assert caught.value.code == "E-OPTION"


def run(studies, tmp_path, numbers, *, labels=None, **settings):
    patients = collect_patients(images(studies, *numbers), request_for(studies, labels=labels or {"tumour": 1}))
    return follow_up(patients, tmp_path, FollowUpSettings(pictures=False, **settings))


def test_unknown_criteria_and_labels_are_refused(studies, tmp_path):
    with pytest.raises(UsageError, match="recist11") as caught:
        read_criteria(["recist1"])
    assert caught.value.code == "E-CRITERION"
    with pytest.raises(UsageError) as caught:
        run(studies, tmp_path, (0, 1), lesions=("tumor",), register_images=False)
    assert caught.value.code == "E-LESION-NAME"
    with pytest.raises(UsageError) as caught:
        run(studies, tmp_path, (0, 1), labels={"liver": 1}, register_images=False)
    assert caught.value.code == "E-NO-LESION-LABEL"
    assert not any(tmp_path.iterdir())


def test_masks_that_name_a_value_differently_are_refused(studies, tmp_path):
    masks = []
    for number, name in enumerate(("tumour", "lesion")):
        masks.append(tmp_path / f"{name}.seg.nrrd")
        write_labels(read_labels(studies / "masks" / f"scan_{number}.nii.gz"), masks[-1], names={name: 1})
    patients = collect_patients(images(studies, 0, 1), StudyRequest(masks=tuple(masks)))
    with pytest.raises(UsageError) as caught:
        follow_up(patients, tmp_path / "out", FollowUpSettings(register_images=False))
    assert caught.value.code == "E-LABEL-CONFLICT"


def test_a_failed_registration_is_refused_or_said(studies, tmp_path):
    geometry = GRIDS[1]
    values = np.random.default_rng(0).normal(-1000, 5, geometry.shape)
    values[2:4, 2:45, 2:6] += 1050
    write_volume(Volume(values[None].astype(np.float32), geometry), tmp_path / "other.nii.gz")
    write_labels(LabelMap(np.zeros(geometry.shape, np.uint8), geometry), tmp_path / "none.nii.gz")
    patients = collect_patients(
        [images(studies)[0], tmp_path / "other.nii.gz"],
        StudyRequest(masks=(studies / "masks" / "scan_0.nii.gz", tmp_path / "none.nii.gz"), labels={"tumour": 1}),
    )
    with pytest.raises(InputError) as caught:
        follow_up(patients, tmp_path / "out", FollowUpSettings())
    assert (caught.value.code, caught.value.case) == ("E-REGISTRATION", "other")
    assert not any((tmp_path / "out").iterdir())
    (report,) = follow_up(patients, tmp_path / "out", FollowUpSettings(allow_unregistered=True)).reports
    assert report.time_points[1].registration.stage == "none"
    assert any(flag.startswith("W-UNREGISTERED: could not") for flag in report.time_points[1].flags)


def test_no_lesion_at_the_baseline_is_worded(studies, tmp_path):
    empty = LabelMap(np.zeros(GRIDS[0].shape, np.uint8), GRIDS[0])
    write_labels(empty, tmp_path / "empty.nii.gz")
    masks = (tmp_path / "empty.nii.gz", studies / "masks" / "scan_2.nii.gz")
    patients = collect_patients(images(studies, 0, 2), StudyRequest(masks=masks, labels={"tumour": 1}))
    (report,) = follow_up(patients, tmp_path / "out", FollowUpSettings()).reports
    assert any(flag.startswith("W-NO-BASELINE-LESION") for flag in report.flags)
    assert {one.state for one in report.time_points[1].lesions} == {"new"}
    assert report.time_points[1].responses[0].category == "PD"
    patients = collect_patients(images(studies, 0, 0), StudyRequest(masks=(masks[0], masks[0]), labels={"tumour": 1}))
    (report,) = follow_up(patients, tmp_path / "none", FollowUpSettings(register_images=False)).reports
    assert report.time_points[1].registration.stage == "same grid"
    assert report.time_points[1].responses[0].decided_by.startswith("no lesion at the baseline")
    assert "No lesion at any examination" in (tmp_path / "none" / report.name / "followup.html").read_text("utf-8")


@pytest.mark.real_data
def test_two_real_dates_of_multiple_sclerosis(real_data, tmp_path):
    folder = real_data / "ms_longitudinal" / "patient03"
    mask = read_labels(folder / "gt_change.nii.gz")
    write_labels(LabelMap(np.zeros_like(mask.array), mask.geometry), tmp_path / "none.nii.gz")
    patients = collect_patients(
        [folder / "study1_FLAIR.nii.gz", folder / "study2_FLAIR.nii.gz"],
        StudyRequest(masks=(tmp_path / "none.nii.gz", folder / "gt_change.nii.gz"), labels={"lesion": 1}),
    )
    (report,) = follow_up(patients, tmp_path / "out", FollowUpSettings()).reports
    later = report.time_points[1]
    # both dates lie on one grid already: nothing may move
    assert later.registration.rotation_degrees < 1
    assert np.linalg.norm(np.array(later.registration.matrix)[:3, 3]) < 3
    assert later.registration.after.mutual_information > 0.95 * later.registration.before.mutual_information
    assert {one.state for one in later.lesions} == {"new"}
    assert (tmp_path / "out" / report.name / "followup.html").stat().st_size > 100_000
