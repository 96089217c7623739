"""DICOM series by the name of their fault: read with the marker where it belongs, or refused with its code."""

from __future__ import annotations

import io
import shutil
import warnings
import zipfile

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from medseg.core.errors import InputError
from medseg.core.reading import Reading
from medseg.io.dicom_series import list_series
from medseg.io.volumes import read_volume


def setting(**values):
    def change(_index, data):
        for name, value in values.items():
            setattr(data, name, value)

    return change


def stored(data):
    return np.frombuffer(data.PixelData, np.uint16)


def compressed(syntax):
    def change(_index, data):
        data.compress(syntax)

    return change


def jpeg_2000(_index, data):
    packed = io.BytesIO()
    Image.fromarray(stored(data).reshape(40, 32)).save(packed, "JPEG2000", irreversible=False)
    data.PixelData = encapsulate([packed.getvalue()])
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless


def half_signed(index, data):
    if index % 2:
        hu = stored(data).astype(int) - 1024
        data.PixelRepresentation, data.RescaleIntercept = 1, 0
        data.PixelData = hu.astype(np.int16).tobytes()


def dirty_high_bits(_index, data):
    data.BitsStored, data.HighBit = 13, 12
    data.PixelData = (stored(data) | 0xA000).astype(np.uint16).tobytes()


def sagittal(index, data):
    data.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    data.ImagePositionPatient = [-50 + 2.5 * index, -20, 30]


def feet_first(index, data):
    data.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
    data.ImagePositionPatient = [30, 20, -50 + 2.5 * index]


def with_localizer(slices):
    folder = slices.series()
    data = slices.slice(99, np.full((64, 64), 500), 0)
    data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    data.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    slices.save(data, folder / "localizer.dcm")
    return folder


def with_own_localizer_series(slices):
    folder = slices.series()
    data = slices.slice(99, np.full((64, 64), 500), 0, uid="1.2.3.9")
    data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    slices.save(data, folder / "localizer.dcm")
    return folder


def among_others(slices):
    folder = slices.series()
    (folder / "README.txt").write_text("hi")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "empty").write_bytes(b"")
    (folder / "below").mkdir()
    shutil.move(folder / "s_003.dcm", folder / "below" / "IM3")
    return folder


def with_report(slices):
    folder = slices.series()
    data = slices.slice(1, np.zeros((4, 4)), 0, uid="1.2.3.8")
    for name in ("PixelData", "Rows", "Columns"):
        delattr(data, name)
    data.Modality, data.SOPClassUID = "SR", "1.2.840.10008.5.1.4.1.1.88.33"
    slices.save(data, folder / "report.dcm")
    return folder


def copied(slices, *, new_uid):
    folder = slices.series()
    if not new_uid:
        shutil.copy(folder / "s_004.dcm", folder / "copy.dcm")
        return folder
    data = pydicom.dcmread(folder / "s_004.dcm")
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    slices.save(data, folder / "copy.dcm")
    return folder


def without_preamble(slices):
    folder = slices.series()
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    return folder


def as_zip(slices):
    folder = slices.series()
    with zipfile.ZipFile(slices.folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, path in enumerate(sorted(folder.iterdir())):
            archive.write(path, f"study/{number}/IM.dcm")
    return slices.folder / "x.zip"


def enhanced(slices):
    """The series as one file; positions and scales lie in the functional groups."""
    volume = slices.volume()
    data = slices.slice(1, volume[:, :, 0].T, -50)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(data, name)
    del data.RescaleSlope, data.RescaleIntercept
    data.NumberOfFrames = 16
    data.PixelData = (volume.transpose(2, 1, 0).astype(int) + 1024).astype(np.uint16).tobytes()
    shared, orientation, measures, scale = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.8], 2.5
    scale.RescaleSlope, scale.RescaleIntercept = 1, -1024
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([scale])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for index in range(16):
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = [-30, -20, -50 + 2.5 * index]
        group.PlanePositionSequence = Sequence([position])
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return slices.save(data, slices.folder / "enhanced.dcm")


