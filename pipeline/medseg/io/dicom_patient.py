"""What of a source's header travels into the objects made of it: patient, study and frame of reference."""

from __future__ import annotations

import copy
from typing import Any

from medseg.io.dicom_headers import untrusted_faults

PLACE = ("FrameOfReferenceUID", "PositionReferenceIndicator")
_MUST_BE_THERE = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    *PLACE,
)
# An allow-list: what is not named here stays in the source.
_COPIED = (
    *_MUST_BE_THERE,
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyInstanceUID",
    "StudyDescription",
    "IssuerOfAccessionNumberSequence",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)
_OF_THE_SERIES = ("SeriesInstanceUID", "Modality", "NumberOfFrames", "SliceThickness", "AcquisitionDate")
_SEXES = {"M", "F", "O"}


def header_of(header: Any) -> Any:
    """What is handed on of a source's header: `identity_of` it, and a few facts of its series.

    What cannot be made out, a weight that is no number, is left out.
    """
    found = identity_of(header)
    shared = header.get("SharedFunctionalGroupsSequence") or ()
    measures = [item for group in shared for item in group.get("PixelMeasuresSequence") or ()]
    for holder in (header, *measures):
        for name in _OF_THE_SERIES:
            _copy(holder, name, found)
    return found


def identity_of(header: Any) -> Any:
    """A data set with the patient, study and frame of reference of `header`, and nothing else of it.

    A sex that the standard does not know is left empty.
    """
    from pydicom.dataset import Dataset

    found = Dataset()
    # every name of the source can be written in it, whatever character set the source has
    found.SpecificCharacterSet = "ISO_IR 192"
    for name in _MUST_BE_THERE:
        setattr(found, name, "")
    for name in _COPIED:
        _copy(header, name, found)
    if str(found.PatientSex) not in _SEXES:
        found.PatientSex = ""
    for element in found:
        if element.VR == "PN" and element.value:
            element.value = str(element.value)
    return found


def _copy(source: Any, name: str, found: Any) -> None:
    """One attribute, where the source has it and its bytes spell a value."""
    if name not in source:
        return
    try:
        element = copy.deepcopy(source[name])
    except untrusted_faults():
        return
    found[name] = element
