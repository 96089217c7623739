"""SUV by body weight, with numbers worked out by hand: 370 MBq, a half-life of 6600 s, 70 kg.

At injection 1 Bq/ml is 70000 g / 370e6 Bq = 1.891891...e-4; after one half-life it is twice as much.
"""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medseg.core.errors import InputError
from medseg.core.reading import Reading
from medseg.io.volumes import read_volume, read_volumes

AT_INJECTION = 70_000 / 370e6
SUV = Reading(suv=True)


def pet(slices, change=None, **values):
    """A PET series made one half-life (110 minutes) after the injection; stored numbers are 0 to about 4000 Bq/ml."""

    def make(index, data):
        data.Modality, data.Units, data.DecayCorrection = "PT", "BQML", "START"
        data.CorrectedImage = ["ATTN", "DECY", "SCAT"]
        data.RescaleIntercept = 0
        data.PatientWeight = 70
        data.SeriesDate = data.AcquisitionDate = "20260102"
        data.SeriesTime, data.AcquisitionTime = "100000", "100000.50"
        drug = Dataset()
        drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = 370e6, 6600
        drug.RadiopharmaceuticalStartTime = "081000"
        data.RadiopharmaceuticalInformationSequence = Sequence([drug])
        for name, value in values.items():
            holder = drug if name.startswith(("Radionuclide", "RadiopharmaceuticalStart")) else data
            if value is None:
                delattr(holder, name)
            else:
                setattr(holder, name, value)
        if change is not None:
            change(index, data)

    return slices.series(make)


def philips(element, number):
    def change(_index, data):
        data.private_block(0x7053, "Philips PET Private Group", create=True).add_new(element, "DS", str(number))

    return change


def ge(_index, data):
    data.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20260102100000.00")


def factor_of(slices, folder):
    """By how much every voxel was multiplied."""
    volume = read_volume(folder, SUV)
    assert volume.unit == "SUVbw"
    assert volume.array.dtype == np.float32
    stored = slices.volume().astype(float) + 1024
    factors = volume.array[0][stored > 0] / stored[stored > 0]
    assert np.ptp(factors) < 1e-5 * factors.mean()
    return float(factors.mean())


