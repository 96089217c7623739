from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull
from sklearn.metrics import roc_auc_score

from medseg.core.errors import UsageError
from medseg.data import phantom
from medseg.data.manifest import read_manifest
from medseg.data.phantom import make_phantom
from medseg.data.phantom_body import phantom_case
from medseg.data.splits import split_cases
from medseg.io.volumes import read_labels, read_volume


@pytest.fixture(scope="module")
def cohort():
    return [phantom_case(20, index) for index in range(24)]


def _contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_same_files_other_seed_other_voxels(tmp_path):
    make_phantom(tmp_path / "one", seed=3, num_cases=2)
    make_phantom(tmp_path / "two", seed=3, num_cases=2)
    assert _contents(tmp_path / "one") == _contents(tmp_path / "two")
    assert not np.array_equal(phantom_case(3, 0)[0].array, phantom_case(4, 0)[0].array)


def test_files_hold_what_the_function_makes(tmp_path):
    dataset = read_manifest(make_phantom(tmp_path, seed=5, num_cases=3))
    image, labels, kind = phantom_case(5, 1)
    case = dataset.case("phantom_0001")
    assert case.label is not None
    stored, mask = read_volume(case.images[0]), read_labels(case.label)
    np.testing.assert_array_equal(stored.array, image.array)
    np.testing.assert_array_equal(mask.array, labels.array)
    assert stored.geometry.deviation_mm(image.geometry) < 1e-3
    assert case.classes == {"lesion_type": kind}


