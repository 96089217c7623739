from __future__ import annotations

from datetime import date

import pytest

from medseg.io.dicom_identity import UNKNOWN, read_identity


def test_a_series_says_whose_it_is_and_when(slices):
    def change(_, data):
        data.PatientID, data.IssuerOfPatientID = " 0815 ", "north"
        data.StudyInstanceUID, data.StudyDate = "1.2.3", "20260331"

    folder = slices.series(change)
    found = read_identity(folder)
    assert (found.patient, found.study_uid, found.day) == ("0815\nnorth", "1.2.3", date(2026, 3, 31))
    assert read_identity(min(folder.iterdir())).study_uid == "1.2.3"


@pytest.mark.parametrize(("study", "acquired", "day"), [("", "20260102", date(2026, 1, 2)), ("", "", None)])
def test_the_acquisition_date_helps_out(slices, study, acquired, day):
    def change(_, data):
        data.StudyDate, data.AcquisitionDate, data.PatientID = study, acquired, ""

    found = read_identity(slices.series(change))
    assert (found.patient, found.day) == ("", day)


def test_other_formats_say_nothing(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"never opened")
    assert read_identity(path) == UNKNOWN
