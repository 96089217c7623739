"""Faults of a DICOM series that would move or change voxels: each refused with its code, some repaired on request."""

from __future__ import annotations

import time
import warnings
import zipfile

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless, generate_uid

from medseg.core.errors import InputError
from medseg.core.reading import Reading
from medseg.io.volumes import read_volume

TILT = np.tan(np.deg2rad(15))


def setting(**values):
    def change(_index, data):
        for name, value in values.items():
            setattr(data, name, value)

    return change


def lacking(*names):
    def change(_index, data):
        for name in names:
            delattr(data, name)

    return change


def without(*numbers):
    return lambda index, _data: index not in numbers


def tilted(index, data):
    data.ImagePositionPatient = [-30, -20 + 2.5 * index * TILT, -50 + 2.5 * index]


def in_second_half(**values):
    return lambda index, data: setting(**values)(index, data) if index >= 8 else None


def edited(slices, edit, name="s_006.dcm"):
    folder = slices.series()
    (folder / name).write_bytes(edit((folder / name).read_bytes()))
    return folder


def conflicting_copy(slices):
    folder = slices.series()
    data = pydicom.dcmread(folder / "s_004.dcm")
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.PixelData = (np.frombuffer(data.PixelData, np.uint16) + 1).astype(np.uint16).tobytes()
    slices.save(data, folder / "copy.dcm")
    return folder


def two_phases(slices):
    for phase in (1, 2):
        slices.series(setting(TemporalPositionIdentifier=phase, AcquisitionNumber=phase), folder=f"phase{phase}")
    return slices.folder


def decimal_comma(slices):
    folder = slices.series()
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"0.8\\0.8 ", b"0,8\\0,8 "))
    return folder


def colours(index, data):
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = bytes(40 * 32 * 3)


def deflated_bomb(index, data):
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    if index == 0:
        data.add_new((0x0099, 0x1001), "OB", bytes(80 << 20))


