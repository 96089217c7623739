"""What is listed of a folder, and what stands for one."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from medseg.core.errors import InputError
from medseg.core.reading import Reading
from medseg.io.dicom_series import list_series
from medseg.io.volumes import read_volume


def listed(folder):
    (one,) = list_series(folder)
    return one


def test_a_series_is_described_from_its_headers(slices):
    one = listed(slices.series())
    assert (one.number, one.uid, one.modality, one.description) == (1, slices.series_uid, "CT", "thorax")
    assert (one.num_files, one.columns, one.rows, one.num_slices) == (16, 32, 40, 16)
    assert one.spacing_mm == pytest.approx((0.8, 0.8, 2.5))
    assert (one.phases, one.is_localizer, one.fault) == ((), False, None)


def test_phases_are_listed(slices):
    for echo in (4.6, 11.5):
        slices.series(lambda _, data, echo=echo: setattr(data, "EchoTime", echo), folder=f"echo{echo}")
    one = listed(slices.folder)
    assert one.phases == ("1: EchoTime 4.6 (16 slices)", "2: EchoTime 11.5 (16 slices)")
    assert (one.num_files, one.num_slices, one.fault) == (32, 16, "E-SERIES-4D")


FAULTS = {
    "E-SERIES-GAP": lambda index, _data: index not in {5, 6},
    "E-GEOM-SHEAR": lambda index, data: setattr(data, "ImagePositionPatient", [-30, index, -50 + 2.5 * index]),
    "E-NO-ORIENTATION": lambda _index, data: delattr(data, "ImagePositionPatient"),
    "E-RGB": lambda _index, data: setattr(data, "SamplesPerPixel", 3),
    "E-SERIES-IOP": lambda index, data: index < 8 or setattr(data, "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]),
}


@pytest.mark.parametrize("code", FAULTS)
def test_what_would_refuse_a_series_is_listed(slices, code):
    change = FAULTS[code]

    def edit(index, data):
        return False if code == "E-SERIES-GAP" and not change(index, data) else change(index, data) and None

    folder = slices.series(edit)
    assert listed(folder).fault == code
    with pytest.raises(InputError) as caught:
        read_volume(folder)
    assert caught.value.code == code


def test_mixed_orientations_are_refused_with_a_list(slices):
    folder = slices.series(
        lambda index, data: setattr(data, "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]) if index >= 11 else None
    )
    with pytest.raises(
        InputError, match=r"11 at \[1.0, 0.0, 0.0, 0.0, 1.0, 0.0\].*5 at \[0.0, 1.0, 0.0, 0.0, 0.0, -1.0\]"
    ):
        read_volume(folder)


def test_a_dicomdir_stands_for_its_folder(slices):
    folder = slices.series()
    shutil.copy(get_testdata_file("DICOMDIR"), folder / "DICOMDIR")
    np.testing.assert_array_equal(read_volume(folder / "DICOMDIR").array[0], slices.volume())
    np.testing.assert_array_equal(read_volume(folder).array[0], slices.volume())


def test_a_dicomdir_cannot_lead_elsewhere(slices):
    """The files that it names are not there, and nothing outside of its folder is looked for."""
    alone = slices.folder / "alone"
    alone.mkdir()
    shutil.copy(get_testdata_file("DICOMDIR"), alone / "DICOMDIR")
    slices.series()
    with pytest.raises(InputError) as caught:
        read_volume(alone / "DICOMDIR")
    assert caught.value.code == "E-NO-DICOM"


def test_large_other_files_are_not_read(slices, little_memory):
    folder = slices.series(num_slices=4)
    with (folder / "backup.img").open("wb") as stream:
        stream.truncate(1 << 30)
    with little_memory():
        assert listed(folder).num_slices == 4


def test_headers_of_a_large_file_take_little_memory(slices, little_memory):
    """300 frames of 1024 x 1024 are declared and there, 600 MiB that nobody asked for."""
    data = slices.slice(1, np.zeros((4, 4)), 0)
    data.Rows = data.Columns = 1024
    data.NumberOfFrames = 300
    path = slices.save(data, slices.folder / "x.dcm")
    raw = path.read_bytes()
    at = raw.index(b"\xe0\x7f\x10\0OW")
    with path.open("wb") as stream:
        stream.write(raw[: at + 8] + (600 << 20).to_bytes(4, "little"))
        stream.truncate(at + 12 + (600 << 20))
    with little_memory():
        assert listed(path).fault == "E-NO-ORIENTATION"


def test_pixels_cut_off_are_refused_before_decoding(slices):
    """Row D16 of a file that ends within its pixels, although its header is longer than what is missing."""
    folder = slices.series(lambda _, data: data.add_new((0x0011, 0x1001), "OB", bytes(4000)))
    path = folder / "s_003.dcm"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"need 2560 bytes of pixels, the file has 2460") as caught:
        read_volume(folder)
    assert caught.value.code == "E-SHORT-DATA"
    assert caught.value.file == path


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_hostile_identifiers_name_no_file(slices):
    """Row D20: no identifier of the data set becomes a path."""
    with pydicom.config.disable_value_validation():
        folder = slices.series(lambda _, data: setattr(data, "SeriesInstanceUID", "../../..evil"))
    before = sorted(slices.folder.parent.rglob("*"))
    assert listed(folder).uid == "../../..evil"
    assert sorted(slices.folder.parent.rglob("*")) == before


def test_a_damaged_type_of_value_is_refused(slices):
    """Found by random damage: `UI` of the file's own class became `UM`."""
    folder = slices.series()
    path = folder / "s_002.dcm"
    path.write_bytes(path.read_bytes().replace(b"\x02\0\x02\0UI", b"\x02\0\x02\0UM", 1))
    with pytest.raises(InputError) as caught:
        read_volume(folder)
    assert (caught.value.code, caught.value.file) == ("E-DICOM", path)


@pytest.mark.parametrize("name", ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID"])
def test_slices_of_two_patients_are_never_one_series(slices, name):
    """Every second slice is another patient's, under one SeriesInstanceUID, as careless anonymisation leaves them."""
    folder = slices.series(lambda index, data: setattr(data, name, f"1.2.{index % 2}"))
    with pytest.raises(InputError, match=r"2 series are here.*8 file\(s\)") as caught:
        read_volume(folder)
    assert caught.value.code == "E-SERIES"
    with pytest.raises(InputError, match=f"2 series are '{slices.series_uid}'"):
        read_volume(folder, Reading(series=slices.series_uid))
    assert read_volume(folder, Reading(series="2")).geometry.spacing_mm[2] == pytest.approx(5)
