"""Stored pixels become the modality's numbers: scales, inverted grey, padding, packed forms, damage."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import MPEG2MPML, JPEG2000Lossless, JPEGBaseline8Bit

from medseg.core.errors import InputError
from medseg.io import dicom_codecs
from medseg.io.volumes import read_volume


def setting(**values):
    def change(_index, data):
        for name, value in values.items():
            setattr(data, name, value)

    return change


def stored(slices):
    return slices.volume().astype(int) + 1024


def test_d06b_a_ct_without_rescale_is_flagged(slices):
    """Row D06b: the numbers stay as stored, and are not called Hounsfield units."""

    def change(_index, data):
        del data.RescaleSlope, data.RescaleIntercept

    volume = read_volume(slices.series(change))
    np.testing.assert_array_equal(volume.array[0], stored(slices))
    assert (volume.warnings, volume.unit) == (("W-RESCALE",), None)
    assert read_volume(slices.series(folder="t")).unit == "HU"
    assert read_volume(slices.series(setting(RescaleType="US"), folder="u")).unit is None


@pytest.mark.parametrize("modality", ["MR", "US", "DX"])
def test_d26_an_inverted_grey_scale_is_turned_round(slices, modality):
    """Row D26: 13 bits unsigned, so the value v was stored as 8191 - v."""
    change = setting(
        PhotometricInterpretation="MONOCHROME1", Modality=modality, BitsStored=13, HighBit=12, RescaleIntercept=0
    )
    volume = read_volume(slices.series(change))
    np.testing.assert_array_equal(volume.array[0], 8191 - stored(slices))
    assert volume.warnings == ("W-PHOTOMETRIC",)


def test_d26_signed_numbers_are_turned_round_within_their_range(slices):
    change = setting(PhotometricInterpretation="MONOCHROME1", Modality="MR", PixelRepresentation=1, RescaleIntercept=0)
    volume = read_volume(slices.series(change))
    np.testing.assert_array_equal(volume.array[0], -1 - stored(slices))


def test_d26_measurements_keep_their_numbers(slices):
    """A PET is drawn black on white by many; its activities are not."""
    change = setting(PhotometricInterpretation="MONOCHROME1", Modality="PT", RescaleIntercept=0, Units="BQML")
    volume = read_volume(slices.series(change))
    np.testing.assert_array_equal(volume.array[0], stored(slices))
    assert (volume.warnings, volume.unit) == (("W-PHOTOMETRIC",), "BQML")


def test_d35_padding_outside_a_ct_becomes_the_smallest_value_of_its_slice(slices):
    def change(index, data):
        values = stored(slices)[:, :, index].T.copy()
        values[:3] = 65535
        data.Modality, data.RescaleIntercept = "MR", 0
        data.add_new((0x0028, 0x0120), "US", 65535)
        data.PixelData = values.astype(np.uint16).tobytes()

    volume = read_volume(slices.series(change))
    for index in range(16):
        rest = stored(slices)[:, 3:, index]
        assert (volume.array[0, :, :3, index] == rest.min()).all()
        np.testing.assert_array_equal(volume.array[0, :, 3:, index], rest)
    assert volume.warnings == (f"W-PADDING: {3 * 32 * 16} pixels",)


def test_d35_padding_that_is_background_already_stays(slices):
    def change(index, data):
        values = stored(slices)[:, :, index].T + 7
        values[:3] = 0
        data.Modality, data.RescaleIntercept = "MR", 0
        data.add_new((0x0028, 0x0120), "US", 0)
        data.PixelData = values.astype(np.uint16).tobytes()

    volume = read_volume(slices.series(change))
    assert (volume.array[0, :, :3] == 0).all()
    assert volume.warnings == ()


def test_d35_a_range_of_padding_values(slices):
    def change(_index, data):
        data.add_new((0x0028, 0x0120), "US", 3900)
        data.add_new((0x0028, 0x0121), "US", 4100)

    volume = read_volume(slices.series(change))
    assert volume.array.max() < 100
    assert volume.array[0, 20, 10, 8] == -1024


def test_numbers_of_32_bits_do_not_wrap(slices):
    def change(index, data):
        data.BitsAllocated, data.BitsStored, data.HighBit, data.RescaleIntercept = 32, 32, 31, 0
        data.Modality = "NM"
        data.PixelData = (stored(slices)[:, :, index].T.astype(np.uint32) << 20).tobytes()

    volume = read_volume(slices.series(change))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], stored(slices) * 2.0**20)


def test_numbers_beyond_16_bits_signed_are_kept(slices):
    volume = read_volume(slices.series(setting(RescaleIntercept=40_000)))
    np.testing.assert_array_equal(volume.array[0], stored(slices) + 40_000)


def test_a_modality_lookup_table_is_applied(slices):
    def change(_index, data):
        del data.RescaleSlope, data.RescaleIntercept
        data.Modality = "DX"
        table = Dataset()
        table.LUTDescriptor, table.ModalityLUTType = [4025, 0, 16], "OD"
        table.LUTData = [3 * value for value in range(4025)]
        data.ModalityLUTSequence = Sequence([table])
        data["ModalityLUTSequence"][0]["LUTDescriptor"].VR = "US"
        data["ModalityLUTSequence"][0]["LUTData"].VR = "US"

    volume = read_volume(slices.series(change))
    np.testing.assert_array_equal(volume.array[0], 3 * stored(slices))


def gamma_camera(slices, *, step=2.5, order=range(1, 17), pointer=0x00540080):
    """A reconstructed volume in one object: frames without places, the first one's in the detector."""
    data = slices.slice(1, np.zeros((4, 4)), 0)
    data.Modality, data.Rows, data.Columns, data.NumberOfFrames = "NM", 40, 32, 16
    data.PixelData = (
        stored(slices)[:, :, [number - 1 for number in order]].transpose(2, 1, 0).astype(np.uint16).tobytes()
    )
    detector = Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = [-30, -20, -50], [1, 0, 0, 0, 1, 0]
    del data.ImagePositionPatient, data.ImageOrientationPatient
    data.DetectorInformationSequence = Sequence([detector])
    data.FrameIncrementPointer, data.SliceVector = pointer, list(order)
    if step is not None:
        data.SpacingBetweenSlices = step
    return slices.save(data, slices.folder / "nm.dcm")


