"""Measurements and diagnoses to DICOM structured reports (TID 1500), each beside the segment it was made on."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.core.errors import InputError
from medseg.core.findings import ClassAnswer
from medseg.core.measurements import Measurement
from medseg.core.segments import Algorithm, Segment
from medseg.core.terminology import Code, private_code, tracking_uid
from medseg.io.dicom_headers import read_object, untrusted
from medseg.io.dicom_objects import MAKER, concept, finish, require_identity, save, series_facts
from medseg.io.dicom_patient import identity_of
from medseg.io.dicom_seg import WrittenSegmentation
from medseg.io.dicom_source import SourceSlices

_SERIES_NUMBER = 302
_VOLUME = Code(scheme="SCT", value="118565006", meaning="Volume")
_LONG_AXIS = Code(scheme="SCT", value="103339001", meaning="Long Axis")
_SHORT_AXIS = Code(scheme="SCT", value="103340004", meaning="Short Axis")
_DIAMETER = Code(scheme="SCT", value="81827009", meaning="Diameter")
_MEAN = Code(scheme="SCT", value="373098007", meaning="Mean")
_MINIMUM = Code(scheme="SCT", value="255605001", meaning="Minimum")
_MAXIMUM = Code(scheme="SCT", value="56851009", meaning="Maximum")
_DEVIATION = Code(scheme="SCT", value="386136009", meaning="Standard Deviation")
_ATTENUATION = Code(scheme="DCM", value="112031", meaning="Attenuation Coefficient")
_IMAGING = Code(scheme="SCT", value="363679005", meaning="Imaging procedure")
_PEAK = Code(scheme="DCM", value="126031", meaning="Peak Value Within ROI")
_GLYCOLYSIS = Code(scheme="DCM", value="126033", meaning="Total Lesion Glycolysis")
_GRAM = Code(scheme="UCUM", value="g", meaning="gram")
_MILLILITRE = Code(scheme="UCUM", value="ml", meaning="milliliter")
_MILLIMETRE = Code(scheme="UCUM", value="mm", meaning="millimeter")
_PERCENT = Code(scheme="UCUM", value="%", meaning="percent")
# what the values of an image are, by its unit; a scale without a unit, as that of MRI, has no code and is left out
_QUANTITIES: dict[str, tuple[Code, Code]] = {
    "HU": (_ATTENUATION, Code(scheme="UCUM", value="[hnsf'U]", meaning="Hounsfield unit")),
    "SUVbw": (
        Code(scheme="DCM", value="126401", meaning="SUVbw"),
        Code(scheme="UCUM", value="g/ml{SUVbw}", meaning="Standardized Uptake Value body weight"),
    ),
}


def write_report(
    measurements: Sequence[Measurement],
    slices: SourceSlices,
    path: Path,
    *,
    segmentation: WrittenSegmentation | None,
    classes: Sequence[ClassAnswer] = (),
    algorithm: Algorithm,
    seed: str = "",
) -> None:
    """Write one Enhanced SR with a measurement group per structure and one per classification head.

    Args:
        measurements: Of structures that are segments of `segmentation`: a lesion's id is its segment's tracking id.
        slices: Of the source series.
        path: Where.
        segmentation: What the measurements were made on; None when nothing was found.
        classes: Answers of the case's diagnosis.
        algorithm: Who made mask, measurements and diagnosis.
        seed: Of the object's UIDs, as `series_facts`.

    Raises:
        InputError: `E-EMPTY-REPORT`, `E-SOURCE-UID`, `E-NOT-WRITABLE`, `E-DISK-FULL` or `E-READ-BACK`.
        GeometryError: `E-FRAME-OF-REFERENCE`.
    """
    from highdicom.sr import EnhancedSR, MeasurementReport
    from pydicom.sr.codedict import codes

    require_identity(slices, path)
    by_name = {} if segmentation is None else {(item.tracking_id or item.label): item for item in segmentation.segments}
    rows = [row for row in measurements if row.id in by_name]
    if not rows and not classes:
        message = "there is neither a measured structure nor a diagnosis to report"
        raise InputError(message, code="E-EMPTY-REPORT", file=path, remedy="Write no report for this case.")
    study = str(slices.header.StudyInstanceUID)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        groups = [_structure(row, by_name[row.id], slices, segmentation, algorithm) for row in rows if segmentation]
        content = MeasurementReport(
            observation_context=_observer(algorithm),
            procedure_reported=concept(_IMAGING),
            title=codes.DCM.ImagingMeasurementReport,
            imaging_measurements=[*groups, *(_diagnosis(answer, study, algorithm) for answer in classes)],
        )
        dataset = EnhancedSR(
            evidence=_evidence(slices, segmentation),
            content=content,
            is_complete=True,
            **series_facts(algorithm, what="measurements", number=_SERIES_NUMBER, seed=seed),
        )
    finish(dataset, slices, () if segmentation is None else segmentation.segments, has_private=bool(classes))
    expected = sorted(number.value for row in rows for number in _numbers(row))
    expected += sorted(_percent(share) for answer in classes for share in answer.probabilities.values())
    save(dataset, path, verify=lambda written: sorted(_values_in(written)) == sorted(expected))


@dataclass(frozen=True)
class _Number:
    """One measured value; `derivation` says which of a structure's values it is: their mean, the largest ..."""

    name: Code
    value: float
    unit: Code
    uncertainty: float | None = None
    derivation: Code | None = None


