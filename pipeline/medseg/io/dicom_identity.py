"""Whose examination a DICOM series is, and when it was made: read to compare, never shown or logged."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from medseg.core.reading import AS_IT_IS, Reading
from medseg.io.formats import SUFFIXES

_DICOM_SUFFIXES = (".dcm", ".ima", ".dicom", ".zip")


@dataclass(frozen=True)
class Identity:
    """What a header says of patient and study; empty where it says nothing.

    Attributes:
        patient: PatientID with its issuer.
        study_uid: StudyInstanceUID.
        day: StudyDate, or AcquisitionDate without one.
    """

    patient: str = ""
    study_uid: str = ""
    day: date | None = None


UNKNOWN = Identity()


def read_identity(path: Path, reading: Reading = AS_IT_IS) -> Identity:
    """The identity of the series that `read_volume` would read; an empty one for formats that hold none.

    Raises:
        InputError: As `source_slices`.
    """
    lower = path.name.lower()
    if path.is_file() and lower.endswith(SUFFIXES) and not lower.endswith(_DICOM_SUFFIXES):
        return UNKNOWN
    from medseg.io.dicom_source import source_slices

    header = source_slices(path, series=reading.series, phase=reading.phase).header
    patient = str(header.get("PatientID", "") or "").strip()
    issuer = str(header.get("IssuerOfPatientID", "") or "").strip()
    days = (str(header.get(name, "") or "") for name in ("StudyDate", "AcquisitionDate"))
    return Identity(
        f"{patient}\n{issuer}" if patient else "",
        str(header.get("StudyInstanceUID", "") or ""),
        next((day for text in days if (day := _day(text)) is not None), None),
    )


def _day(text: str) -> date | None:
    """A DICOM date, YYYYMMDD; None where it is none, as after de-identification."""
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        return None
