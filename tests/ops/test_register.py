from __future__ import annotations

import numpy as np
import pytest

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.ops.alignment import Alignment, Displacement, covers
from medseg.ops.alignment_quality import body_mask
from medseg.ops.register import register, unregistered

POINTS = np.random.default_rng(0).uniform([-50, -40, -45], [50, 40, 45], (400, 3))


def rotation(degrees, axis):
    axis = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def motion(degrees, axis, shift_mm):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(degrees, axis)
    matrix[:3, 3] = shift_mm
    return matrix


def body(points, seed=0):
    """Grey values of a body with organs, in HU, at (N, 3) points of its own space."""
    rng = np.random.default_rng(seed)
    values = np.full(len(points), -1000.0)

    def organ(centre, radii, value):
        distance = np.linalg.norm((points - centre) / radii, axis=1)
        inside = 1 / (1 + np.exp(np.clip((distance - 1) * min(radii) / 1.5, -50, 50)))
        values[:] += inside * (value - values)

    organ(np.zeros(3), np.array([70.0, 55.0, 62.0]), 20)
    for _ in range(20):
        organ(rng.uniform([-45, -35, -40], [45, 35, 40]), rng.uniform(5, 15, 3), rng.choice([-800, 60, 120, 300]))
    return values


def scan(geometry, moved=None, *, noise_seed=1, seed=0, warp=None):
    """An image of the body after `moved`, or seen through `warp` (grid to body space)."""
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), -1).reshape(-1, 3)
    points = geometry.to_world(index)
    if moved is not None:
        back = np.linalg.inv(moved)
        points = points @ back[:3, :3].T + back[:3, 3]
    noise = np.random.default_rng(noise_seed).normal(0, 15, len(points))
    values = body(points if warp is None else warp(points), seed) + noise
    return Volume(values.reshape(geometry.shape)[None].astype(np.float32), geometry)


BASELINE = Geometry.from_parts((64, 56, 36), (2.6, 2.5, 4.2), rotation(8, [1, 2, 0.5]), (-80, -70, -70))
LATER = Geometry.from_parts(
    (70, 60, 50), (2.4, 2.5, 3.4), rotation(-5, [0, 1, 1]) @ np.diag([-1, -1, 1]), (85, 75, -85)
)


@pytest.fixture(scope="module")
def baseline():
    return scan(BASELINE)


@pytest.mark.parametrize(
    ("degrees", "shift_mm"), [(0, (0, 0, 0)), (5, (3, -4, 2)), (12, (20, -15, 30))], ids=["none", "small", "large"]
)
def test_a_known_motion_is_recovered(baseline, degrees, shift_mm):
    moved = motion(degrees, [0.3, 0.5, 1], shift_mm)
    found = register(baseline, scan(LATER, moved, noise_seed=2))
    truth = POINTS @ moved[:3, :3].T + moved[:3, 3]
    assert np.linalg.norm(found.alignment.to_moving(POINTS) - truth, axis=1).max() < 1.0
    left = np.linalg.inv(moved[:3, :3]) @ found.alignment.matrix[:3, :3]
    assert Alignment(np.block([[left, np.zeros((3, 1))], [0, 0, 0, 1]])).rotation_degrees < 1.0
    assert found.quality.stage == "affine"
    assert found.quality.determinant == pytest.approx(1, abs=0.03)
    assert found.quality.after.correlation > 0.9
    assert found.quality.after.body_dice > 0.95
    if degrees:
        assert found.quality.after.mutual_information > 2 * found.quality.before.mutual_information


def test_the_same_images_give_the_same_answer(baseline):
    later = scan(LATER, motion(3, [1, 0, 1], (4, 0, -3)), noise_seed=2)
    first, second = register(baseline, later), register(baseline, later)
    assert first.alignment.matrix.tolist() == second.alignment.matrix.tolist()


