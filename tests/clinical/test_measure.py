"""A patient made by hand: two kidneys, a liver with two lesions, on an oblique, anisotropic, off-origin grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medseg.clinical.measure import measure_structures
from medseg.clinical.normal_ranges import NormalTable
from medseg.core.errors import GeometryError, UsageError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume

LABELS = {"liver": 1, "kidney_left": 2, "kidney_right": 3, "tumour": 4, "spleen": 9}
VOXEL_ML = 1.5 * 2 * 4 / 1000


@pytest.fixture
def geometry():
    direction = Rotation.from_euler("xyz", (5, -4, 8), degrees=True).as_matrix() @ np.diag([-1, -1, 1])
    return Geometry.from_parts((40, 30, 12), (1.5, 2, 4), direction, (70, 20, -400))


@pytest.fixture
def mask(geometry):
    """Array axis 0 runs to the patient's left: low indices are right."""
    array = np.zeros(geometry.shape, np.uint8)
    array[2:18, 4:20, 3:9] = 1
    array[4:8, 22:28, 3:9] = 3
    array[30:34, 22:28, 3:9] = 2
    array[6:12, 8:12, 5:7] = 4
    array[17:19, 10:12, 4:5] = 4
    return LabelMap(array, geometry)


@pytest.fixture
def image(mask):
    """HU by label; the voxels of the first lesion's first row are 30, its others 50."""
    array = np.select([mask.array == value for value in (1, 2, 3, 4)], [110, 180, 180, 50], default=-1000)
    array[6, 8:12, 5:7] = 30
    return Volume(array[None].astype(np.int16), mask.geometry)


def measured(mask, **options):
    found = measure_structures(mask, labels=LABELS, lesions=["tumour"], **options)
    return {one.id: one for one in found}


def test_organs_first_then_lesions_largest_first(mask):
    assert list(measured(mask)) == ["liver", "kidney_left", "kidney_right", "tumour-1", "tumour-2"]


def test_sizes_by_hand(mask):
    found = measured(mask)["tumour-1"]
    assert found.volume_ml == pytest.approx(6 * 4 * 2 * VOXEL_ML)
    # Faces: 2 x 4 x 2 along i, 2 x 6 x 2 along j, 2 x 6 x 4 along k; half a voxel behind each.
    assert found.volume_uncertainty_ml == pytest.approx((16 + 24 + 48) / 2 * VOXEL_ML)
    assert found.long_axis.length_mm == pytest.approx(np.hypot(9, 8))
    assert found.feret.length_mm == pytest.approx(np.sqrt(81 + 64 + 64))
    assert found.slice_number == 6  # of slices 6 and 7, counted from 1
    assert found.centre_mm == pytest.approx(tuple(mask.geometry.to_world((8.5, 9.5, 5.5))))
    assert not found.is_cut_off
    liver = measured(mask)["liver"]
    assert liver.long_axis is liver.short_axis is liver.slice_number is None
    assert liver.volume_ml == pytest.approx((16 * 16 * 6 - 6 * 4 * 2 - 2) * VOXEL_ML)


def test_place_by_hand(mask):
    found = measured(mask)
    assert found["tumour-1"].organ == "liver"
    assert found["tumour-1"].touching == ("liver",)
    assert found["tumour-2"].organ == "liver"
    assert (found["tumour-1"].side, found["tumour-1"].side_basis) == ("right", "paired labels")
    assert (found["kidney_left"].side, found["kidney_left"].side_basis) == ("left", "name")
    # The liver spans from the right to the middle between the kidneys: nearly all of it is on the right.
    assert found["liver"].side == "right"
    assert found["liver"].touching == ("tumour",)


def test_an_organ_that_states_its_side_tells_the_lesions(mask):
    mask.array[31:33, 24:26, 5] = 4
    lesion = next(one for one in measured(mask).values() if one.organ == "kidney_left")
    assert (lesion.side, lesion.side_basis) == ("left", "organ")


def test_a_lesion_that_touches_two_organs_belongs_to_the_larger_contact(mask):
    mask.array[4:8, 20:22, 3:9] = 4
    found = next(one for one in measured(mask).values() if "kidney_right" in one.touching)
    assert set(found.touching) == {"liver", "kidney_right"}
    mask.array[2:18, 19, 3:9] = 0
    found = next(one for one in measured(mask).values() if "kidney_right" in one.touching)
    assert found.organ == "kidney_right"


