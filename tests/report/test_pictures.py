from __future__ import annotations

import io
import re
from itertools import permutations, product

import numpy as np
import pytest
from PIL import Image

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.report.pictures import Picture, case_pictures

ORIENTATIONS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.png)))


def brightest(picture: Picture) -> tuple[float, float]:
    """Centre of the bright pixels as shares of width and height from the top left."""
    rows, columns = np.nonzero(pixels(picture) > 128)
    height, width = pixels(picture).shape
    return columns.mean() / width, rows.mean() / height


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_left_anterior_superior_lies_where_radiologists_look(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    tilt = 0.15
    turned = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    direction = turned @ (np.eye(3)[:, list(order)] * signs)
    sizes = np.array([24, 30, 20])
    shape = tuple(int(size) for size in sizes[list(order)])
    spacing = np.array([1.2, 1.0, 2.5])[list(order)]
    geometry = Geometry.from_parts(shape, spacing, direction, (50, -70, 300))
    centre = geometry.to_world((np.array(shape) - 1) / 2)
    marker = np.rint(geometry.to_index(centre + turned @ [-8.0, 9.0, 14.0])).astype(int)  # left, anterior, superior
    image, mask = np.zeros((1, *shape), np.float32), np.zeros(shape, np.uint8)
    spot = tuple(slice(place - 1, place + 2) for place in marker)
    image[0][spot], mask[spot] = 100, 1
    axial, coronal, sagittal = case_pictures(
        Volume(image, geometry),
        prediction=LabelMap(mask, geometry),
        reference=None,
        labels={"spot": 1},
        window=(0, 100),
    )
    assert axial.edges == "RLAP"
    x, y = brightest(axial)
    assert x > 0.6, "left on the right"
    assert y < 0.4, "anterior on top"
    assert coronal.edges == "RLSI"
    x, y = brightest(coronal)
    assert x > 0.6, "left on the right"
    assert y < 0.4, "superior on top"
    assert sagittal.edges == "APSI"
    x, y = brightest(sagittal)
    assert x < 0.4, "anterior on the left"
    assert y < 0.4, "superior on top"
    for picture in (axial, coronal, sagittal):
        start_x, start_y = (int(n) for n in re.match(r"M(\d+) (\d+)", picture.prediction[0].path).groups())
        share = start_x / picture.size_voxels[0] / 4, start_y / picture.size_voxels[1] / 4
        assert share == pytest.approx(brightest(picture), abs=0.12), "the outline lies on the image"


def test_proportions_are_those_in_millimetres(scan) -> None:
    image, prediction, _, labels = scan
    axial, coronal, sagittal = case_pictures(image, prediction=prediction, reference=None, labels=labels)
    assert axial.size_mm == pytest.approx((60, 54))
    assert coronal.size_mm == pytest.approx((60, 72))
    assert sagittal.size_voxels == (36, 18)
    for picture in (axial, coronal, sagittal):
        height, width = pixels(picture).shape
        assert width / height == pytest.approx(picture.size_mm[0] / picture.size_mm[1], rel=0.01)
        assert max(width, height) >= 300


def test_largest_extent_then_largest_difference(scan) -> None:
    image, prediction, reference, labels = scan
    pictures = case_pictures(image, prediction=prediction, reference=reference, labels=labels)
    assert [picture.purpose for picture in pictures] == ["extent"] * 3 + ["difference"] * 3
    assert [outline.label for outline in pictures[0].prediction] == ["organ", "lesion"]
    assert {outline.colour for outline in pictures[0].reference} == {0, 1}
    assert pictures[0].errors == ()
    assert pictures[3].size_mm[0] <= pictures[0].size_mm[0]
    assert "R is at the left edge" in pictures[0].alt
    assert re.match(r"Axial, tilted 6°, slice k \d+ of 18", pictures[0].title)


def test_error_areas_of_the_slice_are_exact(scan) -> None:
    image, prediction, reference, labels = scan
    picture = case_pictures(image, prediction=prediction, reference=reference, labels=labels)[3]
    index = int(re.search(r"slice k (\d+)", picture.title).group(1)) - 1
    mine, truth = prediction.array[:, :, index], reference.array[:, :, index]
    expected = {
        "agreement": (mine == truth) & (truth > 0),
        "missed": (mine == 0) & (truth > 0),
        "invented": (mine > 0) & (truth == 0),
        "mistaken": (mine > 0) & (truth > 0) & (mine != truth),
    }
    areas = {region.kind: region.area_mm2 for region in picture.errors}
    assert areas == pytest.approx({kind: mask.sum() * 2.25 for kind, mask in expected.items()})
    assert f"missed {areas['missed']:.4g} mm²" in picture.alt


def test_one_wrong_voxel_is_drawn_as_a_voxel(scan) -> None:
    image, _, reference, labels = scan
    prediction = reference.array.copy()
    prediction[30, 30, 5] = 1
    masks = LabelMap(prediction, reference.geometry), reference
    pictures = case_pictures(image, prediction=masks[0], reference=masks[1], labels=labels)
    for picture in pictures[3:]:
        (region,) = (region for region in picture.errors if region.kind == "invented")
        assert region.path.count("l") == 7, "a square with cut corners"


def test_equal_masks_have_no_difference_to_show(scan) -> None:
    image, _, reference, labels = scan
    assert len(case_pictures(image, prediction=reference, reference=reference, labels=labels)) == 3


def test_labels_not_annotated_are_no_errors(scan) -> None:
    image, _, reference, labels = scan
    prediction = LabelMap(np.where(reference.array == 0, 0, reference.array), reference.geometry)
    partial = LabelMap(np.where(reference.array == 1, 0, reference.array), reference.geometry)
    assert len(case_pictures(image, prediction=prediction, reference=partial, labels=labels)) == 6
    pictures = case_pictures(image, prediction=prediction, reference=partial, labels=labels, annotated=["lesion"])
    assert len(pictures) == 3
    assert [outline.label for outline in pictures[0].prediction] == ["organ", "lesion"]


def test_nothing_counts_where_the_reference_says_ignore(scan) -> None:
    image, _, reference, labels = scan
    prediction = reference.array.copy()
    prediction[30:36, 5:9, 3:6] = 1
    ignoring = reference.array.copy()
    ignoring[29:37, 4:10, 2:7] = 255
    masks = (LabelMap(prediction, reference.geometry), LabelMap(ignoring, reference.geometry))
    pictures = case_pictures(image, prediction=masks[0], reference=masks[1], labels=labels)
    assert len(pictures) == 3


def test_no_mask_at_all_shows_the_middle(scan) -> None:
    image, _, _, labels = scan
    pictures = case_pictures(image, prediction=None, reference=None, labels=labels)
    assert [picture.prediction + picture.reference for picture in pictures] == [()] * 3
    assert "no structure in this slice" in pictures[0].alt


def test_planes_one_voxel_thick_are_left_out() -> None:
    geometry = Geometry.from_parts((20, 30, 1), (1, 1, 5))
    image = Volume(np.random.default_rng(0).random((1, 20, 30, 1)), geometry)
    (picture,) = case_pictures(image, prediction=None, reference=None, labels={})
    assert picture.title.startswith("Axial")


def test_masks_on_another_grid_are_refused(scan) -> None:
    image, prediction, reference, labels = scan
    moved = reference.geometry.affine.copy()
    moved[0, 3] += 3
    other = LabelMap(reference.array, Geometry(reference.geometry.shape, moved))
    for masks in ({"prediction": other, "reference": None}, {"prediction": prediction, "reference": other}):
        with pytest.raises(GeometryError, match="E-GRID-MISMATCH"):
            case_pictures(image, labels=labels, **masks)


@pytest.mark.parametrize(("side_mm", "bar_mm"), [(50.0, 10.0), (420.0, 100.0), (79.0, 10.0), (3.9, 0.5), (240.0, 50.0)])
def test_scale_bar_is_a_round_length(side_mm: float, bar_mm: float) -> None:
    picture = Picture("t", "a", b"", "extent", "RLAP", (side_mm, 1.0), (1, 1), ())
    assert picture.scale_bar_mm == pytest.approx(bar_mm)


def test_noisy_large_slices_stay_small() -> None:
    shape = (512, 512, 8)
    geometry = Geometry.from_parts(shape, (0.8, 0.8, 40.0))
    noise = np.random.default_rng(1).normal(0, 60, shape).astype(np.int16)
    mask = np.zeros(shape, np.uint8)
    mask[100:400, 100:300, 2:6] = 1
    pictures = case_pictures(
        Volume(noise[None], geometry),
        prediction=LabelMap(mask, geometry),
        reference=LabelMap(np.roll(mask, 3, 0), geometry),
        labels={"a": 1},
        modality="CT",
    )
    sizes = [len(png) for picture in pictures for _, png in picture.windows]
    assert len(sizes) == 24
    assert max(sizes) < 200_000
    assert sum(sizes) * 4 / 3 < 2_700_000