def test_a_whole_cohort_is_kept_and_a_damaged_case_made_again(tmp_path):
    make_phantom(tmp_path, seed=5, num_cases=3)
    before = _contents(tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    make_phantom(tmp_path, seed=5, num_cases=3)
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    hurt = tmp_path / "images" / "phantom_0002.nii.gz"
    hurt.write_bytes(hurt.read_bytes()[:-9])
    (tmp_path / "labels" / "phantom_0000.nii.gz").unlink()
    make_phantom(tmp_path, seed=5, num_cases=3)
    assert _contents(tmp_path) == before
    whole = tmp_path / "images" / "phantom_0001.nii.gz"
    assert whole.stat().st_mtime_ns == stamps[whole]


def test_another_seed_or_size_is_not_mistaken_for_the_old_cohort(tmp_path):
    make_phantom(tmp_path, seed=5, num_cases=2)
    old = (tmp_path / "images" / "phantom_0000.nii.gz").read_bytes()
    assert len(read_manifest(make_phantom(tmp_path, seed=5, num_cases=4)).cases) == 4
    assert (tmp_path / "images" / "phantom_0000.nii.gz").read_bytes() == old
    make_phantom(tmp_path, seed=6, num_cases=2)
    assert (tmp_path / "images" / "phantom_0000.nii.gz").read_bytes() != old
    assert json.loads((tmp_path / "phantom.json").read_text(encoding="utf-8"))["seed"] == 6


def test_class_noise_exchanges_a_share_of_each_class_and_spares_voxels_and_test_cases(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom, "phantom_case", _first_case)
    true = read_manifest(make_phantom(tmp_path, num_cases=90))
    voxels = {name: data for name, data in _contents(tmp_path).items() if name.endswith(".nii.gz")}
    noisy = read_manifest(make_phantom(tmp_path, num_cases=90, class_noise=0.15))
    assert {name: data for name, data in _contents(tmp_path).items() if name.endswith(".nii.gz")} == voxels
    pairs = [(old, new) for old, new in zip(true.cases, noisy.cases, strict=True) if old.classes != new.classes]
    assert Counter(old.classes["lesion_type"] for old, _ in pairs) == {"benign": 6, "malignant": 6}  # .15 x 38, 37
    assert "test" not in {new.split for _, new in pairs}
    assert [case.model_copy(update={"classes": {}}) for case in true.cases] == [
        case.model_copy(update={"classes": {}}) for case in noisy.cases
    ]
    assert read_manifest(make_phantom(tmp_path, num_cases=90, class_noise=0.15)) == noisy
    assert read_manifest(make_phantom(tmp_path, num_cases=90)) == true


_FIRST_CASE = phantom_case(20, 0)


def _first_case(seed: int, index: int):
    return _FIRST_CASE


@pytest.mark.parametrize(("num_cases", "shares"), [(30, (20, 4, 6)), (6, (2, 2, 2))])
def test_splits_hold_both_classes_alike(tmp_path, monkeypatch, num_cases, shares):
    monkeypatch.setattr("medseg.data.phantom.phantom_case", _first_case)
    dataset = read_manifest(make_phantom(tmp_path, num_cases=num_cases))
    found = Counter((case.split, case.classes["lesion_type"]) for case in dataset.cases)
    for split, share in zip(("train", "val", "test"), shares, strict=True):
        assert found[split, "benign"] == found[split, "malignant"] == share / 2
    assert len(split_cases(dataset).val) == shares[1]


def test_one_case_is_no_cohort(tmp_path):
    with pytest.raises(UsageError, match="E-PHANTOM"):
        make_phantom(tmp_path, num_cases=1)


def test_grids_are_oblique_anisotropic_off_origin_and_various(cohort):
    grids = [image.geometry for image, _, _ in cohort]
    assert len({grid.axis_codes for grid in grids}) >= 4
    for grid in grids:
        tilt = np.degrees(np.arccos(np.abs(grid.direction).max(axis=0)))
        assert 0.5 < tilt.max() < 12.01
        assert grid.spacing_mm[2] > 1.15 * grid.spacing_mm[0]
        assert np.linalg.norm(grid.to_world([0, 0, 0])) > 50
        assert np.prod(grid.shape) < 500_000


def test_images_look_like_ct_and_the_organ_lies_on_the_patients_right(cohort):
    for image, labels, _ in cohort:
        assert image.array.dtype == np.int16
        assert labels.array.dtype == np.uint8
        assert set(np.unique(labels.array)) == {0, 1, 2}
        assert image.array.min() < -900
        assert image.array.max() > 300
        organ = image.array[0][labels.array == 1].mean()
        lesion = image.array[0][labels.array == 2].mean()
        assert 75 < organ < 130
        assert 15 < organ - lesion < 55
        centroid = labels.geometry.to_world(np.argwhere(labels.array == 1).mean(axis=0))
        middle = labels.geometry.to_world((np.array(labels.geometry.shape) - 1) / 2)
        assert centroid[0] > middle[0] + 15  # RAS: x grows to the patient's right
        assert centroid[0] > 0


def test_lesions_lie_apart_and_inside_the_organ(cohort):
    numbers = []
    for _, labels, _ in cohort:
        lesion = labels.array == 2
        around = ndimage.binary_dilation(lesion) & ~lesion
        assert np.count_nonzero(labels.array[around] == 0) < 0.05 * np.count_nonzero(around)
        numbers.append(ndimage.label(lesion, np.ones((3, 3, 3)))[1])
    assert set(numbers) == {1, 2, 3}
    assert numbers[::2] == numbers[1::2]


def test_no_threshold_finds_the_organ(cohort):
    for image, labels, _ in cohort[:6]:
        inside = labels.array > 0
        smooth = ndimage.gaussian_filter(image.array[0].astype(float), 1)
        best = max(
            2
            * np.count_nonzero(inside & (found := (smooth > low) & (smooth < low + width)))
            / (inside.sum() + found.sum())
            for low in range(30, 110, 10)
            for width in (30, 50, 70)
        )
        assert best < 0.85


def _auc(kinds, values):
    area = roc_auc_score(kinds, values)
    return max(area, 1 - area)


def _solidity(labels):
    """Volume of the largest lesion over that of its convex hull, in mm."""
    parts, count = ndimage.label(labels.array == 2, np.ones((3, 3, 3)))
    sizes = ndimage.sum_labels(parts > 0, parts, range(1, count + 1))
    largest = np.argwhere(parts == np.argmax(sizes) + 1)
    corners = np.array([[i, j, k] for i in (-0.5, 0.5) for j in (-0.5, 0.5) for k in (-0.5, 0.5)])
    hull = ConvexHull(labels.geometry.to_world((largest[:, None] + corners).reshape(-1, 3)))
    return len(largest) * labels.geometry.voxel_volume_mm3 / hull.volume


def test_only_the_shape_of_a_lesion_tells_its_class(cohort):
    kinds = [kind == "malignant" for _, _, kind in cohort]
    volumes = [np.count_nonzero(labels.array == 2) * labels.geometry.voxel_volume_mm3 for _, labels, _ in cohort]
    brightness = [image.array[0][labels.array == 2].mean() for image, labels, _ in cohort]
    contrast = [
        image.array[0][labels.array == 1].mean() - value
        for (image, labels, _), value in zip(cohort, brightness, strict=True)
    ]
    assert _auc(kinds, volumes) < 0.65
    assert _auc(kinds, brightness) < 0.65
    assert _auc(kinds, contrast) < 0.65
    assert _auc(kinds, [_solidity(labels) for _, labels, _ in cohort]) > 0.95