@pytest.mark.parametrize("order", [range(1, 17), range(16, 0, -1)])
def test_frames_of_a_gamma_camera_are_stacked(slices, order):
    volume = read_volume(gamma_camera(slices, order=order))
    np.testing.assert_array_equal(volume.array[0], slices.volume())
    index = np.unravel_index(int(volume.array[0].argmax()), volume.geometry.shape)
    np.testing.assert_allclose(volume.geometry.to_world(index), slices.marker_ras, atol=0.01)


def test_a_negative_distance_stacks_against_the_normal(slices):
    """The marker's frame is the ninth: 8 x 2.5 mm below the first, at -70 mm."""
    volume = read_volume(gamma_camera(slices, step=-2.5))
    index = np.unravel_index(int(volume.array[0].argmax()), volume.geometry.shape)
    np.testing.assert_allclose(volume.geometry.to_world(index), [14, 12, -70], atol=0.01)


@pytest.mark.parametrize(
    "values", [{"step": None}, {"step": 0}, {"pointer": 0x00540010}, {"order": [1, 1, *range(3, 17)]}]
)
def test_frames_whose_place_is_open_are_refused(slices, values):
    with pytest.raises(InputError) as caught:
        read_volume(gamma_camera(slices, **values))
    assert caught.value.code == "E-NO-ORIENTATION"


def in_place(name, tmp_path):
    """One of pydicom's test images, laid into the patient; and what it stores, by pydicom's own choice of decoder."""
    data = pydicom.dcmread(get_testdata_file(name, download=False))
    expected = data.pixel_array.astype(float)
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness, data.Modality = [1, 1], 2, "MR"
    data.save_as(tmp_path / "x.dcm")
    return tmp_path / "x.dcm", expected.T * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))


PACKED = (
    "JPEG2000.dcm",
    "JPEGLSNearLossless_08.dcm",
    "JPEGLSNearLossless_16.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "image_dfl.dcm",
)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("name", PACKED)
def test_packed_forms_are_unpacked(tmp_path, name):
    path, expected = in_place(name, tmp_path)
    np.testing.assert_allclose(read_volume(path).array[0, :, :, 0], expected, atol=1)


