"""pydicom's own test files, as they lie in its wheel: each is read right, or refused with a code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut

from medseg.core.errors import InputError
from medseg.io.dicom_series import list_series
from medseg.io.volumes import read_volume

FOLDER = Path(pydicom.__file__).parent / "data"
FILES = sorted(
    path.relative_to(FOLDER).as_posix()
    for path in FOLDER.rglob("*")
    if path.is_file() and not path.name.startswith("README") and path.suffix in {"", ".dcm"}
)
REFUSALS = {
    "E-DICOM",
    "E-EMPTY",
    "E-NO-DICOM",
    "E-NO-ORIENTATION",
    "E-NO-PIXELS",
    "E-NOT-DICOM",
    "E-NOT-IMAGE",
    "E-RGB",
    "E-SERIES",
    "E-SHORT-DATA",
    "E-SPACING",
}
KNOWN = {
    "test_files/MR_truncated.dcm": "E-SHORT-DATA",
    "test_files/SC_rgb.dcm": "E-RGB",
    "test_files/rtplan.dcm": "E-NO-DICOM",
    "test_files/rtdose.dcm": "E-NO-DICOM",
    "test_files/liver_1frame.dcm": "E-NO-DICOM",
    "test_files/no_meta.dcm": "E-NOT-DICOM",
    "test_files/JPGExtended.dcm": "E-NO-ORIENTATION",
    "test_files/chrJapMulti.dcm": "E-NO-PIXELS",
    "test_files/dicomdirtests/DICOMDIR": "E-SERIES",
    "test_files/examples_palette.dcm": "E-RGB",
}
READ = {
    "test_files/CT_small.dcm",
    "test_files/MR_small.dcm",
    "test_files/MR_small_bigendian.dcm",
    "test_files/MR_small_RLE.dcm",
    "test_files/MR_small_implicit.dcm",
    "test_files/MR_small_jp2klossless.dcm",
    "test_files/MR_small_jpeg_ls_lossless.dcm",
    "test_files/MR_small_padded.dcm",
    "test_files/693_J2KI.dcm",
    "test_files/J2K_pixelrep_mismatch.dcm",
    "test_files/examples_overlay.dcm",
}


def outcome(name):
    try:
        return read_volume(FOLDER / name)
    except InputError as error:
        return error


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("name", FILES)
def test_read_right_or_refused_with_a_code(name):
    volume = outcome(name)
    if isinstance(volume, InputError):
        assert volume.code == KNOWN.get(name, volume.code)
        assert volume.code in REFUSALS
        assert volume.remedy
        assert name not in READ
        return
    assert name not in KNOWN
    data = pydicom.dcmread(FOLDER / name)
    expected = apply_modality_lut(data.pixel_array, data).astype(float).T
    if "PixelPaddingValue" in data:
        expected = np.where(data.PixelPaddingValue == data.pixel_array.T, volume.array[0, :, :, 0], expected)
    np.testing.assert_allclose(volume.array[0, :, :, 0], expected, atol=1)
    down, across = map(float, data.PixelSpacing)
    assert volume.geometry.spacing_mm[:2] == pytest.approx((across, down))
    np.testing.assert_allclose(volume.geometry.affine[:3, 3] * [-1, -1, 1], list(map(float, data.ImagePositionPatient)))


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_whole_disc_is_listed():
    """72 files of three patients: every series is named, with what would refuse it."""
    found = list_series(FOLDER / "test_files" / "dicomdirtests" / "DICOMDIR")
    by_name = {one.description: one for one in found}
    assert len(found) == 13
    assert (by_name["SmartScore - Gated 0.5 sec"].num_slices, by_name["SmartScore - Gated 0.5 sec"].fault) == (5, None)
    assert by_name["Routine Brain"].fault == "E-SERIES-GAP"
    assert by_name["Scout"].is_localizer
    assert found[-1].is_localizer
