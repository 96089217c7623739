from __future__ import annotations

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.data.body import share_outside

SHAPE = (40, 30, 20)


def grid(order=(0, 1, 2)) -> Geometry:
    """Array axes that run along the world axes in any order."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * (2.0, 2.0, 4.0)
    return Geometry(tuple(np.array(SHAPE)[list(order)]), affine)


def chest(order=(0, 1, 2)) -> np.ndarray:
    """A body with two lungs of air, closed in axial slices and open at both ends."""
    array = np.full(SHAPE, -1000, np.int16)
    array[5:35, 5:25] = 40
    array[8:16, 9:21] = array[24:32, 9:21] = -850
    return array.transpose(order)


def box(low, high, order=(0, 1, 2)) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return array.transpose(order)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize(
    ("low", "high", "share"),
    [
        ((9, 10, 2), (15, 20, 18), 0.0),
        ((20, 6, 0), (23, 10, 20), 0.0),
        ((0, 0, 0), (3, 30, 20), 1.0),
        ((0, 8, 5), (8, 12, 15), 0.5),
    ],
    ids=["lung", "between", "beside", "across"],
)
def test_air_inside_the_body_is_not_outside(order, low, high, share):
    image = Volume(chest(order)[None], grid(order))
    # the body is taken a voxel larger than it is: the four of eight columns beside it become five
    found = share_outside(image, LabelMap(box(low, high, order), image.geometry))
    assert found == pytest.approx(share, abs=1e-9)


def test_without_air_only_a_constant_surrounding_is_outside():
    array = np.random.default_rng(3).normal(100, 20, SHAPE).astype(np.float32)
    image = Volume(array[None], grid())
    beside = LabelMap(box((0, 0, 0), (4, 30, 20)), image.geometry)
    assert share_outside(image, beside) == 0
    masked = array.copy()
    masked[:12] = 0
    assert share_outside(Volume(masked[None], grid()), beside) == 1
    assert share_outside(Volume(masked[None], grid()), LabelMap(box((20, 5, 5), (24, 9, 9)), image.geometry)) == 0