def deflated_and_cut(slices):
    folder = slices.series(deflated, num_slices=2)
    data = (folder / "s_000.dcm").read_bytes()
    (folder / "s_000.dcm").write_bytes(data[: len(data) // 2])
    return folder


def deflated_and_damaged(slices):
    folder = slices.series(deflated, num_slices=2)
    data = bytearray((folder / "s_000.dcm").read_bytes())
    data[144 + int.from_bytes(data[140:144], "little")] = 0xFF
    (folder / "s_000.dcm").write_bytes(data)
    return folder


def deflated(_index, data):
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def nested(slices):
    depth = 2000
    opened = b"\x99\0\x10\0LO\x04\0TEST" + b"\x99\0\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * depth
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * depth

    def edit(data):
        at = data.index(b"\xe0\x7f\x10\0OW")
        return data[:at] + opened + closed + data[at:]

    return edited(slices, edit)


def other_size(index, data):
    if index == 3:
        data.Rows, data.PixelData = 20, data.PixelData[: 20 * 32 * 2]


def empty(slices):
    (slices.folder / "s").mkdir()
    return slices.folder / "s"


def broken_zip(slices):
    folder = slices.series()
    with zipfile.ZipFile(slices.folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "s_000.dcm", "a.dcm")
    data = bytearray((slices.folder / "x.zip").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (slices.folder / "x.zip").write_bytes(data)
    return slices.folder / "x.zip"


def zip_slip(slices):
    folder = slices.series()
    with zipfile.ZipFile(slices.folder / "x.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"../../{path.name}")
    return slices.folder / "x.zip"


def zip_bomb(slices):
    with zipfile.ZipFile(slices.folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(100 << 20))
    return slices.folder / "x.zip"


def frames_without_places(slices):
    data = slices.slice(1, np.zeros((80, 32)), 0)
    data.Rows, data.NumberOfFrames = 40, 2
    return slices.save(data, slices.folder / "x.dcm")


def frames_half_described(slices):
    data = slices.slice(1, np.zeros((80, 32)), 0)
    data.Rows, data.NumberOfFrames = 40, 2
    data.PerFrameFunctionalGroupsSequence = Sequence([Dataset()])
    return slices.save(data, slices.folder / "x.dcm")


def only_a_report(slices):
    data = slices.slice(1, np.zeros((4, 4)), 0)
    lacking("PixelData", "Rows", "Columns")(0, data)
    return slices.save(data, slices.folder / "report.dcm")


def renamed(slices):
    return (slices.series(num_slices=1) / "s_000.dcm").rename(slices.folder / "x.nii.gz")


def damaged_rle(index, data):
    data.compress(RLELossless)
    if index == 6:
        data.PixelData = data.PixelData[:200] + b"\0" * (len(data.PixelData) - 200)


REFUSED = {
    "D01": ("E-SERIES-GAP", lambda s: s.series(without(5))),
    "D01b": ("E-SERIES-GAP", lambda s: s.series(without(4, 5, 6))),
    "D02-other": ("E-SERIES-DUP", conflicting_copy),
    "D03": (
        "E-SERIES-SPACING",
        lambda s: s.series(heights=[-50 + 2.5 * k if k < 8 else -30 + 5 * (k - 8) for k in range(16)]),
    ),
    "D03-drift": ("E-SERIES-SPACING", lambda s: s.series(heights=[-50 + 2.5 * k * (1 + 0.004 * k) for k in range(16)])),
    "D03-sideways": (
        "E-SERIES-SPACING",
        lambda s: s.series(lambda k, d: setattr(d, "ImagePositionPatient", [-30 + 2 * (k == 8), -20, -50 + 2.5 * k])),
    ),
    "D05": ("E-GEOM-SHEAR", lambda s: s.series(tilted)),
    "D13": ("E-NO-ORIENTATION", lambda s: s.series(lacking("ImagePositionPatient"))),
    "D13b": ("E-NO-ORIENTATION", lambda s: s.series(lacking("ImageOrientationPatient"))),
    "D16": ("E-SHORT-DATA", lambda s: edited(s, lambda data: data[: int(len(data) * 0.6)])),
    "D16b": ("E-EMPTY", lambda s: edited(s, lambda _data: b"")),
    "D22": ("E-NO-DICOM", empty),
    "D24": ("E-SERIES-IOP", lambda s: s.series(in_second_half(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]))),
    "D24c": ("E-GEOM-SINGULAR", lambda s: s.series(setting(ImageOrientationPatient=[0] * 6))),
    "D25": ("E-SPACING", lambda s: s.series(lacking("PixelSpacing"))),
    "D25b": ("E-SPACING", lambda s: s.series(setting(PixelSpacing=[0, 0]))),
    "D25c": ("E-SPACING", decimal_comma),
    "D25-mixed": ("E-SERIES-SPACING", lambda s: s.series(in_second_half(PixelSpacing=[0.7, 0.7]))),
    "D26": ("E-PHOTOMETRIC", lambda s: s.series(setting(PhotometricInterpretation="MONOCHROME1"))),
    "D27": ("E-RGB", lambda s: s.series(colours)),
    "D28": ("E-SERIES-4D", two_phases),
    "D29": ("E-TOO-LARGE", lambda s: s.series(deflated_bomb, num_slices=2)),
    "D29-cut": ("E-GZ-TRUNC", deflated_and_cut),
    "D29-damaged": ("E-GZ-CRC", deflated_and_damaged),
    "D30": ("E-NESTING", nested),
    "D31": ("E-SHORT-DATA", lambda s: s.series(setting(Rows=80))),
    "D31b": ("E-SIZE-MISMATCH", lambda s: s.series(setting(Rows=65535, Columns=65535), num_slices=3)),
    "D36": ("E-SIZE-MISMATCH", lambda s: s.series(setting(NumberOfFrames=100000), num_slices=3)),
    "D42": ("E-NO-PIXELS", lambda s: s.series(lacking("PixelData"))),
    "F40": ("E-EXT-MISMATCH", renamed),
    "D-no-thickness": ("E-SPACING", lambda s: s.series(lacking("SliceThickness"), num_slices=1)),
    "D-no-bits": ("E-DIMS", lambda s: edited(s, lambda data: data.replace(b"\x28\0\0\1US", b"\x28\0\7\1US"))),
    "D-zero-rows": ("E-DIMS", lambda s: s.series(setting(Rows=0))),
    "D-sizes": ("E-SERIES-SIZE", lambda s: s.series(other_size)),
    "D-nan": ("E-GEOM-NONFINITE", lambda s: s.series(setting(ImageOrientationPatient=["nan", 0, 0, 0, 1, 0]))),
    "D-short-place": ("E-DICOM", lambda s: s.series(setting(ImagePositionPatient=[1, 2]))),
    "D-rle": ("E-DICOM", lambda s: s.series(damaged_rle)),
    "D-frames": ("E-NO-ORIENTATION", frames_without_places),
    "D-described": ("E-SIZE-MISMATCH", frames_half_described),
    "D-report": ("E-NO-DICOM", only_a_report),
    "zip-broken": ("E-ZIP", broken_zip),
    "zip-slip": ("E-PATH-ESCAPE", zip_slip),
    "zip-bomb": ("E-TOO-LARGE", zip_bomb),
    "not-dicom": ("E-NOT-DICOM", lambda s: edited(s, lambda _data: b"x" * 900) / "s_006.dcm"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_bad_is_refused_with_its_code(slices, little_memory, row):
    code, make = REFUSED[row]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = make(slices)
    began = time.process_time()
    with pytest.raises(InputError) as caught, little_memory():
        read_volume(path)
    assert caught.value.code == code
    assert caught.value.remedy
    assert time.process_time() - began < 2


@pytest.mark.parametrize("row", ["D16", "D16b"])
def test_the_broken_slice_is_named(slices, row):
    with pytest.raises(InputError, match=r"s_006\.dcm"):
        read_volume(REFUSED[row][1](slices))


def test_missing_places_are_listed(slices):
    with pytest.raises(InputError, match=r"3 slice\(s\) are missing, at -40.00, -37.50, -35.00 mm"):
        read_volume(slices.series(without(4, 5, 6)))


def test_d01_gaps_are_filled_on_request(slices):
    volume = read_volume(slices.series(without(5)), Reading(fix_geometry=True))
    expected = slices.volume().astype(np.float32)
    expected[:, :, 5] = (expected[:, :, 4] + expected[:, :, 6]) / 2
    np.testing.assert_allclose(volume.array[0], expected, atol=1e-3)
    assert volume.geometry.spacing_mm[2] == pytest.approx(2.5)
    assert volume.warnings == ("W-GAPS-FILLED",)


def test_d05_gantry_tilt_is_straightened_on_request(slices):
    """The marker's true place follows from its own slice's position; linear shifting may cost half a voxel."""
    volume = read_volume(slices.series(tilted), Reading(fix_geometry=True))
    index = np.unravel_index(int(volume.array[0].argmax()), volume.geometry.shape)
    truth = slices.marker_ras - [0, 8 * 2.5 * TILT, 0]
    assert np.abs(volume.geometry.to_world(index) - truth).max() <= 0.5 * 0.8 + 1e-6
    assert volume.geometry.axis_codes == "LPS"
    assert "W-TILT-STRAIGHTENED" in volume.warnings
    assert volume.geometry.shape[1] == 40 + int(np.ceil(15 * 2.5 * TILT / 0.8))


def test_d03_uneven_steps_are_evened_on_request(slices):
    """2.5 mm below, 5 mm above: every place that was imaged keeps its values, the others lie halfway."""
    heights = [-50 + 2.5 * k if k < 8 else -32.5 + 5 * (k - 7) for k in range(16)]
    volume = read_volume(slices.series(heights=heights), Reading(fix_geometry=True))
    assert volume.geometry.spacing_mm[2] == pytest.approx(2.5)
    assert volume.warnings == ("W-GAPS-FILLED",)
    imaged = [*range(8), *range(9, 25, 2)]
    np.testing.assert_allclose(volume.array[0][:, :, imaged], slices.volume(), atol=1e-3)
    between = (volume.array[0][:, :, 7:22:2] + volume.array[0][:, :, 9:24:2]) / 2
    np.testing.assert_allclose(volume.array[0][:, :, 8:23:2], between, atol=1e-3)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("E-SERIES-GAP", lambda k, d: setattr(d, "ImagePositionPatient", [-30, -20, 2.5 * k + 1e6 * (k == 15)])),
        ("E-GEOM-SHEAR", lambda k, d: setattr(d, "ImagePositionPatient", [-30, -20 + 1e4 * k, 2.5 * k])),
    ],
)
def test_what_would_be_mostly_invented_is_not_repaired(slices, little_memory, code, change):
    folder = slices.series(change)
    with pytest.raises(InputError) as caught, little_memory():
        read_volume(folder, Reading(fix_geometry=True))
    assert caught.value.code == code


def test_an_even_series_is_the_same_with_repair(slices):
    folder = slices.series()
    plain, repaired = read_volume(folder), read_volume(folder, Reading(fix_geometry=True))
    np.testing.assert_array_equal(plain.array, repaired.array)
    assert plain.geometry.deviation_mm(repaired.geometry) < 1e-9
    assert repaired.warnings == ()


def test_repair_leaves_a_single_slice(slices):
    assert read_volume(slices.series(num_slices=1), Reading(fix_geometry=True)).geometry.shape == (32, 40, 1)
