"""Faces of made heads, in many positions and with the grey values of several modalities."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import islice, permutations, product

import numpy as np
import pytest

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.io.volumes import read_volume
from medseg.ops.deface import find_face
from medseg.ops.head import grey_values, head_template, in_brain, in_face, in_head

TISSUES = np.array([0, 30, 60, 80, 100], np.float32)
LOOKS = {"ct": (-1000, 900, 40, 10, 35), "t1": (5, 20, 180, 60, 120), "flair": (0, 15, 90, 30, 200)}
NOSE, EYES, MOUTH, EAR = (0, 104, -50), ((33, 66, -38), (-33, 66, -38)), (0, 82, -90), (85, -20, -45)


def turned(degrees, scale=(0.94, 1.05, 0.97), shift=(12.0, -30.0, 145.0)):
    """(4, 4) from the made head to a patient: stretched, turned about x, y and z, moved."""
    matrix = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        turn = np.eye(4)
        one, other = [row for row in range(3) if row != axis]
        turn[one, one] = turn[other, other] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    matrix = matrix @ np.diag([*scale, 1.0])
    matrix[:3, 3] = shift
    return matrix


@cache
def head(look="ct", degrees=(0, 0, 0), low=(-100, -136, -150), high=(100, 124, 108), step=(5.0, 4.5, 5.0)):
    """A noisy scan of a turned head, and the map from its points to the made head."""
    to_patient = turned(degrees)
    middle = to_patient[:3, 3] + (np.array(low) + high) / 2
    shape = tuple(int((b - a) / s) for a, b, s in zip(low, high, step, strict=True))
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = middle - (np.array(shape) - 1) / 2 * step
    grid = Geometry(shape, affine)
    there = places(grid) @ np.linalg.inv(to_patient)[:3, :3].T + np.linalg.inv(to_patient)[:3, 3]
    values = np.interp(grey_values(there), TISSUES, LOOKS[look])
    values += np.random.default_rng(4).normal(0, 6 if look == "ct" else 3, shape)
    return Volume(values.astype(np.float32)[np.newaxis], grid), there


def places(grid):
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    return grid.to_world(index)


@cache
def cut(look, degrees=(0, 0, 0)):
    return find_face(head(look, degrees)[0])


SLOW = (("t1", (14, 0, 0)), ("t1", (-18, 4, 0)), ("ct", (0, 12, -15)), ("ct", (10, -10, 8)), ("flair", (0, 0, 20)))
POSES = (
    ("ct", (0, 0, 0)),
    ("flair", (-9, 6, 11)),
    *(pytest.param(*pose, marks=pytest.mark.slow) for pose in SLOW),
)


@pytest.mark.parametrize(("look", "degrees"), POSES)
def test_nose_eyes_and_mouth_go_and_the_brain_stays(look, degrees):
    volume, there = head(look, degrees)
    mask = cut(look, degrees).mask(volume.geometry)
    assert not mask[in_brain(there)].any()
    tissue = in_head(there)
    assert mask[in_face(there) & tissue].mean() > 0.85
    assert mask[~in_face(there) & tissue].mean() < 0.02
    to_patient = turned(degrees)
    for point in (NOSE, *EYES, MOUTH):
        assert cut(look, degrees).holds(to_patient[:3, :3] @ point + to_patient[:3, 3]), point
    after = cut(look, degrees).removed_from(volume)
    assert np.ptp(after.array[0][mask]) == 0
    assert abs(after.array[0][mask][0] - LOOKS[look][0]) < 15
    np.testing.assert_array_equal(after.array[0][~mask], volume.array[0][~mask])
    assert volume.array[0][mask].std() > 1, "the original stays as it was"


def test_the_order_in_which_voxels_are_stored_makes_no_difference():
    """Every order of the axes, and each axis turned over."""
    found, geometry = cut("ct"), head("ct")[0].geometry.resized((17, 21, 19))
    expected = found.mask(geometry)
    for order, signs in zip(permutations(range(3)), islice(product((1, -1), repeat=3), 1, None), strict=False):
        flips = tuple(axis for axis in range(3) if signs[axis] < 0)
        affine = geometry.affine[:, [*order, 3]]
        for axis in flips:
            size = geometry.shape[order[axis]]
            affine = affine.copy()
            affine[:3, 3] += affine[:3, axis] * (size - 1)
            affine[:3, axis] *= -1
        grid = Geometry(tuple(geometry.shape[axis] for axis in order), affine)
        np.testing.assert_array_equal(found.mask(grid), np.flip(expected.transpose(order), flips))


@pytest.mark.slow
def test_the_search_starts_from_the_same_order():
    volume, found = head("ct")[0], cut("ct")
    order, flips = (2, 0, 1), (0, 2)
    affine = volume.geometry.affine[:, [*order, 3]].copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (volume.geometry.shape[order[axis]] - 1)
        affine[:3, axis] *= -1
    array = np.ascontiguousarray(np.flip(volume.array[0].transpose(order), flips))[np.newaxis]
    again = find_face(Volume(array, Geometry(array.shape[1:], affine)))
    np.testing.assert_allclose(again.matrix, found.matrix, atol=1e-6)


def test_ears_go_when_asked_for():
    volume, _ = head("ct")
    to_patient = turned((0, 0, 0))
    point = to_patient[:3, :3] @ EAR + to_patient[:3, 3]
    assert not cut("ct").holds(point)
    with_ears = replace(cut("ct"), ears=True)
    assert with_ears.holds(point)
    assert with_ears.mask(volume.geometry).sum() > cut("ct").mask(volume.geometry).sum()


def refused(volume):
    with pytest.raises(GeometryError, match="E-DEFACE") as caught:
        find_face(volume)
    return caught.value.message


def test_what_is_no_head_is_refused():
    shape = (60, 50, 70)
    grid = Geometry(shape, np.diag([5.0, 5.0, 5.0, 1.0]))
    x, y, _ = np.moveaxis(places(grid), -1, 0)
    trunk = np.where(np.hypot((x - 150) / 140, (y - 125) / 100) < 1, 40.0, -1000.0)
    assert "head" in refused(Volume(trunk[np.newaxis].astype(np.float32), grid))
    assert "outline" in refused(Volume(np.full((1, *shape), 40, np.float32), grid))


@pytest.mark.slow
def test_a_brain_without_its_skull_is_refused():
    volume, there = head("flair")
    array = np.where(in_brain(there), volume.array[0], 0)
    refused(Volume(array[np.newaxis], volume.geometry))


@pytest.mark.slow
def test_a_slab_without_a_face_or_without_a_brain_is_refused():
    assert "face" in refused(head("t1", low=(-100, -136, -5))[0])
    refused(head("ct", high=(100, 124, -45))[0])


def test_the_made_head_is_plausible():
    """A large adult brain with its water; no brain in the face; eyes and nose in it."""
    points = places(head_template().geometry)
    litres = head_template().geometry.voxel_volume_mm3 / 1e6
    assert 1.3 < in_brain(points).sum() * litres < 1.9
    assert not (in_face(points, ears=True) & in_brain(points, margin_mm=7)).any()
    for point in (NOSE, *EYES, MOUTH):
        assert in_face(np.array(point, float))
    assert not in_face(np.array(EAR, float))
    assert in_face(np.array(EAR, float), ears=True)


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize("patient", ["patient01", "patient03"])
def test_real_heads_keep_their_brains(real_data, patient):
    volume = read_volume(real_data / "ms_longitudinal" / patient / "study1_FLAIR.nii.gz")
    brain = read_volume(real_data / "ms_longitudinal" / patient / "brainmask.nii.gz").array[0] > 0.5
    mask = find_face(volume).mask(volume.geometry)
    assert not mask[brain].any()
    assert mask.mean() > 0.05


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["openkbp/ct/pt_1.nii.gz", "totalsegmentator/example_ct.nii.gz"])
def test_real_necks_and_trunks_are_refused(real_data, name):
    refused(read_volume(real_data / name))
