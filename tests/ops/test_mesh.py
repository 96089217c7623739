"""The surface of a mask against qhull, hand-counted bodies and laws."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import ConvexHull

from medseg.ops.mesh import mesh_of

SPACING_MM = (0.7, 1.3, 2.9)


def test_one_voxel_is_an_octahedron():
    """Corners half a step away along each axis: volume 4/3 abc, eight faces of half the cross product."""
    mesh = mesh_of(np.ones((1, 1, 1), bool), spacing_mm=SPACING_MM)
    a, b, c = np.asarray(SPACING_MM) / 2
    assert mesh.volume_mm3 == pytest.approx(4 / 3 * a * b * c)
    assert mesh.area_mm2 == pytest.approx(4 * np.sqrt((a * b) ** 2 + (a * c) ** 2 + (b * c) ** 2))
    assert sorted(map(tuple, mesh.corners_mm)) == sorted(
        [(-a, 0, 0), (a, 0, 0), (0, -b, 0), (0, b, 0), (0, 0, -c), (0, 0, c)]
    )


@pytest.mark.parametrize(
    "mask",
    [
        np.ones((3, 4, 2), bool),
        np.ones((1, 5, 1), bool),
        np.ones((1, 3, 3), bool),
        np.add.outer(np.add.outer(np.arange(2), np.arange(2)), np.arange(2)) < 2,
        np.add.outer(np.arange(2), np.arange(2))[None] < 2,
        np.add.outer(np.add.outer(np.arange(5), np.arange(5)), np.arange(5)) < 5,
    ],
    ids=["box", "rod", "plate", "corner", "angle", "tetrahedron"],
)
def test_convex_bodies_equal_their_convex_hull(mask):
    """qhull knows nothing of marching cubes; every body here, and every mirrored one, has a convex surface."""
    for axes in ((), (0,), (1, 2), (0, 1, 2)):
        mesh = mesh_of(np.flip(mask, axes), spacing_mm=SPACING_MM)
        hull = ConvexHull(mesh.corners_mm)
        assert mesh.volume_mm3 == pytest.approx(hull.volume)
        assert mesh.area_mm2 == pytest.approx(hull.area)


@pytest.mark.parametrize("code", [code for code in range(1, 256) if code.bit_count() <= 4])
def test_parts_that_touch_at_an_edge_or_a_corner_are_bodies_of_their_own(code):
    """The eight voxels of one cube, any of them: what is not joined by a face adds up."""
    mask = np.array([bool(code >> bit & 1) for bit in range(8)]).reshape(2, 2, 2)
    parts, num_parts = ndimage.label(mask)
    bodies = [mesh_of(parts == number, spacing_mm=SPACING_MM) for number in range(1, num_parts + 1)]
    assert mesh_of(mask, spacing_mm=SPACING_MM).volume_mm3 == pytest.approx(sum(body.volume_mm3 for body in bodies))


def test_a_hole_is_taken_away():
    """A cube of 3^3 without its middle voxel: the octahedron of the middle is missing, and its surface is added."""
    full = np.ones((3, 3, 3), bool)
    hollow = full.copy()
    hollow[1, 1, 1] = False
    whole, rest, middle = (mesh_of(mask, spacing_mm=SPACING_MM) for mask in (full, hollow, np.ones((1, 1, 1), bool)))
    assert rest.volume_mm3 == pytest.approx(whole.volume_mm3 - middle.volume_mm3)
    assert rest.area_mm2 == pytest.approx(whole.area_mm2 + middle.area_mm2)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_turning_and_mirroring_changes_nothing(axes):
    """Noise holds every arrangement of eight voxels."""
    noise = np.random.default_rng(0).random((12, 11, 13)) < 0.5
    here = mesh_of(noise, spacing_mm=SPACING_MM)
    turned = mesh_of(np.flip(noise, axes[:2]).transpose(axes), spacing_mm=tuple(SPACING_MM[axis] for axis in axes))
    assert (turned.volume_mm3, turned.area_mm2) == pytest.approx((here.volume_mm3, here.area_mm2))


@pytest.mark.parametrize(
    "mask",
    [
        sum(np.meshgrid(*[np.arange(-6, 7) ** 2] * 3)) <= 30,
        np.pad(np.array([1, 1, 0, 1, 1, 0, 0, 0], bool).reshape(2, 2, 2), 1),
    ],
    ids=["ball", "chain"],
)
def test_a_body_and_its_cast_fill_the_block(mask):
    """Inside and outside have the same surface between them; a chain of four is the other four of its cube turned."""
    outside = np.pad(~mask, 2, constant_values=True)
    block = mesh_of(np.ones_like(outside), spacing_mm=SPACING_MM)
    one, other = mesh_of(mask, spacing_mm=SPACING_MM), mesh_of(outside, spacing_mm=SPACING_MM)
    assert one.volume_mm3 + other.volume_mm3 == pytest.approx(block.volume_mm3)
    assert other.area_mm2 == pytest.approx(block.area_mm2 + one.area_mm2)


def test_a_ball_has_the_volume_and_nearly_the_area_of_a_ball():
    spacing_mm, radius_mm = (0.5, 0.8, 1.0), 20.0
    grids = np.meshgrid(*(np.arange(-22, 22.1, size) for size in spacing_mm), indexing="ij")
    mesh = mesh_of(sum(grid**2 for grid in grids) <= radius_mm**2, spacing_mm=spacing_mm)
    assert mesh.volume_mm3 == pytest.approx(4 / 3 * np.pi * radius_mm**3, rel=0.005)
    # the polygons of a two-valued mask are too large on slopes, by up to a tenth
    assert 1.0 < mesh.area_mm2 / (4 * np.pi * radius_mm**2) < 1.12
    assert np.linalg.norm(mesh.corners_mm - mesh.corners_mm.mean(axis=0), axis=1).max() == pytest.approx(20, abs=0.6)
