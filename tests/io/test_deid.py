"""The profile, attribute by attribute, against expectations that are written out here."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, UltrasoundImageStorage

from medseg.core.deidentification import DeidentifyOptions
from medseg.core.errors import InputError
from medseg.io.deid import deidentify_object
from medseg.io.deid_key import Pseudonyms, read_key

BASIC = DeidentifyOptions()
KEY = b"0123456789abcdef0123456789abcdef"
REMOVED = """
AcquisitionComments AdditionalPatientHistory AdmissionID AdmittingDiagnosesDescription Allergies BranchOfService
CassetteID ClinicalTrialSeriesDescription CommentsOnRadiationDose CommentsOnThePerformedProcedureStep
ContributionDescription CountryOfResidence CurrentPatientLocation DerivationDescription DeviceDescription
DischargeDiagnosisDescription DistributionAddress EthnicGroup FrameComments GantryID GeneratorID HumanPerformerName
IdentifyingComments ImageComments ImagingServiceRequestComments Impressions InstitutionAddress
InstitutionalDepartmentName InsurancePlanIdentification InterpretationAuthor InterpretationText IssuerOfPatientID
MedicalAlerts MedicalRecordLocator MilitaryRank NameOfPhysiciansReadingStudy Occupation OrderCallbackPhoneNumber
OrderEnteredBy OtherPatientIDs OtherPatientNames PatientAddress PatientAge PatientBirthName PatientComments
PatientInstitutionResidence PatientMotherBirthName PatientReligiousPreference PatientSize PatientState
PatientTelephoneNumbers PatientWeight PerformedLocation PerformedProcedureStepDescription PerformedProcedureStepID
PerformedStationAETitle PerformedStationName PerformingPhysicianName PhysiciansOfRecord PlateID PregnancyStatus
ReasonForStudy ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers RegionOfResidence
RequestedProcedureComments RequestedProcedureID RequestingPhysician RequestingService ResponsibleOrganization
ResponsiblePerson ResultsComments ScheduledPerformingPhysicianName ScheduledProcedureStepDescription
ScheduledStationName SeriesDescription ServiceEpisodeID SmokingStatus SpecialNeeds StudyComments StudyDescription
TextComments TimezoneOffsetFromUTC TopicAuthor TopicTitle
""".split()  # noqa: SIM905
EMPTIED = """
AccessionNumber PatientBirthDate PatientSex ReferringPhysicianName StudyDate StudyID StudyTime
ConsultingPhysicianName ClinicalTrialSiteID ClinicalTrialSiteName ClinicalTrialProtocolName
PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest AcquisitionDate AcquisitionTime
RequestedProcedureDescription
""".split()  # noqa: SIM905
DUMMIES = {
    "InstitutionName": "ANONYMIZED", "StationName": "ANONYMIZED", "OperatorsName": "ANONYMIZED",
    "DeviceSerialNumber": "ANONYMIZED", "ProtocolName": "ANONYMIZED", "ContrastBolusAgent": "ANONYMIZED",
    "SeriesDate": "19000101", "SeriesTime": "000000", "ContentDate": "19000101", "ContentTime": "000000",
    "AcquisitionDateTime": "19000101000000", "ClinicalTrialSubjectID": "ANONYMIZED", "DetectorID": "ANONYMIZED",
    "ClinicalTrialProtocolID": "ANONYMIZED", "ContainerIdentifier": "ANONYMIZED", "SpecimenIdentifier": "ANONYMIZED",
}  # fmt: skip
REMAPPED = """
StudyInstanceUID SeriesInstanceUID SOPInstanceUID FrameOfReferenceUID SynchronizationFrameOfReferenceUID DeviceUID
IrradiationEventUID ConcatenationUID DimensionOrganizationUID InstanceCreatorUID StorageMediaFileSetUID
""".split()  # noqa: SIM905
KEPT = {
    "Modality": "CT", "BodyPartExamined": "CHEST", "Manufacturer": "Maker", "ConvolutionKernel": "B30f",
    "SliceThickness": 2.5, "KVP": 120, "InstanceNumber": 7, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
}  # fmt: skip
VALUES = {
    "DA": "20240203", "TM": "112233", "DT": "20240203112233", "AS": "041Y", "DS": "70.5", "US": 2, "CS": "YES",
    "AE": "ZZTITLE",
}  # fmt: skip


def value_of(data, name, number):
    from pydicom.datadict import dictionary_VR

    kind = dictionary_VR(name)
    setattr(data, name, f"1.2.3.4.{number}" if kind == "UI" else VALUES.get(kind, f"ZZCANARY{number:03}"))


def full_object() -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = CTImageStorage, "1.2.3.4.9999"
    data.file_meta.SourceApplicationEntityTitle = "ZZCANARYAE"
    for number, name in enumerate((*REMOVED, *EMPTIED, *DUMMIES, *REMAPPED)):
        value_of(data, name, number)
    data.SOPClassUID, data.PatientID, data.PatientName = CTImageStorage, "ZZCANARYPID", "ZZCANARYDOE^JANE"
    for name, value in KEPT.items():
        setattr(data, name, value)
    block = data.private_block(0x0029, "ZZCANARY MAKER", create=True)
    block.add_new(1, "LO", "ZZCANARYPRIVATE")
    block.add_new(2, "SQ", Sequence([nested()]))
    data.add_new(0x60003000, "OW", b"ZZCANARYOVERLAY!")
    data.add_new(0x60004000, "LT", "ZZCANARYOVERLAYTEXT")
    data.add_new(0x00091234, "UN", b"ZZCANARYUN")
    data.ReferencedImageSequence = [nested()]
    data.ProcedureCodeSequence = [nested()]
    data.PersonIdentificationCodeSequence = [nested()]
    data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 4, 6, 16, 12, 11
    data.SamplesPerPixel, data.PixelRepresentation, data.PhotometricInterpretation = 1, 0, "MONOCHROME2"
    data.PixelData = np.arange(24, dtype="<u2").tobytes()
    data.preamble = b"MZ" + b"ZZCANARYPREAMBLE".ljust(126, b"\1")
    return data


def nested() -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3.4.77"
    item.PatientName, item.ImageComments, item.CodeMeaning = "ZZCANARYNESTED^X", "ZZCANARYNOTE", "Chest CT"
    deeper = Dataset()
    deeper.OperatorsName, deeper.StudyInstanceUID, deeper.TextValue = "ZZCANARYDEEP", "1.2.3.4.5", "ZZCANARYTEXT lung"
    item.PurposeOfReferenceCodeSequence = [deeper]
    return item


def saved(data, path):
    data.save_as(path, enforce_file_format=True)
    return path


def cleaned(path, options=BASIC, key=KEY):
    return deidentify_object(path, options, Pseudonyms(key))


@pytest.fixture
def path(tmp_path):
    return saved(full_object(), tmp_path / "in.dcm")


def test_every_action_of_the_profile(path):
    before, made = full_object(), cleaned(path)
    after = made.data
    assert len(REMOVED) > 60
    assert [name for name in REMOVED if name in after] == []
    assert {name: after[name].value for name in EMPTIED if after[name].value not in (None, "")} == {}
    assert {name: str(after[name].value) for name in DUMMIES} == DUMMIES
    assert {name: after[name].value for name in KEPT} == KEPT
    for name in REMAPPED:
        assert after[name].value.startswith("2.25."), name
        assert after[name].value != before[name].value
    assert after.PatientID == str(after.PatientName) == made.patient
    assert after.PixelData == before.PixelData
    assert (after.PatientIdentityRemoved, after.LongitudinalTemporalInformationModified) == ("YES", "REMOVED")
    assert [item.CodeValue for item in after.DeidentificationMethodCodeSequence] == ["113100", "113104"]
    counted = {one.attribute: one for one in made.tally.counts()}
    assert counted["private"].removed >= 3
    assert (counted["StudyID"].replaced, counted["KVP"].kept, counted["ImageComments"].removed) == (1, 1, 3)


def test_nothing_of_the_old_file_is_in_the_bytes_of_the_new_one(path, tmp_path):
    assert path.read_bytes().count(b"ZZCANARY") > 100
    made = cleaned(path)
    made.write(tmp_path / "out")
    data = (tmp_path / "out" / made.place).read_bytes()
    assert b"ZZCANARY" not in data
    assert b"1.2.3.4." not in data
    assert data[:132] == b"\0" * 128 + b"DICM"
    assert "CANARY" not in str(made.place)
    again = dcmread(tmp_path / "out" / made.place)
    assert again.file_meta.MediaStorageSOPInstanceUID == again.SOPInstanceUID


def test_nested_items_are_cleaned_and_references_follow(path):
    after = cleaned(path).data
    item = after.ReferencedImageSequence[0]
    assert item.ReferencedSOPClassUID == CTImageStorage
    assert item.ReferencedSOPInstanceUID == Pseudonyms(KEY).uid("1.2.3.4.77")
    assert item.PatientName == after.PatientName
    assert item.PurposeOfReferenceCodeSequence[0].TextValue == "lung"
    assert after.ProcedureCodeSequence[0].CodeMeaning == "Chest CT"


def test_the_same_key_gives_the_same_file_and_another_one_shares_nothing(path):
    first, second, other = cleaned(path), cleaned(path), cleaned(path, key=KEY[::-1])
    assert first.place == second.place
    assert first.data == second.data
    assert set(first.place.parts).isdisjoint(other.place.parts)


def test_dates_move_together_and_other_options(path):
    options = DeidentifyOptions(shift_dates=True, keep_characteristics=True, keep_words=True)
    data = full_object()
    data.SeriesDescription, data.PatientAge, data.PatientSex = "CHEST 1.5mm ZZCANARY lung", "093Y", "F"
    after = cleaned(saved(data, path), options).data
    days = Pseudonyms(KEY).shift_days(after.PatientID)
    assert 30 <= days <= 3650
    moved = np.datetime64("2024-02-03") - days
    assert np.datetime64(f"{after.StudyDate[:4]}-{after.StudyDate[4:6]}-{after.StudyDate[6:]}") == moved
    assert after.StudyDate == after.AcquisitionDateTime[:8] == after.SeriesDate
    assert after.PatientBirthDate in (None, "")
    assert (after.SeriesDescription, after.PatientAge, after.PatientSex) == ("CHEST 1.5mm lung", "090Y", "F")
    assert after.LongitudinalTemporalInformationModified == "MODIFIED"


def test_a_name_in_the_wrong_place_is_removed(path):
    data = full_object()
    data.BodyPartExamined, data.Manufacturer = "ZZCANARYDOE", "made for zzcanarypid"
    after = cleaned(saved(data, path)).data
    assert "BodyPartExamined" not in after
    assert "Manufacturer" not in after


@pytest.mark.parametrize("hostile", ["../../etc/x", "a\0b", "x" * 300, "․․/up", "/abs", "CON"])
def test_hostile_identifiers_never_become_paths(path, hostile):
    data = full_object()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.SpecificCharacterSet = "ISO_IR 192"
        data.PatientID = data.PatientName = hostile
        data["StudyInstanceUID"]._value = hostile if hostile.isascii() else "../up"
        saved(data, path)
        made = cleaned(path, DeidentifyOptions(keep_uids=True))
    assert len(made.place.parts) == 4
    assert made.place.parts[0].startswith("P-")
    assert all(set(part) <= set("0123456789.dcm") for part in made.place.parts[1:])


def test_text_in_pixels_is_refused_or_blanked(path):
    data = full_object()
    data.SOPClassUID, data.Modality = UltrasoundImageStorage, "US"
    with pytest.raises(InputError, match="E-DEID-PIXELS"):
        cleaned(saved(data, path))
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 1, 1
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 4, 2
    data.SequenceOfUltrasoundRegions = [region]
    made = cleaned(saved(data, path), DeidentifyOptions(clean_pixels=True))
    expected = np.zeros((4, 6), "<u2")
    expected[1:3, 1:5] = np.arange(24).reshape(4, 6)[1:3, 1:5]
    np.testing.assert_array_equal(np.frombuffer(made.data.PixelData, "<u2").reshape(4, 6), expected)
    assert made.data.BurnedInAnnotation == "NO"
    data.SOPClassUID, data.Modality, data.BurnedInAnnotation = SecondaryCaptureImageStorage, "OT", "YES"
    with pytest.raises(InputError, match="E-DEID-PIXELS"):
        cleaned(saved(data, path), DeidentifyOptions(clean_pixels=True))


def test_documents_are_refused(path):
    data = full_object()
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"
    with pytest.raises(InputError, match="E-DEID-CLASS"):
        cleaned(saved(data, path))


def test_a_key_is_made_once_for_its_owner_only(tmp_path):
    key = read_key(tmp_path / "k")
    assert len(key) == 64
    assert read_key(tmp_path / "k") == key
    if os.name == "posix":
        assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
        (tmp_path / "k").chmod(0o644)
        with pytest.raises(InputError, match="E-DEID-KEY"):
            read_key(tmp_path / "k")
    (tmp_path / "short").write_text("abc")
    (tmp_path / "short").chmod(0o600)
    with pytest.raises(InputError, match="E-DEID-KEY"):
        read_key(tmp_path / "short")