def test_values_of_the_image_by_hand(mask, image):
    found = measured(mask, image=image, unit="HU")["tumour-1"].intensity
    # 8 of 48 voxels are 30, 40 are 50
    assert found.mean == pytest.approx((8 * 30 + 40 * 50) / 48)
    assert (found.minimum, found.maximum, found.unit) == (30, 50, "HU")
    assert found.standard_deviation == pytest.approx(20 * np.sqrt(8 * 40) / 48)
    assert found.suv_peak is found.total_lesion_glycolysis is None


def test_without_pairs_the_image_tells_the_side_and_without_an_image_nothing_does(mask, geometry):
    labels = {"liver": 1, "tumour": 4}
    body = np.full(geometry.shape, -1000, np.int16)
    body[1:39, 2:28] = 20
    image = Volume(body[None], geometry)
    found = measure_structures(mask, labels=labels, lesions=["tumour"], image=image, unit="HU")
    assert {(one.side, one.side_basis) for one in found} == {("right", "image")}
    found = measure_structures(mask, labels=labels, lesions=["tumour"])
    assert {(one.side, one.side_basis) for one in found} == {(None, None)}


def test_across_the_midline(geometry):
    array = np.zeros(geometry.shape, np.uint8)
    array[2:6, 2:6, 2:6], array[34:38, 2:6, 2:6], array[17:23, 2:6, 4:7] = 3, 2, 4
    found = measured(LabelMap(array, geometry))
    assert found["tumour-1"].side == "midline"
    assert found["tumour-1"].organ is None
    assert found["tumour-1"].touching == ()


def test_what_the_image_cuts_off_is_said(mask):
    mask.array[0:3, 0:3, 0:3] = 4
    assert {one.id: one.is_cut_off for one in measured(mask).values() if one.kind == "lesion"} == {
        "tumour-1": False,
        "tumour-2": True,
        "tumour-3": False,
    }


def test_values_without_a_name_count_as_background(mask):
    mask.array[5, 8:12, 5:7] = 200
    found = measured(mask)["tumour-1"]
    assert found.touching == ("liver",)


def test_an_empty_mask_has_nothing_to_measure(geometry):
    empty = LabelMap(np.zeros(geometry.shape, np.uint16), geometry)
    assert measure_structures(empty, labels=LABELS, lesions=["tumour"]) == ()


def test_a_lesion_that_is_no_label(mask):
    with pytest.raises(UsageError, match=r"E-LESION-NAME.*'tumor'.*did you mean 'tumour'"):
        measure_structures(mask, labels=LABELS, lesions=["tumor"])


def test_an_image_on_another_grid(mask, image):
    shifted = Volume(image.array, image.geometry.cropped((1, 0, 0), (41, 30, 12)))
    with pytest.raises(GeometryError, match="E-GRID-MISMATCH"):
        measured(mask, image=shifted)


@pytest.mark.parametrize(
    ("low", "high", "comparison"),
    [(1, 5, "above"), (1, 40, "within"), (30, 40, "below"), (1, 19, "at the limit"), (17, 30, "at the limit")],
)
def test_volumes_beside_the_customary(mask, low, high, comparison):
    """The liver has 17.8 ml; its border is 916 faces, so +- 5.5 ml."""
    table = NormalTable.parse(
        {
            "edition": "1",
            "scope": "test",
            "organs": {
                "liver": {"labels": ["liver"], "low_ml": low, "high_ml": high, "population": "p", "source": "s"}
            },
        }
    )
    found = measured(mask, normal=table)
    assert found["liver"].volume_ml == pytest.approx(17.832)
    assert found["liver"].normal_range.comparison == comparison
    assert found["kidney_left"].normal_range is None
    assert found["tumour-1"].normal_range is None


def test_a_cut_off_organ_is_compared_with_nothing(mask):
    table = NormalTable.parse(
        {
            "edition": "1",
            "scope": "test",
            "organs": {"liver": {"labels": ["liver"], "low_ml": 1, "high_ml": 2, "population": "p", "source": "s"}},
        }
    )
    mask.array[0:2, 4:20, 3:9] = 1
    assert measured(mask, normal=table)["liver"].normal_range is None


def test_limits_the_wrong_way_round():
    organ = {"labels": ["liver"], "low_ml": 3, "high_ml": 2, "population": "p", "source": "s"}
    with pytest.raises(UsageError, match="low_ml must be below high_ml"):
        NormalTable.parse({"edition": "1", "scope": "test", "organs": {"liver": organ}})