# Mean activity of a frame of 600 s against that at its start: (1 - 2^(-600/6600)) / (ln 2 * 600/6600) = 0.9691448
CASES = {
    "start": ({}, None, 2 * AT_INJECTION),
    "injection-datetime": ({"RadiopharmaceuticalStartDateTime": "20260102081000.0"}, None, 2 * AT_INJECTION),
    "over-midnight": (
        {"SeriesTime": "003000", "AcquisitionTime": "003000", "RadiopharmaceuticalStartTime": "224000"},
        None,
        2 * AT_INJECTION,
    ),
    "admin": ({"DecayCorrection": "ADMIN"}, None, AT_INJECTION),
    "none": (
        {
            "DecayCorrection": "NONE",
            "CorrectedImage": ["ATTN", "SCAT"],
            "ActualFrameDuration": 600_000,
            "AcquisitionTime": "100000",
        },
        None,
        2 * AT_INJECTION / 0.9691448,
    ),
    "reprocessed-ge": ({"SeriesTime": "150000"}, ge, 2 * AT_INJECTION),
    # acquired 1200 s after the scan began; its count rate has its mean 298.4247 s later: ln(x / (1 - e^-x)) / decay,
    # x = decay * 600 s = 0.0630134
    "reprocessed-others": (
        {
            "SeriesTime": "150000",
            "AcquisitionTime": "102000",
            "ActualFrameDuration": 600_000,
            "FrameReferenceTime": 1_498_424.7,
        },
        None,
        2 * AT_INJECTION,
    ),
    "philips-suv": ({"Units": "CNTS"}, philips(0x00, 0.002), 0.002),
    "philips-activity": ({"Units": "CNTS"}, philips(0x09, 3.0), 6 * AT_INJECTION),
    "gml": ({"Units": "GML", "PatientWeight": None}, None, 1.0),
    "gml-bw": ({"Units": "GML", "SUVType": "BW"}, None, 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_factor(slices, case):
    values, change, expected = CASES[case]
    assert factor_of(slices, pet(slices, change, **values)) == pytest.approx(expected, rel=2e-6)


REFUSED = {
    "Units is PROPCPS": {"Units": "PROPCPS"},
    "Units is missing": {"Units": ""},
    "7053": {"Units": "CNTS"},
    "SUVType is LBM": {"Units": "GML", "SUVType": "LBM"},
    "lacks ATTN": {"CorrectedImage": ["DECY"]},
    "lacks DECY": {"CorrectedImage": ["ATTN"]},
    "lacks ATTN, DECY": {"CorrectedImage": None},
    "DecayCorrection is missing": {"DecayCorrection": None},
    "DecayCorrection is another": {"DecayCorrection": "MAYBE"},
    "RadiopharmaceuticalInformationSequence is missing": {"RadiopharmaceuticalInformationSequence": Sequence([])},
    "PatientWeight is missing": {"PatientWeight": None},
    "PatientWeight is 0 kg": {"PatientWeight": 0},
    "PatientWeight is 70000 kg": {"PatientWeight": 70_000},
    "RadionuclideTotalDose is missing": {"RadionuclideTotalDose": None},
    "RadionuclideTotalDose is 370 Bq": {"RadionuclideTotalDose": 370},
    "RadionuclideHalfLife is missing": {"RadionuclideHalfLife": None},
    "RadionuclideHalfLife is 1.8 s": {"RadionuclideHalfLife": 1.8},
    "RadiopharmaceuticalStartTime is missing": {"RadiopharmaceuticalStartTime": None},
    "RadiopharmaceuticalStartTime is no date": {"RadiopharmaceuticalStartTime": "996100"},
    "does not fit the scan": {"RadiopharmaceuticalStartDateTime": "20260102110000"},
    "SeriesDate is missing": {"SeriesDate": None},
    "AcquisitionTime is missing": {"AcquisitionTime": None},
    "FrameReferenceTime is missing": {"SeriesTime": "150000"},
    "ActualFrameDuration is missing": {"SeriesTime": "150000", "FrameReferenceTime": 1000},
    "ActualFrameDuration is 0": {"DecayCorrection": "NONE", "ActualFrameDuration": 0},
}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("named", REFUSED)
def test_what_is_missing_or_implausible_is_named(slices, named):
    folder = pet(slices, **REFUSED[named])
    with pytest.raises(InputError, match=named) as caught:
        read_volume(folder, SUV)
    assert caught.value.code == "E-SUV"
    assert read_volume(folder).unit == (REFUSED[named].get("Units", "BQML") or None)


def test_without_asking_the_units_are_those_of_the_file(slices):
    volume = read_volume(pet(slices))
    assert volume.unit == "BQML"
    np.testing.assert_array_equal(volume.array[0], slices.volume() + 1024)


def test_only_a_pet_has_suv(slices):
    with pytest.raises(InputError, match="no DICOM PET") as caught:
        read_volume(slices.series(), SUV)
    assert caught.value.code == "E-SUV"


def test_a_ct_beside_a_pet_keeps_its_units(slices):
    ct = slices.series(folder="ct")
    assert read_volume(ct).unit == "HU"
    both = read_volumes([ct, pet(slices)], SUV)
    np.testing.assert_array_equal(both.array[0], slices.volume())
    assert both.array[1].max() == pytest.approx((3000 + 1024) * 2 * AT_INJECTION)
    assert both.unit is None


def test_every_slice_is_scaled_by_itself(slices):
    def change(index, data):
        data.RescaleSlope = 1 + index

    volume = read_volume(pet(slices, change), SUV)
    stored = slices.volume().astype(float) + 1024
    np.testing.assert_allclose(volume.array[0], stored * (1 + np.arange(16)) * 2 * AT_INJECTION, rtol=1e-5)
