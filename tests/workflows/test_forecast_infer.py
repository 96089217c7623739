"""`infer --dry-run`: what it counts is what the run does."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from medseg.core.errors import MedsegError
from medseg.core.geometry import Geometry
from medseg.core.settings import InferSettings
from medseg.core.volume import Volume
from medseg.engine.predict import Predictor
from medseg.io.bundle import Bundle, read_bundle, write_bundle
from medseg.io.volumes import read_volume
from medseg.workflows import forecast_infer as forecast
from medseg.workflows.forecast_infer import _mib, _work, forecast_infer
from medseg.workflows.infer import Request

PATCH = (8, 8, 8)
# Axes permuted and flipped against RAS, as the network grid has them.
AFFINE = np.array([[0, 0, -5.0, 40], [4, 0, 0, -30], [0, -3.0, 0, 12], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def bundle(workspace, tmp_path_factory) -> Bundle:
    """With small windows, and those of air left out."""
    made = read_bundle(workspace.newest_bundle())
    plan = made.plan.model_copy(update={"patch_size": PATCH, "skip_constant_windows": True})
    folder = tmp_path_factory.mktemp("models") / "model"
    write_bundle(folder, made.manifest, plan, weights=list(made.weights), metrics="{}", card="")
    return read_bundle(folder)


@pytest.fixture
def image(tmp_path):
    """A block off the centre of much air; along each axis at another place."""
    array = np.full((60, 70, 50), -1000, np.int16)
    array[40:52, 10:25, 30:45] = 100
    path = tmp_path / "case.nii.gz"
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


def _rows(bundle, image, **settings):
    chosen = InferSettings(backend="torch", **settings)
    made = forecast_infer(Request(bundle.folder, chosen, volumes=[image]), out=image.parent / "out")
    return dict(made.rows), Predictor(bundle, chosen).predict(read_volume(image))


def test_blank_windows_are_counted_before_the_run(bundle, image):
    rows, answer = _rows(bundle, image)
    assert int(rows["windows"].split()[0]) == answer.windows
    expected = int(rows["of these left out"].split()[1].strip(","))
    assert 0.8 * answer.skipped_windows <= expected <= answer.skipped_windows
    assert answer.skipped_windows > 0.5 * answer.windows
    assert "first pass" not in rows


def test_a_region_of_interest_makes_the_time_a_range(bundle, image):
    rows, answer = _rows(bundle, image, roi=True)
    assert answer.region is not None
    assert int(rows["windows"].split()[0]) == answer.windows + answer.region.left_out_windows
    assert int(rows["first pass"].split()[0]) == answer.region.coarse_windows
    assert " to " in rows["time in the network"]


def test_mirrored_copies_cost_what_their_number_says(bundle, image, monkeypatch):
    """A plan that mirrors two axes sends every window four times through the network."""
    asked = []

    def measured(predictor, plan, num_windows):
        asked.append(num_windows)
        return 10.0

    monkeypatch.setattr(forecast, "_window_s", measured)
    plan = bundle.plan.model_copy(update={"mirror_axes": (1, 2), "skip_constant_windows": False})
    folder = image.parent / "model"
    write_bundle(folder, bundle.manifest, plan, weights=list(bundle.weights), metrics="{}", card="")
    told = [
        dict(forecast_infer(Request(folder, InferSettings(tta=tta), volumes=[image]), out=image.parent / "out").rows)
        for tta in (False, True)
    ]
    once, four_times = (int(rows["time in the network"].split()[1].replace(",", "")) for rows in told)
    assert once == 10 * int(told[0]["windows"].split()[0])
    assert four_times == 4 * once
    assert asked == [once / 10, 4 * once / 10]
    assert told[1]["mirrored copies"] == "4 of every window"
    assert "mirrored copies" not in told[0]


def test_where_the_plan_crops_to_what_is_not_zero_and_skips_nothing(bundle, tmp_path):
    array = np.zeros((60, 70, 50), np.int16)
    array[40:52, 10:25, 30:45] = 100
    path = tmp_path / "cropped.nii.gz"
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    plan = bundle.plan.model_copy(update={"crop": "nonzero", "skip_constant_windows": False})
    folder = tmp_path / "model"
    write_bundle(folder, bundle.manifest, plan, weights=list(bundle.weights), metrics="{}", card="")
    rows, answer = _rows(read_bundle(folder), path)
    assert "of these left out" not in rows
    assert int(rows["windows"].split()[0]) == answer.windows


def test_a_case_that_cannot_be_read_is_a_row_and_not_the_end(bundle, image, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(image.read_bytes()[:2000])
    settings, out = InferSettings(backend="torch"), tmp_path / "out"
    made = forecast_infer(Request(bundle.folder, settings, volumes=[broken, image]), out=out)
    assert dict(made.rows)["cases that cannot be read"].startswith("1; the first: [E-GZ-TRUNC]")
    with pytest.raises(MedsegError) as caught:
        forecast_infer(Request(bundle.folder, settings, volumes=[broken]), out=out)
    assert caught.value.code == "E-GZ-TRUNC"


# Slices of a 256x256xN image, classes, and the peak in MiB of `medseg infer --backend torch` on two threads.
MEASURED = [(64, 3, 654), (300, 3, 715), (1200, 3, 892), (300, 2, 722), (300, 120, 784)]


@pytest.mark.parametrize(("slices", "classes", "peak_mib"), MEASURED)
def test_the_memory_is_near_what_was_measured_from_few_to_many_slices_and_classes(bundle, slices, classes, peak_mib):
    network = bundle.plan.network.model_copy(update={"features": (16, 32, 64, 128, 160)})
    values = {"labels": {f"organ {n}": n for n in range(1, classes)}, "patch_size": (64, 64, 64), "network": network}
    plan = bundle.plan.model_copy(update={**values, "spacing_mm": (3.0, 3.0, 3.0), "skip_constant_windows": False})
    grid = Geometry.from_parts((256, 256, slices), (0.8, 0.8, 1.5))
    nothing = np.broadcast_to(np.int16(0), (1, *grid.shape))
    forecast_mib = _mib(_work(Volume(nothing, grid), plan, InferSettings()), plan)
    assert forecast_mib == pytest.approx(peak_mib, rel=0.1)


@pytest.mark.parametrize(("classes", "peak_mib"), [(2, 1957), (120, 2393)])
def test_so_it_is_of_a_network_of_the_usual_size(bundle, classes, peak_mib):
    network = bundle.plan.network.model_copy(update={"features": (32, 64, 128, 256, 320, 320)})
    values = {"labels": {f"organ {n}": n for n in range(1, classes)}, "patch_size": (128, 128, 128), "network": network}
    plan = bundle.plan.model_copy(update={**values, "spacing_mm": (1.6, 1.6, 1.6), "skip_constant_windows": False})
    grid = Geometry.from_parts((256, 256, 300), (0.8, 0.8, 1.5))
    nothing = np.broadcast_to(np.int16(0), (1, *grid.shape))
    forecast_mib = _mib(_work(Volume(nothing, grid), plan, InferSettings()), plan)
    assert forecast_mib == pytest.approx(peak_mib, rel=0.15)