def _numbers(row: Measurement) -> Iterator[_Number]:
    """What is reported of one structure; rounded as DICOM numbers hold them."""
    yield _Number(_VOLUME, round(row.volume_ml, 6), _MILLILITRE, round(row.volume_uncertainty_ml, 6))
    for name, caliper, derivation in (
        (_LONG_AXIS, row.long_axis, None),
        (_SHORT_AXIS, row.short_axis, None),
        (_DIAMETER, row.feret, _MAXIMUM),
    ):
        if caliper is not None:
            length_mm, uncertainty_mm = round(caliper.length_mm, 6), round(caliper.uncertainty_mm, 6)
            yield _Number(name, length_mm, _MILLIMETRE, uncertainty_mm, derivation)
    found = row.intensity
    quantity = None if found is None else _QUANTITIES.get(found.unit)
    if found is None or quantity is None:
        return
    name, unit = quantity
    for derivation, value in (
        (_MEAN, found.mean),
        (_MINIMUM, found.minimum),
        (_MAXIMUM, found.maximum),
        (_DEVIATION, found.standard_deviation),
    ):
        yield _Number(name, round(value, 6), unit, derivation=derivation)
    if found.suv_peak is not None:
        yield _Number(name, round(found.suv_peak, 6), unit, derivation=_PEAK)
    if found.total_lesion_glycolysis is not None:
        yield _Number(_GLYCOLYSIS, round(found.total_lesion_glycolysis, 6), _GRAM)


def _structure(
    row: Measurement, segment: Segment, slices: SourceSlices, seg: WrittenSegmentation, algorithm: Algorithm
) -> Any:
    from highdicom import sr

    term = segment.term
    where, side = (term.region, term.region_modifier) if term.region else (term.type, term.modifier)
    uid = segment.tracking_uid or tracking_uid(str(slices.header.StudyInstanceUID), segment.label)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=row.id),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=seg.sop_class_uid,
            sop_instance_uid=seg.sop_instance_uid,
            segment_number=segment.number,
            source_series=sr.SourceSeriesForSegmentation(str(slices.header.SeriesInstanceUID)),
        ),
        finding_category=concept(term.category),
        finding_type=concept(term.type),
        finding_sites=[sr.FindingSite(concept(where), laterality=None if side is None else concept(side))]
        if not term.is_lesion or term.region
        else None,
        algorithm_id=_algorithm(algorithm),
        measurements=[
            sr.Measurement(
                name=concept(number.name),
                value=number.value,
                unit=concept(number.unit),
                derivation=None if number.derivation is None else concept(number.derivation),
                properties=None if number.uncertainty is None else _uncertain(number.uncertainty, number.unit),
            )
            for number in _numbers(row)
        ],
    )


def _uncertain(uncertainty: float, unit: Code) -> Any:
    from highdicom.sr import MeasurementProperties

    found = MeasurementProperties(upper_measurement_uncertainty=uncertainty, lower_measurement_uncertainty=uncertainty)
    for item in found:
        # highdicom writes a number without unit; it has the unit of what it belongs to
        item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [concept(unit)]
    return found


def _diagnosis(answer: ClassAnswer, study_uid: str, algorithm: Algorithm) -> Any:
    """The answer of one head as a code, the probability of each class as a number; codes of medseg's own."""
    from highdicom import sr

    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(tracking_uid(study_uid, f"class {answer.head}"), answer.head),
        algorithm_id=_algorithm(algorithm),
        qualitative_evaluations=[
            sr.QualitativeEvaluation(concept(private_code(answer.head)), concept(private_code(answer.answer)))
        ],
        measurements=[
            sr.Measurement(
                name=concept(private_code(f"Probability of {name}")), value=_percent(share), unit=concept(_PERCENT)
            )
            for name, share in answer.probabilities.items()
        ],
    )


def _percent(share: float) -> float:
    return round(100 * share, 4)


def _algorithm(algorithm: Algorithm) -> Any:
    from highdicom.sr import AlgorithmIdentification

    return AlgorithmIdentification(algorithm.name, algorithm.version)


def _observer(algorithm: Algorithm) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    # a program of one version is one device; a UID from its name keeps it the same in every report
    number = int.from_bytes(hashlib.sha256(f"{MAKER} {algorithm.software_version}".encode()).digest()[:15])
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=f"2.25.{number}", name=MAKER, manufacturer_name=MAKER, model_name=MAKER
    )
    return sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device))


def _evidence(slices: SourceSlices, segmentation: WrittenSegmentation | None) -> list[Any]:
    """What the report refers to, with the identity that it takes over."""
    instances = {piece.sop_instance_uid: piece.sop_class_uid for piece in slices.slices}
    series = str(slices.header.SeriesInstanceUID)
    listed = [(class_uid, uid, series) for uid, class_uid in instances.items()]
    if segmentation is not None:
        listed.append((segmentation.sop_class_uid, segmentation.sop_instance_uid, segmentation.series_instance_uid))
    found = []
    for class_uid, uid, series_uid in listed:
        item = identity_of(slices.header)
        item.SOPClassUID, item.SOPInstanceUID, item.SeriesInstanceUID = class_uid, uid, series_uid
        found.append(item)
    return found


def _values_in(path: Path) -> Iterator[float]:
    """Every measured value of a report, at any depth; uncertainties are no measurements."""
    data = read_object(path)
    with untrusted(path, "its content"):
        pending = [data]
        while pending:
            item = pending.pop()
            for child in item.get("ContentSequence") or ():
                if child.ValueType == "NUM" and child.RelationshipType == "CONTAINS":
                    yield float(child.MeasuredValueSequence[0].NumericValue)
                pending.append(child)
