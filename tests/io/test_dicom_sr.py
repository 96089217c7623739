"""A report says of each structure what was measured, with unit, codes and the segment it was measured on."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread

from medseg.core.errors import InputError
from medseg.core.findings import ClassAnswer
from medseg.core.measurements import Caliper, Intensity, Measurement
from medseg.core.segments import Algorithm, Segment
from medseg.core.terminology import Term
from medseg.io import dicom_sr
from medseg.io.dicom_seg import write_segmentation
from medseg.io.dicom_source import source_slices
from medseg.io.dicom_sr import write_report

SHAPE = (7, 6, 5)
LPS = np.array([[0.9, 0, 0, 14], [0, 0.7, 0, -8], [0, 0, 3.0, 55], [0, 0, 0, 1]])
ALGORITHM = Algorithm(name="phantom", version="2+abc", software_version="0.1")
SEGMENTS = (
    Segment(
        number=1,
        label="kidney_left",
        term=Term(type="SCT 64033007 Kidney", modifier="SCT 7771000 Left", colour=(200, 120, 90)),
    ),
    Segment(
        number=2,
        label="tumour-1",
        term=Term(
            type="SCT 108369006 Neoplasm",
            category="SCT 49755003 Morphologically Altered Structure",
            region="SCT 64033007 Kidney",
            region_modifier="SCT 7771000 Left",
            colour=(220, 40, 90),
        ),
        tracking_id="tumour-1",
        tracking_uid="2.25.77",
    ),
)
CLASSES = (ClassAnswer(head="subtype", probabilities={"benign": 0.2504, "malignant": 0.7496}),)


def caliper(length_mm):
    return Caliper(length_mm=length_mm, uncertainty_mm=0.8, ends_mm=((0, 0, 0), (0, 0, length_mm)))


def measured(identity, *, kind, volume_ml, long_mm=None, short_mm=None):
    return Measurement(
        id=identity,
        label=identity.partition("-")[0],
        kind=kind,
        volume_ml=volume_ml,
        volume_uncertainty_ml=0.3,
        centre_mm=(0, 0, 0),
        long_axis=None if long_mm is None else caliper(long_mm),
        short_axis=None if short_mm is None else caliper(short_mm),
        feret=None,
    )


MEASUREMENTS = (
    measured("kidney_left", kind="organ", volume_ml=151.23456789),
    measured("tumour-1", kind="lesion", volume_ml=1.25, long_mm=20.3, short_mm=11.0),
    measured("tumour-2", kind="lesion", volume_ml=9.0, long_mm=9.0),  # no segment: not written
)


@pytest.fixture
def slices(series):
    return source_slices(series.write("s", SHAPE, LPS))


@pytest.fixture
def segmentation(series, slices):
    path = series.folder / "seg.dcm"
    labels = np.random.default_rng(0).integers(0, 3, SHAPE[::-1]).astype(np.uint8)
    return write_segmentation(labels, slices, path, segments=SEGMENTS, algorithm=ALGORITHM)


def report(series, slices, measurements=MEASUREMENTS, *, segmentation=None, classes=CLASSES):
    path = series.folder / "sr.dcm"
    write_report(measurements, slices, path, segmentation=segmentation, classes=classes, algorithm=ALGORITHM)
    return path


def test_highdicom_reads_the_measurements(series, slices, segmentation):
    content = srread(report(series, slices, segmentation=segmentation)).content
    groups = content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["kidney_left", "tumour-1"]
    kidney, tumour = groups
    assert tumour.tracking_uid == "2.25.77"
    assert tumour.finding_type.value == "108369006"
    assert tumour.finding_category.value == "49755003"
    assert (tumour.finding_sites[0].topographical_modifier, tumour.finding_sites[0].value.value) == (None, "64033007")
    assert tumour.finding_sites[0].laterality.value == kidney.finding_sites[0].laterality.value == "7771000"
    found = {m.name.value: (m.value, m.unit.scheme_designator, m.unit.value) for m in tumour.get_measurements()}
    assert found == {
        "118565006": (1.25, "UCUM", "ml"),
        "103339001": (20.3, "UCUM", "mm"),
        "103340004": (11.0, "UCUM", "mm"),
    }
    assert [(m.name.value, m.value) for m in kidney.get_measurements()] == [("118565006", 151.234568)]
    segment = tumour.referenced_segment
    assert segment.referenced_sop_instance_uid == segmentation.sop_instance_uid
    assert segment.referenced_segment_numbers == [2]


@pytest.mark.parametrize(
    ("unit", "quantity", "ucum"), [("HU", "112031", "[hnsf'U]"), ("SUVbw", "126401", "g/ml{SUVbw}"), ("", None, None)]
)
def test_values_of_the_image_and_the_length_in_space(series, slices, segmentation, unit, quantity, ucum):
    peak, glycolysis = (5.5, 6.25) if unit == "SUVbw" else (None, None)
    values = Intensity(
        unit=unit,
        mean=5.0,
        minimum=-1.5,
        maximum=7.25,
        standard_deviation=0.5,
        suv_peak=peak,
        total_lesion_glycolysis=glycolysis,
    )
    row = MEASUREMENTS[1].model_copy(update={"feret": caliper(23.5), "intensity": values})
    content = srread(report(series, slices, (row,), segmentation=segmentation)).content
    (group,) = content.get_volumetric_roi_measurement_groups()
    found = {
        (m.name.value, None if m.derivation is None else m.derivation.value): (m.value, m.unit.value)
        for m in group.get_measurements()
    }
    assert found.pop(("81827009", "56851009")) == (23.5, "mm")
    sizes = {("118565006", None), ("103339001", None), ("103340004", None)}
    expected = {}
    if quantity:
        numbers = {"373098007": 5.0, "255605001": -1.5, "56851009": 7.25, "386136009": 0.5}
        expected = {(quantity, derivation): (value, ucum) for derivation, value in numbers.items()}
    if unit == "SUVbw":
        expected |= {(quantity, "126031"): (5.5, ucum), ("126033", None): (6.25, "g")}
    assert {key: value for key, value in found.items() if key not in sizes} == expected


def test_uncertainty_has_the_unit_of_what_it_belongs_to(series, slices, segmentation):
    groups = srread(report(series, slices, segmentation=segmentation)).content.get_volumetric_roi_measurement_groups()
    for measurement in groups[1].get_measurements():
        for item in measurement[0].ContentSequence:
            if item.ValueType == "NUM":
                units = item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0]
                assert units.CodeValue == measurement.unit.value
                assert item.MeasuredValueSequence[0].NumericValue in {0.3, 0.8}


def test_the_diagnosis_has_every_probability(series, slices):
    (group,) = srread(report(series, slices, ())).content.get_image_measurement_groups()
    assert {m.name.meaning: m.value for m in group.get_measurements()} == {
        "Probability of benign": 25.04,
        "Probability of malignant": 74.96,
    }
    (answer,) = group.get_qualitative_evaluations()
    assert (answer.name.meaning, answer.value.meaning, answer.value.scheme_designator) == (
        "subtype",
        "malignant",
        "99MEDSEG",
    )
    assert group.tracking_identifier == "subtype"


def test_it_names_the_algorithm_and_copies_the_identity(series, slices, segmentation):
    path = report(series, slices, segmentation=segmentation)
    data = pydicom.dcmread(path)
    assert (str(data.PatientName), data.PatientID) == ("Müller^Jörg", "P-17")
    assert data.StudyInstanceUID == series.identity["StudyInstanceUID"]
    text = str(data)
    assert "2+abc" in text
    assert "Algorithm Version" in text
    for secret in (b"Operator", b"Hospital"):
        assert secret not in path.read_bytes()
    assert path.read_bytes()[:128] == b"\0" * 128


@pytest.mark.parametrize("case", ["both", "measurements", "classes"])
def test_the_validator_finds_nothing(series, slices, segmentation, case):
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    path = report(
        series,
        slices,
        () if case == "classes" else MEASUREMENTS,
        segmentation=None if case == "classes" else segmentation,
        classes=() if case == "measurements" else CLASSES,
    )
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr.splitlines()
    faults = [line for line in said if line.startswith(("Error", "Warning"))]
    # it knows no scheme but the public ones
    assert [line for line in faults if "99MEDSEG" not in line] == []


def test_an_empty_report_is_refused(series, slices):
    with pytest.raises(InputError) as caught:
        report(series, slices, MEASUREMENTS, segmentation=None, classes=())
    assert caught.value.code == "E-EMPTY-REPORT"


def test_what_reads_back_differently_is_not_kept(series, slices, monkeypatch):
    monkeypatch.setattr(dicom_sr, "_values_in", lambda _: iter([25.04]))
    with pytest.raises(InputError) as caught:
        report(series, slices, ())
    assert caught.value.code == "E-READ-BACK"
    assert not (series.folder / "sr.dcm").exists()