def test_a_spline_follows_what_an_affine_map_cannot():
    def warp(points):
        waves = (4 * np.sin(points[:, 1] / 30), 3 * np.sin(points[:, 2] / 28), 4 * np.cos(points[:, 0] / 32))
        return points + np.stack(waves, axis=1)

    fixed, moved = scan(BASELINE, warp=warp), motion(4, [0.3, 0.5, 1], (3, 2, -4))
    later = scan(LATER, moved, noise_seed=2)
    inside = POINTS[np.linalg.norm(POINTS / [60, 45, 52], axis=1) < 1]
    truth = warp(inside) @ moved[:3, :3].T + moved[:3, 3]
    plain, bent = register(fixed, later), register(fixed, later, deformable=True)
    errors = [np.linalg.norm(found.alignment.to_moving(inside) - truth, axis=1).mean() for found in (plain, bent)]
    assert bent.quality.stage == "deformable"
    assert errors[1] < 0.75 * errors[0]
    assert errors[1] < 1.3
    there = bent.alignment.to_moving(inside)
    assert bent.alignment.to_fixed(there) == pytest.approx(inside, abs=0.01)


def test_what_lies_on_each_other_already_is_left_there(baseline):
    noise = np.random.default_rng(4).normal(0, 250, baseline.array.shape)  # any shift blurs it
    image = Volume((baseline.array + noise).astype(np.float32), baseline.geometry)
    found = register(image, image)
    assert found.alignment.to_moving(POINTS) == pytest.approx(POINTS)
    assert found.quality.stage == "rigid"
    assert found.quality.after == found.quality.before
    assert found.quality.refused[0].startswith("affine: mutual information fell")


def test_images_of_different_things_are_refused(baseline):
    rng = np.random.default_rng(5)
    slab = np.full(LATER.shape, -1000.0)
    slab[2:5, 2:50, 2:8] = 40
    other = Volume((slab + rng.normal(0, 10, slab.shape))[None].astype(np.float32), LATER)
    with pytest.raises(GeometryError, match="--allow-unregistered") as caught:
        register(baseline, other)
    assert caught.value.code == "E-REGISTRATION"


def test_without_registration_the_quality_is_said(baseline):
    found = unregistered(baseline, scan(LATER, motion(5, [0, 0, 1], (6, 0, 0)), noise_seed=2))
    assert found.quality.stage == "none"
    assert found.quality.before == found.quality.after
    assert found.quality.after.correlation < 0.9
    assert found.alignment.to_moving(POINTS).tolist() == POINTS.tolist()


def test_a_displacement_is_undone():
    grid = Geometry.from_parts((20, 20, 20), (8, 8, 8), rotation(10, [0, 0, 1]), (-80, -80, -80))
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1).reshape(-1, 3)
    shifts = 5 * np.sin(grid.to_world(index) / 30).T.reshape(3, *grid.shape).astype(np.float32)
    alignment = Alignment(motion(7, [1, 1, 0], (5, 6, 7)), Displacement(shifts, grid))
    assert alignment.to_fixed(alignment.to_moving(POINTS)) == pytest.approx(POINTS, abs=0.005)


def test_sampling_finds_the_same_voxel():
    rng = np.random.default_rng(3)
    labels = LabelMap(rng.integers(0, 9, LATER.shape).astype(np.uint8), LATER)
    moved = motion(12, [0, 1, 1], (9, -4, 3))
    index = np.array([[3, 4, 5], [60, 50, 40], [10, 20, 30]])
    points = Alignment(moved).to_fixed(LATER.to_world(index))
    assert Alignment(moved).sample(labels, points).tolist() == labels.array[tuple(index.T)].tolist()
    image = Volume(labels.array[None].astype(np.float32), LATER)
    assert Alignment(moved).sample(image, points) == pytest.approx(labels.array[tuple(index.T)], abs=1e-3)
    assert Alignment(moved).sample(image, points + 1000, outside=-7).tolist() == [-7, -7, -7]


def test_coverage_ends_at_the_outer_faces():
    grid = Geometry.from_parts((4, 4, 4), (2, 2, 2))
    assert covers(grid, np.array([[-0.9, 0, 0], [-1.1, 0, 0], [6.9, 6.9, 6.9], [7.1, 0, 0]])).tolist() == [
        True,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("air", [-1000.0, 0.0])
def test_the_body_is_what_is_no_air(air):
    image = np.full((30, 30, 30), air, np.float32)
    image[5:25, 6:24, 7:23] = air + 1040
    image[10:15, 10:15, 10:15] = air  # a hole: lung
    image[0, 0, 0] = air + 1040  # a speck
    body = body_mask(image + np.random.default_rng(0).normal(0, 5, image.shape).astype(np.float32))
    assert np.count_nonzero(body) == pytest.approx(20 * 18 * 16, rel=0.05)
    assert body[12, 12, 12]
    assert not body[0, 0, 0]
