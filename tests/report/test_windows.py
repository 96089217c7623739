from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from medseg.io.packaged import named_windows
from medseg.report.windows import Window, windows_for

AIR_AND_TISSUE = np.r_[np.full(500, -1000.0), np.full(500, 60.0)].reshape(10, 10, 10)
NOTHING = np.zeros(0)


@pytest.mark.parametrize(("inside", "name"), [(60.0, "soft tissue"), (-700.0, "lung"), (600.0, "bone")])
def test_ct_window_follows_the_structures(inside: float, name: str) -> None:
    windows = windows_for(AIR_AND_TISSUE, np.full(50, inside), modality="ct")
    assert windows[0].name == name
    assert (windows[0].low, windows[0].high) == named_windows()[name.replace(" ", "_")]
    assert sorted(window.name for window in windows) == ["bone", "brain", "lung", "soft tissue"]


def test_ct_is_recognised_by_its_air() -> None:
    assert len(windows_for(AIR_AND_TISSUE, NOTHING, modality=None)) == 4
    assert len(windows_for(AIR_AND_TISSUE + 1000, NOTHING, modality=None)) == 1
    assert len(windows_for(AIR_AND_TISSUE, NOTHING, modality="MRI")) == 1


def test_other_modalities_show_the_percentiles_of_finite_values() -> None:
    image = np.arange(1001.0).reshape(7, 11, 13)
    image[0, 0, 1] = np.nan
    (window,) = windows_for(image, NOTHING, modality="PET")
    assert (window.low, window.high) == pytest.approx((5.0, 995.0), abs=1.1)


def test_limits_have_a_true_minus_sign() -> None:
    assert Window("soft tissue", -160, 240, "HU").limits == "−160 to 240 HU"


def test_png_runs_from_black_to_white_in_true_proportions() -> None:
    values = np.repeat(np.array([[-1000.0, -160.0, 40.0, 240.0, 3000.0]]), 3, axis=0)
    pixels = np.asarray(Image.open(io.BytesIO(Window("soft tissue", -160, 240).png(values, (50.0, 10.0)))))
    height, width = pixels.shape
    assert width / height == pytest.approx(5.0)
    middle = pixels[height // 2, width // 10 :: width // 5]
    assert middle[[0, 1, 3, 4]].tolist() == pytest.approx([0, 0, 255, 255], abs=25)
    assert int(middle[2]) == pytest.approx(128, abs=8)


def test_missing_values_and_constant_images_become_pictures_too() -> None:
    png = Window("w", 5.0, 5.0).png(np.array([[5.0, np.nan], [np.inf, -np.inf]]), (2.0, 2.0))
    assert Image.open(io.BytesIO(png)).mode == "L"