VALID = {
    "D00": lambda s: s.series(),
    "D02": lambda s: copied(s, new_uid=True),
    "D02b": lambda s: copied(s, new_uid=False),
    "D08": lambda s: s.series(half_signed),
    "D09": lambda s: s.series(dirty_high_bits),
    "D12": with_localizer,
    "D12-series": with_own_localizer_series,
    "D14": lambda s: s.series(lambda index, data: setattr(data, "InstanceNumber", 16 - index)),
    "D15": among_others,
    "D17": without_preamble,
    "D18": lambda s: s.series(compressed(RLELossless)),
    "D18b": lambda s: s.series(jpeg_2000),
    "D18-jpegls": lambda s: s.series(compressed(JPEGLSLossless)),
    "D20": lambda s: s.series(setting(SeriesInstanceUID="../../..evil")),
    "D24b": lambda s: s.series(lambda i, data: setattr(data, "ImageOrientationPatient", [1, 1e-5 * i, 0, 0, 1, 0])),
    "D29-small": lambda s: s.series(
        lambda _, data: setattr(data.file_meta, "TransferSyntaxUID", DeflatedExplicitVRLittleEndian)
    ),
    "D32": lambda s: s.series(setting(SliceThickness=5)),
    "D33": lambda s: s.series(setting(SOPInstanceUID="1.2.3.77")),
    "D37": lambda s: s.series(sagittal),
    "D41": lambda s: s.series(feet_first),
    "D43": with_report,
    "zip": as_zip,
    "enhanced": enhanced,
}
FLAGS = {
    "D02": "W-DUPLICATE",
    "D02b": "W-DUPLICATE",
    "D12": "W-LOCALIZER",
    "D15": "W-IGNORED: 3 file(s) that are no images",
    "D32": "W-OVERLAP",
    "D33": "W-UID",
    "D43": "W-IGNORED: 1 file(s) that are no images",
}
MARKERS = {"D37": np.array([30.0, 4.0, 22.0]), "D41": np.array([-14.0, -12.0, -30.0])}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("row", VALID)
def test_valid_is_read(slices, row):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = VALID[row](slices)
    volume = read_volume(path)
    index = np.unravel_index(int(volume.array[0].argmax()), volume.geometry.shape)
    np.testing.assert_allclose(volume.geometry.to_world(index), MARKERS.get(row, slices.marker_ras), atol=0.01)
    expected = slices.volume()
    np.testing.assert_array_equal(volume.array[0], expected[:, :, ::-1] if row == "D37" else expected)
    assert volume.array.dtype == np.int16
    assert volume.warnings == ((FLAGS[row],) if row in FLAGS else ())


def test_a_zip_is_read_without_unpacking_it(slices):
    read_volume(as_zip(slices))
    assert sorted(path.name for path in slices.folder.iterdir()) == ["s", "x.zip"]


def test_d23_a_single_slice_is_as_thick_as_it_says(slices):
    volume = read_volume(slices.series(num_slices=1) / "s_000.dcm")
    assert volume.geometry.shape == (32, 40, 1)
    assert volume.geometry.spacing_mm == pytest.approx((0.8, 0.8, 2.5))
    assert volume.warnings == ("W-SMALL",)


def test_d06_every_slice_has_its_own_scale(slices):
    def scale(index, data):
        data.RescaleSlope, data.RescaleIntercept = 1 + 0.5 * index, -1024 * (1 + 0.5 * index)

    volume = read_volume(slices.series(scale))
    np.testing.assert_array_equal(volume.array[0], slices.volume() * (1 + 0.5 * np.arange(16)))
    assert volume.array.dtype == np.float32


def test_d35_padding_of_a_ct_becomes_air(slices):
    def pad(_index, data):
        hu = stored(data).astype(int).reshape(40, 32) - 1024
        hu[:3] = -2000
        data.PixelRepresentation, data.RescaleIntercept = 1, 0
        data.add_new((0x0028, 0x0120), "SS", -2000)
        data.PixelData = hu.astype(np.int16).tobytes()

    volume = read_volume(slices.series(pad))
    assert (volume.array[0, :, :3] == -1024).all()
    np.testing.assert_array_equal(volume.array[0, :, 3:], slices.volume()[:, 3:])
    assert volume.warnings == (f"W-PADDING: {3 * 32 * 16} pixels",)


def test_d04_several_series_are_listed_and_chosen(slices):
    folder = slices.series()
    slices.series(uid="1.2.3.4", folder="t", heights=[100 + 5 * index for index in range(8)])
    shutil.copytree(slices.folder / "t", folder / "t")
    listed = list_series(folder)
    assert [(one.number, one.uid, one.num_files) for one in listed] == [(1, slices.series_uid, 16), (2, "1.2.3.4", 8)]
    with pytest.raises(InputError, match=r"1: CT, 16 file\(s\) of 32x40; 2: CT.*--series") as caught:
        read_volume(folder)
    assert caught.value.code == "E-SERIES"
    assert read_volume(folder, Reading(series="2")).geometry.spacing_mm[2] == pytest.approx(5)
    assert read_volume(folder, Reading(series="1.2.3.4")).geometry.shape[2] == 8
    with pytest.raises(InputError) as unknown:
        read_volume(folder, Reading(series="3"))
    assert unknown.value.code == "E-SERIES"


def test_remarks_of_a_decoder_become_a_flag(slices, monkeypatch):
    def remarking(*arguments, **options):
        warnings.warn("codestream is odd", UserWarning, stacklevel=2)
        return original(*arguments, **options)

    original = pydicom.pixels.pixel_array
    monkeypatch.setattr(pydicom.pixels, "pixel_array", remarking)
    assert read_volume(slices.series()).warnings == ("W-DECODE",)


def test_a_deflated_series_may_be_larger_than_its_files(slices):
    def empty(_index, data):
        data.PixelData = bytes(len(data.PixelData) - 2) + b"\1\0"
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    assert read_volume(slices.series(empty)).array.max() == -1023
