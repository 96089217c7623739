"""The profile against expectations that were written by hand from a published copy of the standard's table."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medseg.core.deidentification import DeidentifyOptions
from medseg.io.deid import deidentify_object
from medseg.io.deid_key import Pseudonyms
from medseg.io.deid_rules import read_profile

KEY = b"0123456789abcdef0123456789abcdef"
EXPECTED = {
    "Z": """AccessionNumber ClinicalTrialCoordinatingCenterName ClinicalTrialProtocolName ClinicalTrialSiteID
        ClinicalTrialSiteName ClinicalTrialTimePointID ConceptualVolumeCombinationDescription
        ConceptualVolumeDescription ConsultingPhysicianName DeviceAlternateIdentifier
        FillerOrderNumberImagingServiceRequest FractionationNotes IssuerOfTheContainerIdentifierSequence
        IssuerOfTheSpecimenIdentifierSequence ManufacturerDeviceIdentifier PatientBirthDate PatientSex
        PlacerOrderNumberImagingServiceRequest PrescriptionNotes PrescriptionNotesSequence
        RadiationGenerationModeDescription ReasonForSuperseding ReferringPhysicianName ROIInterpreter ROIName
        RTAccessoryDeviceSlotID RTAccessoryHolderSlotID RTPhysicianIntentNarrative SpecimenPreparationSequence
        StructureSetDate StudyDate StudyID StudyTime TreatmentTechniqueNotes
        VerifyingObserverIdentificationCodeSequence""",
    "D": """AcquisitionFieldOfViewLabel ClinicalTrialProtocolEthicsCommitteeName ClinicalTrialProtocolID
        ClinicalTrialSponsorName ClinicalTrialSubjectID ClinicalTrialSubjectReadingID ContainerIdentifier DeviceLabel
        EntityLabel EntityLongLabel FlowIdentifier FlowIdentifierSequence FrameOriginTimestamp
        GraphicAnnotationSequence ImpedanceMeasurementDateTime InterlockDateTime InterlockDescription
        InterlockOriginDescription OverrideDateTime PersonIdentificationCodeSequence PersonName
        RadiationDoseIdentificationLabel RadiationDoseInVivoMeasurementLabel RadiationGenerationModeLabel
        RecordedRTControlPointDateTime RTPlanLabel RTPrescriptionLabel RTToleranceSetLabel SourceEndDateTime
        SourceIdentifier SourceStartDateTime SpecimenIdentifier StructureSetLabel TreatmentPositionGroupLabel
        TreatmentToleranceViolationDateTime TreatmentToleranceViolationDescription UserContentLabel
        UserContentLongLabel VerifyingObserverName VerifyingObserverSequence VerifyingOrganization XRayDetectorID
        XRaySourceID""",
    "U": """ConcatenationUID ConceptualVolumeUID ConstituentConceptualVolumeUID DeviceUID DigitalSignatureUID
        DimensionOrganizationUID DoseReferenceUID DosimetricObjectiveUID FailedSOPInstanceUIDList FiducialUID
        FrameOfReferenceUID InstanceCreatorUID IrradiationEventUID LargePaletteColorLookupTableUID
        ManufacturerDeviceClassUID MultiplexGroupUID ObservationSubjectUIDTrial ObservationUID
        PaletteColorLookupTableUID PatientSetupUID PresentationDisplayCollectionUID
        PresentationSequenceCollectionUID ReferencedConceptualVolumeUID ReferencedDoseReferenceUID
        ReferencedDosimetricObjectiveUID ReferencedFiducialsUID ReferencedFrameOfReferenceUID
        ReferencedObservationUIDTrial ReferencedSOPInstanceUID RelatedFrameOfReferenceUID RTTreatmentPhaseUID
        SeriesInstanceUID SOPInstanceUID SourceConceptualVolumeUID SpecimenUID StorageMediaFileSetUID StudyInstanceUID
        SynchronizationFrameOfReferenceUID TargetUID TemplateExtensionCreatorUID TemplateExtensionOrganizationUID
        TrackingUID TransactionUID TreatmentPositionGroupUID TreatmentSessionUID UID""",
    "X/Z": """AcquisitionContextSequence AcquisitionDate AcquisitionTime BarcodeValue LabelText PatientSexNeutered
        ReferencedStudySequence RequestedProcedureDescription ReviewerName SourceSerialNumber""",
    "X/D": """AcquisitionDeviceProcessingDescription DetectorID EndAcquisitionDateTime FirstTreatmentDate
        IntendedPhaseEndDate IntendedPhaseStartDate MostRecentTreatmentDate OperatorIdentificationSequence ProtocolName
        RTPlanDate RTPlanTime RTTreatmentApproachLabel SeriesDate SeriesTime StartAcquisitionDateTime TreatmentDate
        TreatmentTime""",
    "Z/D": "ContentCreatorName ContentDate ContentTime ContrastBolusAgent",
    "X/Z/D": """AcquisitionDateTime DeviceSerialNumber InstitutionCodeSequence InstitutionName OperatorsName
        ReferencedPerformedProcedureStepSequence StationName""",
    "X/Z/U*": "ReferencedImageSequence SourceImageSequence",
    "X": """AcquisitionComments AcquisitionProtocolDescription ActualHumanPerformersSequence AdditionalPatientHistory
        AddressTrial AdmissionID AdmittingDate AdmittingDiagnosesCodeSequence AdmittingTime AffectedSOPInstanceUID
        Allergies Arbitrary AuthorObserverSequence BeamDescription CameraOwnerName CassetteID CurveDate
        CustodialOrganizationSequence DataSetTrailingPadding DerivationDescription DigitalSignaturesSequence
        EthnicGroup ExpectedCompletionDateTime GantryID GPSAltitude GPSLatitude GPSTimeStamp HumanPerformerName
        IconImageSequence ImageComments InstitutionAddress InstitutionalDepartmentName IssuerOfPatientID
        LastMenstrualDate LensMake MAC MakerNote MedicalAlerts MilitaryRank ModifiedAttributesSequence
        NameOfPhysiciansReadingStudy NonconformingDataElementValue Occupation OriginalAttributesSequence
        OtherPatientIDs OtherPatientIDsSequence OverlayDate ParticipantSequence PatientAddress PatientAge
        PatientBirthTime PatientPrimaryLanguageCodeSequence PatientSize PatientTelephoneNumbers PatientWeight
        PerformedProcedureStepStartDate PerformedProcedureStepStartDateTime PerformedStationAETitle PregnancyStatus
        PreMedication ReasonForStudy ReferencedPatientSequence ReferencedPatientPhotoSequence RegionOfResidence
        RequestAttributesSequence RequestedProcedureID ResponsiblePerson ROIDescription
        ScheduledProcedureStepStartDateTime ScheduledStationAETitle SeriesDescription ServiceEpisodeID SmokingStatus
        SourceManufacturer StructureSetName StudyDescription TextString TimezoneOffsetFromUTC TopicTitle
        TransducerIdentificationSequence UDISequence UniqueDeviceIdentifier VerbalSourceTrial VisitComments
        XRayDetectorLabel""",
}
CODE_OF = {name: code for code, names in EXPECTED.items() for name in names.split()}
SAMPLES = {
    "AE": "ZZTITLE", "AS": "041Y", "CS": "ZZCODE", "DA": "20240203", "DS": "70.5", "DT": "20240203112233", "IS": "7",
    "LO": "ZZLONG", "LT": "ZZTEXT", "PN": "ZZNAME^X", "SH": "ZZSHORT", "ST": "ZZTEXT", "TM": "112233", "UC": "ZZUC",
    "UI": "1.2.3.4.5", "UR": "http://zz", "UT": "ZZUT", "FD": 1.5, "FL": 1.5, "SL": -3, "SS": -2, "SV": -4, "UL": 3,
    "US": 2, "UV": 4, "AT": 0x00100010, "OB": b"ZZOB", "OD": b"ZZOD8888", "OF": b"ZZOF", "OL": b"ZZOL",
    "OV": b"ZZOV8888", "OW": b"ZZOW", "UN": b"ZZUN",
}  # fmt: skip
DUMMIES = {"DA": "19000101", "DT": "19000101000000", "TM": "000000"}
# Attributes that the table does not name, of every VR, and what becomes of each.
OTHERS = {
    "RetrieveAETitle": None, "FrameIncrementPointer": "kept", "ScanningSequence": "kept", "ExpiryDate": "",
    "SliceThickness": "kept", "AlarmDecisionTime": "", "RealWorldValueSlope": "kept", "TableHeight": "kept",
    "InstanceNumber": "kept", "FilterType": "", "StrainNomenclature": "", "MaterialNotes": "", "ICCProfile": None,
    "DoublePointCoordinatesData": "kept", "PointCoordinatesData": "kept", "LongPrimitivePointIndexList": "kept",
    "ExtendedOffsetTable": "kept", "RedPaletteColorLookupTableData": "kept", "VectorCoordinateData": None,
    "EvaluatorName": "", "WedgeName": "", "ReferencePixelX0": "kept", "TagAngleSecondAxis": "kept",
    "ExaminedBodyThickness": "kept",
    "ComponentManufacturer": "", "SelectorSVValue": "kept", "SecondaryReviewTime": "", "StrainDescription": "",
    "TargetFrameOfReferenceUID": "mapped", "RegionFlags": "kept", "RetrieveURI": None, "ActiveAperture": "kept",
    "EXIFVersion": "", "EncapsulatedPixelDataValueTotalLength": "kept", "PatientBirthDateInAlternativeCalendar": "",
}  # fmt: skip


def blank() -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.1"
    data.PatientID, data.PatientName, data.Modality = "ZZPID", "ZZWHO^X", "CT"
    return data


def put(data, name):
    kind = dictionary_VR(name).split(" or ")[0]
    if kind == "SQ":
        inner = Dataset()
        inner.ReferencedSOPInstanceUID, inner.PatientComments, inner.OperatorsName = "1.2.3.4.5", "ZZIN", "ZZIN^X"
        setattr(data, name, [inner])
    else:
        setattr(data, name, SAMPLES[kind])


def cleaned(data, path, **options):
    data.save_as(path, enforce_file_format=True)
    return deidentify_object(path, DeidentifyOptions(**options), Pseudonyms(KEY))


def outcome(element, kind):
    """X, Z, D, U, U* or K: what has become of a sample."""
    if element is None:
        return "X"
    if kind == "SQ":
        return "Z" if not element.value else "U*" if "ReferencedSOPInstanceUID" in element.value[0] else "D"
    if element.value in (None, ""):
        return "Z"
    if kind == "UI":
        return "U" if element.value == Pseudonyms(KEY).uid("1.2.3.4.5") else "K"
    return "D" if element.value == DUMMIES.get(kind, b"\0\0" if kind == "OB" else "ANONYMIZED") else "K"


def test_the_table_says_what_the_standard_says():
    table = read_profile().table.actions
    ours = {name: code for code, names in table.items() for name in names}
    assert len(CODE_OF) > 240
    assert {name: ours.get(name) for name in CODE_OF} == CODE_OF
    assert set(CODE_OF.values()) == set(table)


def test_every_action_is_done_in_an_object_and_in_its_sequences(tmp_path):
    data = blank()
    names = [name for name in CODE_OF if name not in {"SOPInstanceUID", "AffectedSOPInstanceUID"}]
    for name in names:
        put(data, name)
    deepest, inner, outer = Dataset(), Dataset(), Dataset()
    for name in names:
        put(deepest, name)
    inner.PurposeOfReferenceCodeSequence, outer.ReferencedSeriesSequence = [deepest], [inner]
    data.RelatedSeriesSequence = [outer]
    made = cleaned(data, tmp_path / "in.dcm").data
    nested = made.RelatedSeriesSequence[0].ReferencedSeriesSequence[0].PurposeOfReferenceCodeSequence[0]
    for place in (made, nested):
        found = {name: outcome(place.get_item(name) and place[name], dictionary_VR(name)) for name in names}
        wrong = {name: (CODE_OF[name], done) for name, done in found.items() if CODE_OF[name].split("/")[-1] != done}
        assert wrong == {}


def test_every_vr_that_the_table_leaves_open(tmp_path):
    data = blank()
    for name in OTHERS:
        put(data, name)
    before = {name: data[name].value for name in OTHERS}
    after = cleaned(data, tmp_path / "in.dcm").data
    for name, expected in OTHERS.items():
        if expected is None:
            assert name not in after, name
        elif expected == "kept":
            assert after[name].value == before[name], name
        elif expected == "mapped":
            assert after[name].value == Pseudonyms(KEY).uid("1.2.3.4.5")
        else:
            assert str(after[name].value or "") == expected, name
    # UN has no attribute in the dictionary, all of AS are in the table
    assert {dictionary_VR(name).split(" or ")[0] for name in OTHERS} == set(SAMPLES) - {"AS", "UN"}


def test_private_attributes_of_every_vr_go_at_every_depth(tmp_path):
    data, inner = blank(), Dataset()
    data.ReferencedSeriesSequence = [inner]
    for place in (data, inner):
        block = place.private_block(0x0029, "ZZ MAKER", create=True)
        for number, (kind, value) in enumerate(SAMPLES.items(), start=1):
            block.add_new(number, kind, value)
        block.add_new(0xF0, "SQ", Sequence([Dataset()]))
    made = cleaned(data, tmp_path / "in.dcm")
    assert [element.tag for element in made.data.iterall() if element.tag.is_private] == []
    counted = {one.attribute: one for one in made.tally.counts()}
    assert counted["private"].removed == 2 * (len(SAMPLES) + 2)


@pytest.mark.parametrize("keep", [False, True])
def test_retained_uids_keep_references(tmp_path, keep):
    data = blank()
    for name in ("ReferencedStudySequence", "ReferencedPerformedProcedureStepSequence", "ReferencedPatientSequence"):
        put(data, name)
    after = cleaned(data, tmp_path / "in.dcm", keep_uids=keep).data
    assert "ReferencedPatientSequence" not in after
    for name in ("ReferencedStudySequence", "ReferencedPerformedProcedureStepSequence"):
        found = [item.get("ReferencedSOPInstanceUID") for item in after[name].value]
        assert ("1.2.3.4.5" in found) == keep
        assert "ZZIN" not in str(after[name])


@pytest.mark.parametrize("name", [name for name in CODE_OF if dictionary_VR(name) in {"DA", "DT"}])
def test_every_date_of_the_table_moves(tmp_path, name):
    data = blank()
    put(data, name)
    after = cleaned(data, tmp_path / "in.dcm", shift_dates=True).data
    if name == "PatientBirthDate":
        assert after[name].value in (None, "")
        return
    moved = np.datetime64("2024-02-03") - Pseudonyms(KEY).shift_days(after.PatientID)
    assert after[name].value == str(moved).replace("-", "") + ("112233" if dictionary_VR(name) == "DT" else "")
