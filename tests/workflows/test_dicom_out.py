"""From a mask or a model to DICOM objects that fit the series, name their lesions, and come back as labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.sr import srread

from medseg.core.case import Case, Dataset
from medseg.core.errors import GeometryError, InputError, UsageError
from medseg.core.findings import ClassAnswer, GridSummary, Provenance
from medseg.core.measurements import CaseMeasurements
from medseg.core.outputs import Outputs
from medseg.core.reading import Reading
from medseg.core.segments import Algorithm
from medseg.core.settings import InferSettings
from medseg.core.terminology import Term
from medseg.core.volume import LabelMap
from medseg.data.contents import read_reference
from medseg.data.inspection import inspect_case
from medseg.io.volumes import read_labels, read_volume, write_labels
from medseg.workflows.dicom_out import Finding, algorithm_of, open_series, terms_of, write_objects
from medseg.workflows.infer import infer
from medseg.workflows.mask_inputs import MaskRequest
from medseg.workflows.to_dicom import ToDicomRequest, plan_to_dicom, to_dicom

SHAPE = (40, 36, 12)
LPS = np.array([[2.0, 0, 0, -31], [0, -2.0, 0, 8], [0, 0, 4.0, 55], [0, 0, 0, 1]])
LABELS = {"liver": 1, "liver tumour": 2}
ALGORITHM = Algorithm(name="phantom", version="2", software_version="0.1")


def mask_array():
    array = np.zeros(SHAPE, np.uint8)
    array[5:30, 6:30, 1:10] = 1
    array[8:10, 8:11, 3] = 2  # 6 voxels
    array[20:26, 12:17, 4:8] = 2  # 120 voxels
    array[12, 20:22, 5] = 2  # 2 voxels
    return array


@pytest.fixture
def folder(series):
    return series.write("s", SHAPE, LPS)


@pytest.fixture
def mask(folder):
    return LabelMap(mask_array(), read_volume(folder).geometry)


def finding(mask, **changes):
    labels = changes.pop("labels", LABELS)
    outputs = changes.pop("outputs", Outputs())
    return Finding("case", mask, labels, terms_of(labels, outputs), ALGORITHM, **changes)


def written(folder, mask, *formats, resample=False, **options):
    outputs = Outputs(formats=formats, **{key: options.pop(key) for key in ("per_lesion",) if key in options})
    slices = open_series(folder, Reading())
    out = folder.parent
    return write_objects(finding(mask, **options), slices, outputs, out, resample=resample), out


def test_lesions_are_numbered_as_they_are_measured(folder, mask):
    objects, out = written(folder, mask, "dicom-sr")
    assert [segment.label for segment in objects.segments] == ["liver", *(f"liver tumour-{n}" for n in (1, 2, 3))]
    assert list(objects.files) == ["dicom-sr", "dicom-seg"]
    groups = srread(out / "case.sr.dcm").content.get_volumetric_roi_measurement_groups()
    volumes = {group.tracking_identifier: group.get_measurements()[0].value for group in groups}
    assert volumes == {
        "liver": pytest.approx((25 * 24 * 9 - 128) * 16 / 1000),
        "liver tumour-1": pytest.approx(120 * 0.016),
        "liver tumour-2": pytest.approx(6 * 0.016),
        "liver tumour-3": pytest.approx(2 * 0.016),
    }
    seg = pydicom.dcmread(out / "case.seg.dcm")
    for group in groups:
        item = seg.SegmentSequence[group.referenced_segment.referenced_segment_numbers[0] - 1]
        assert item.SegmentLabel == group.tracking_identifier
        if "TrackingUID" in item:
            assert item.TrackingUID == group.tracking_uid


def test_the_same_lesion_has_the_same_tracking_uid_every_time(folder, mask):
    first, _ = written(folder, mask, "dicom-seg")
    second, _ = written(folder, mask, "dicom-seg")
    uids = [segment.tracking_uid for segment in first.segments]
    assert uids == [segment.tracking_uid for segment in second.segments]
    assert uids[0] is None
    assert len(set(uids[1:])) == 3


def test_known_lesions_keep_their_ids(folder, mask):
    from medseg.clinical.measure import measure_structures

    rows = measure_structures(mask, labels=LABELS, lesions=["liver tumour"])
    known = [
        row.model_copy(update={"id": f"L{n}", "tracking_uid": f"2.25.{n}"}) for n, row in enumerate(rows) if n in {1, 3}
    ]
    objects, out = written(folder, mask, "dicom-sr", known=tuple(known))
    found = [(segment.label, segment.tracking_uid) for segment in objects.segments]
    assert found[1] == ("L1", "2.25.1")
    assert found[2][0] == "liver tumour-2"
    assert found[3] == ("L3", "2.25.3")
    groups = srread(out / "case.sr.dcm").content.get_volumetric_roi_measurement_groups()
    assert {group.tracking_identifier for group in groups} == {"liver", "L1", "L3", "liver tumour-2"}


def test_one_segment_per_label_when_asked(folder, mask):
    objects, out = written(folder, mask, "dicom-seg", "dicom-rtstruct", per_lesion=False)
    assert [segment.label for segment in objects.segments] == ["liver", "liver tumour"]
    for file in objects.files.values():
        np.testing.assert_array_equal(read_labels(out / file, onto=mask.geometry).array, mask.array)


@pytest.mark.parametrize("name", ["dicom-seg", "dicom-rtstruct"])
def test_lesions_come_back_as_their_label(folder, mask, name):
    objects, out = written(folder, mask, name)
    back = read_labels(out / objects.files[name], onto=mask.geometry, names=LABELS)
    np.testing.assert_array_equal(back.array, mask.array)


def test_a_mask_in_other_axes_is_the_same_mask(folder, mask):
    order, flips = mask.geometry.canonical_axes()
    turned = LabelMap(np.flip(mask.array.transpose(order), flips), mask.geometry.canonical())
    objects, out = written(folder, turned, "dicom-seg")
    back = read_labels(out / objects.files["dicom-seg"], onto=mask.geometry, names=LABELS)
    np.testing.assert_array_equal(back.array, mask.array)


def test_a_mask_on_another_grid_is_refused_or_resampled(folder, mask):
    fine = LabelMap(mask.array.repeat(2, 0).repeat(2, 1), mask.geometry.resized((80, 72, 12)))
    with pytest.raises(GeometryError, match=r"40x36x12 .*axes RAS, .*80x72x12 .*axes RAS, ") as caught:
        written(folder, fine, "dicom-seg")
    assert caught.value.code == "E-GRID-MISMATCH"
    assert "--resample" in caught.value.remedy
    objects, out = written(folder, fine, "dicom-seg", resample=True)
    back = read_labels(out / objects.files["dicom-seg"], onto=mask.geometry, names=LABELS)
    np.testing.assert_array_equal(back.array, mask.array)


def test_a_straightened_mask_returns_to_its_tilted_slices(series):
    folder = series.write("tilted", SHAPE, LPS, shear_mm=0.9)
    straight = read_volume(folder, Reading(fix_geometry=True))
    array = np.zeros(straight.geometry.shape, np.uint8)
    array[10:20, 10:20, 3:9] = 1
    tilted = LabelMap(array, straight.geometry)
    with pytest.raises(GeometryError):
        written(folder, tilted, "dicom-seg")
    objects, out = written(folder, tilted, "dicom-seg", resample=True)
    back = read_labels(out / objects.files["dicom-seg"], onto=straight.geometry, names=LABELS)
    overlap = 2 * np.count_nonzero((back.array > 0) & (array > 0)) / (np.count_nonzero(back.array) + array.sum())
    assert overlap > 0.95


def test_an_empty_mask_gives_a_report_of_the_diagnosis_only(folder, mask):
    empty = LabelMap(np.zeros(SHAPE, np.uint8), mask.geometry)
    classes = (ClassAnswer(head="kind", probabilities={"a": 0.25, "b": 0.75}),)
    objects, out = written(folder, empty, "dicom-sr", classes=classes)
    assert objects.files == {"dicom-sr": "case.sr.dcm"}
    assert objects.flags[0].startswith("W-NO-SEGMENT")
    assert not (out / "case.seg.dcm").exists()
    objects, _ = written(folder, empty, "dicom-seg")
    assert objects.files == {}


def test_no_series_no_dicom(folder, mask):
    path = folder.parent / "x.nii.gz"
    write_labels(mask, path)
    with pytest.raises(InputError) as caught:
        open_series(path, Reading())
    assert caught.value.code == "E-NO-SERIES"


def test_a_series_of_one_file_needs_no_suffix(series):
    folder = series.write("e", (12, 12, 6), LPS, enhanced=True)
    path = (folder / "enhanced.dcm").rename(folder / "IM0001")
    assert len(open_series(path, Reading()).slices) == 6


def test_a_manifests_own_codes_come_first():
    own = {"liver": Term(type="99X 1 My liver", colour=(1, 2, 3))}
    terms = terms_of({"liver": 1, "spleen": 2}, Outputs(), own)
    assert (terms["liver"].type.meaning, terms["spleen"].type.value) == ("My liver", "78961009")
    with pytest.raises(UsageError, match="tooth"):
        terms_of({"tooth": 1}, Outputs())
    assert terms_of({"tooth": 1}, Outputs(private_codes=True))["tooth"].type.scheme == "99MEDSEG"


def test_ones_own_file_of_codes(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("terms:\n  tooth: {type: SCT 38199008 Tooth structure, colour: [240, 240, 230]}\n")
    assert terms_of({"tooth": 1}, Outputs(terminology=path))["tooth"].type.value == "38199008"


def test_algorithm_says_which_training():
    provenance = Provenance(medseg_version="0.3", created="", model="liver", weights_sha256="ab" * 32)
    algorithm = algorithm_of(provenance)
    assert (algorithm.name, algorithm.version) == ("liver", "0.3+abababababab")


def test_formats_as_words():
    assert Outputs(formats="nifti,dicom-sr").formats == ("nifti", "dicom-sr", "dicom-seg")
    assert Outputs(formats=["mha", "dicom-seg,mha"]).formats == ("mha", "dicom-seg")
    with pytest.raises(UsageError, match="dicom-seg"):
        Outputs.parse({"formats": "dicom"})


def request(folder, **changes):
    names = changes.pop("names", MaskRequest(labels=LABELS))
    outputs = changes.pop("outputs", Outputs(formats="dicom-seg,dicom-rtstruct,dicom-sr"))
    return ToDicomRequest(folder, names, outputs, **changes)


@pytest.fixture
def mask_file(folder, mask):
    path = folder.parent / "theirs.nii.gz"
    write_labels(mask, path)
    return path


def test_any_mask_goes_into_dicom(folder, mask_file):
    plan = plan_to_dicom(mask_file, request(folder))
    assert not list(folder.parent.glob("*.dcm"))
    assert [(label.label, label.code, label.is_lesion) for label in plan.labels] == [
        ("liver", "SCT 10200004", False),
        ("liver tumour", "SCT 108369006", True),
    ]
    made = to_dicom(mask_file, folder.parent / "out", request(folder))
    assert sorted(path.name for path in made.out.iterdir()) == sorted(plan.files)
    item = pydicom.dcmread(made.out / "theirs.seg.dcm").SegmentSequence[0]
    assert item.SegmentAlgorithmName == "unstated"
    drawn = ALGORITHM.model_copy(update={"kind": "MANUAL"})
    to_dicom(mask_file, folder.parent / "out", request(folder, algorithm=drawn))
    assert pydicom.dcmread(made.out / "theirs.seg.dcm").SegmentSequence[0].SegmentAlgorithmType == "MANUAL"


def test_one_object_becomes_another(folder, mask, mask_file):
    """A structure set is drawn as a segmentation, by the names it carries."""
    out = folder.parent / "out"
    to_dicom(mask_file, out, request(folder, outputs=Outputs(formats="dicom-rtstruct", per_lesion=False)))
    made = to_dicom(
        out / "theirs.rtstruct.dcm",
        out,
        request(folder, names=MaskRequest(), outputs=Outputs(formats="dicom-seg", per_lesion=False)),
    )
    back = read_labels(out / made.objects.files["dicom-seg"], onto=mask.geometry)
    np.testing.assert_array_equal(back.array, mask.array)


def test_measurements_carry_ids_over(folder, mask, mask_file):
    from medseg.clinical.measure import measure_structures

    rows = measure_structures(mask, labels=LABELS, lesions=["liver tumour"])
    report = CaseMeasurements(
        case="theirs",
        grid=GridSummary(shape=SHAPE, spacing_mm=(2, 2, 4), axis_codes="LAS"),
        measurements=tuple(row.model_copy(update={"tracking_uid": "2.25.99"}) for row in rows[1:2]),
        provenance=Provenance(medseg_version="0", created=""),
    )
    path = folder.parent / "theirs.measurements.json"
    path.write_text(report.to_json())
    made = to_dicom(mask_file, folder.parent, request(folder, measurements=path))
    assert made.objects.segments[1].tracking_uid == "2.25.99"


def test_only_dicom_formats(folder, mask_file):
    with pytest.raises(UsageError) as caught:
        to_dicom(mask_file, folder.parent, request(folder, outputs=Outputs(formats="nifti,dicom-seg")))
    assert caught.value.code == "E-OPTION"


def test_infer_writes_every_format_beside_the_mask(workspace, series, tmp_path):
    folder = series.write("scan", (20, 18, 10), np.diag([12.0, 12.0, 12.0, 1.0]))
    settings = InferSettings(backend="torch", formats="nifti,seg-nrrd,dicom-sr,dicom-rtstruct")
    made = infer(workspace.newest_bundle(), tmp_path / "out", settings, volumes=[folder])
    (prediction,) = made.predictions
    assert (prediction.case, prediction.mask) == ("scan", "scan.nii.gz")
    assert {"nifti", "seg-nrrd"} <= set(prediction.files)
    for file in prediction.files.values():
        assert (made.out / file).is_file()
    mask = read_labels(made.out / "scan.nii.gz")
    if mask.array.any():
        back = read_labels(made.out / "scan.seg.dcm", onto=mask.geometry, names=prediction.labels)
        np.testing.assert_array_equal(back.array, mask.array)
        data = pydicom.dcmread(made.out / "scan.seg.dcm")
        assert data.SegmentSequence[0].SegmentAlgorithmName == prediction.provenance.model
    report = srread(made.out / "scan.sr.dcm").content.get_image_measurement_groups()
    assert {group.tracking_identifier for group in report} == {answer.head for answer in prediction.classes}
    again = to_dicom(made.out / "scan.nii.gz", tmp_path / "again", request(folder, names=MaskRequest()))
    assert set(again.objects.files) <= {"dicom-seg", "dicom-rtstruct", "dicom-sr"}


def test_infer_refuses_what_cannot_be_written_before_it_predicts(workspace, series, tmp_path, monkeypatch):
    def never(*_):
        pytest.fail("predicted in vain")

    monkeypatch.setattr("medseg.engine.predict.Predictor.predict", never)
    settings = InferSettings(formats="dicom-seg")
    bare = series.write("scan", (12, 12, 6), LPS, change=lambda data: delattr(data, "FrameOfReferenceUID"))
    with pytest.raises(GeometryError, match="FrameOfReferenceUID"):
        infer(workspace.newest_bundle(), tmp_path, settings, volumes=[bare])
    bundle = tmp_path / "bundle"
    shutil.copytree(workspace.newest_bundle(), bundle)
    monkeypatch.setattr("medseg.workflows.dicom_out.packaged", lambda *_: _empty_table(tmp_path), raising=True)
    with pytest.raises(UsageError, match="organ") as caught:
        infer(bundle, tmp_path, settings, volumes=[bare])
    assert caught.value.code == "E-CODE"


def _empty_table(folder: Path) -> Path:
    path = folder / "none.yaml"
    path.write_text(json.dumps({"terms": {}}))
    return path


@pytest.mark.parametrize("name", ["dicom-seg", "dicom-rtstruct"])
def test_a_manifest_may_name_dicom_masks(folder, mask, name):
    objects, out = written(folder, mask, name)
    case = Case(id="case", images=(folder,), label=out / objects.files[name])
    dataset = Dataset(name="d", labels=LABELS, cases=(case,))
    seen = inspect_case(case, dataset)
    assert [finding.code for finding in seen.findings if finding.severity == "error"] == []
    reference = read_reference(case, dataset, onto=mask.geometry)
    np.testing.assert_array_equal(reference.array, mask.array)


@pytest.mark.real_data
def test_a_real_series_with_another_tools_mask(real_data, tmp_path):
    source, folder = real_data / "totalsegmentator" / "example_ct_dicom", tmp_path / "ct"
    folder.mkdir()
    for path in source.iterdir():  # its UIDs were blanked: a series without them is refused
        data = pydicom.dcmread(path)
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID = "2.25.1", "2.25.2"
        data.save_as(folder / path.name)
    mask = real_data / "totalsegmentator" / "example_seg_dicom.nii.gz"
    with pytest.raises(InputError) as caught:
        to_dicom(mask, tmp_path, request(source, names=MaskRequest()))
    assert caught.value.code == "E-SOURCE-UID"
    made = to_dicom(
        mask, tmp_path, request(folder, names=MaskRequest(), outputs=Outputs(formats="dicom-seg,dicom-rtstruct"))
    )
    expected = read_labels(mask)
    names = {label.label: label.value for label in made.plan.labels}
    assert len(names) == 31
    for file in made.objects.files.values():
        found = read_labels(tmp_path / file, onto=expected.geometry, names=names)
        np.testing.assert_array_equal(found.array, expected.array)