def test_lossless_jpeg(slices):
    """The form that most scanners and archives use."""
    gdcm = pytest.importorskip("gdcm")
    # where these are missing, GDCM makes up others for every file
    folder = slices.series(setting(StudyInstanceUID="1.2.3.1", FrameOfReferenceUID="1.2.3.2"))
    for path in sorted(folder.iterdir()):
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(path))
        assert writer.Write()
    assert pydicom.dcmread(folder / "s_000.dcm").file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    np.testing.assert_array_equal(read_volume(folder).array[0], slices.volume())


def test_baseline_jpeg(slices):
    def change(_index, data):
        packed = io.BytesIO()
        grey = (np.frombuffer(data.PixelData, np.uint16).reshape(40, 32) // 16).astype(np.uint8)
        Image.fromarray(grey).save(packed, "JPEG", quality=100)
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data.PixelData = encapsulate([packed.getvalue()])
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        data.RescaleIntercept = 0

    volume = read_volume(slices.series(change))
    np.testing.assert_allclose(volume.array[0], stored(slices) // 16, atol=3)


def packed_as(syntax):
    def change(index, data):
        data.PixelData = encapsulate([bytes(64)])
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = syntax

    return change


def test_a_missing_decoder_is_named(slices, monkeypatch):
    monkeypatch.setitem(dicom_codecs._DECODERS, str(JPEG2000Lossless), ((), "some-decoder"))
    with pytest.raises(InputError, match=r"JPEG 2000.*Run: pip install some-decoder") as caught:
        read_volume(slices.series(packed_as(JPEG2000Lossless)))
    assert caught.value.code == "E-CODEC"


@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPGExtended.dcm"])
def test_twelve_bits_of_lossy_jpeg_need_another_package(tmp_path, name, monkeypatch):
    """Only pylibjpeg-libjpeg unpacks them, whose licence (GPL) keeps it out of what medseg requires."""
    monkeypatch.setattr(dicom_codecs, "_JPEG_12_BITS", ((), "pylibjpeg pylibjpeg-libjpeg"))
    data = pydicom.dcmread(get_testdata_file(name, download=False))
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [1, 1], 2
    data.save_as(tmp_path / "x.dcm")
    with pytest.raises(InputError, match="pip install pylibjpeg pylibjpeg-libjpeg") as caught:
        read_volume(tmp_path / "x.dcm")
    assert caught.value.code == "E-CODEC"


def test_films_are_refused(slices):
    with pytest.raises(InputError, match=r"MPEG2.*Export it uncompressed") as caught:
        read_volume(slices.series(packed_as(MPEG2MPML)))
    assert caught.value.code == "E-CODEC"


def test_every_still_picture_form_of_the_standard_has_a_decoder():
    from pydicom.pixels import get_decoder

    for syntax, (preferred, package) in dicom_codecs._DECODERS.items():
        assert package
        assert set(preferred) & set(get_decoder(pydicom.uid.UID(syntax)).available_plugins), syntax


def ball(slices, damage=None):
    """A smooth body, JPEG 2000 without loss; `damage` edits the packed bytes of the seventh slice."""
    i, j, k = np.indices((32, 40, 16))
    body = (800 * np.exp(-((i - 15) ** 2 + (j - 20) ** 2) / 80 - (k - 8) ** 2 / 60)).astype(np.uint16)
    body += np.random.default_rng(2).integers(0, 8, body.shape).astype(np.uint16)

    def change(index, data):
        packed = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(body[:, :, index].T)).save(packed, "JPEG2000", irreversible=False)
        code = packed.getvalue()
        data.PixelData = encapsulate([damage(code) if damage and index == 6 else code])
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = JPEG2000Lossless

    return slices.series(change)


def test_d19_damage_in_packed_pixels_is_flagged(slices):
    """Row D19: no decoder notices; the slice is unlike its neighbours."""

    def damage(code):
        middle = len(code) // 2
        return code[:middle] + np.random.default_rng(1).bytes(20) + code[middle + 20 :]

    assert read_volume(ball(slices)).warnings == ()
    assert "W-SLICE" in read_volume(ball(slices, damage)).warnings


def test_a_foreign_slice_is_flagged(slices):
    folder = ball(slices)
    data, other = pydicom.dcmread(folder / "s_001.dcm"), pydicom.dcmread(folder / "s_008.dcm")
    data.PixelData = other.PixelData
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.save_as(folder / "s_001.dcm")
    assert read_volume(folder).warnings == ("W-SLICE",)
