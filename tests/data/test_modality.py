"""Numbers that cannot be Hounsfield units, and numbers that can be nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.data.modality import doubt_modality


def hounsfield():
    array = np.random.default_rng(5).integers(-1000, 80, (8, 9, 10)).astype(np.int16)
    array[4, 4, 4] = 3000
    return array


@pytest.mark.parametrize(
    ("name", "array", "code"),
    [
        pytest.param("CT", hounsfield().view(np.uint16) & 0x7FFF, "W-INTENSITY", id="F28-sign-lost"),
        pytest.param("CT", hounsfield() + 1024, "W-INTENSITY", id="V10-offset"),
        pytest.param("CT", np.clip((hounsfield() + 160) / 400 * 255, 0, 255), "W-INTENSITY", id="V24-windowed"),
        pytest.param("CT", np.abs(hounsfield()), "W-INTENSITY", id="Q02-MR-to-a-CT-model"),
        pytest.param("MRI", hounsfield(), "W-MODALITY", id="Q02-CT-to-an-MR-model"),
        pytest.param(
            "CT", np.where(np.arange(8)[:, None, None] < 2, -3024, hounsfield()), "W-PADDING", id="V11-padding"
        ),
        pytest.param("CT", hounsfield(), None, id="CT"),
        pytest.param("MRI", np.abs(hounsfield()), None, id="MRI"),
    ],
)
def test_what_speaks_against_a_modality(name, array, code):
    doubt = doubt_modality(name, array)
    assert (doubt and doubt.code) == code


def test_v11_filling_is_counted():
    padded = hounsfield()
    padded[:2] = -3024
    padded[2, 0, 0] = -1025
    doubt = doubt_modality("CT", padded)
    assert doubt is not None
    assert doubt.message.startswith(f"{2 * 9 * 10 + 1} voxels below -1024 HU, down to -3024")
