"""Diameters against analytic shapes, against brute force over every corner, and the laws they must obey."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from medseg.clinical.diameters import axial_axis, axial_diameters, axial_tilt_degrees, feret_diameter
from medseg.core.geometry import Geometry

SPACING = (0.7, 0.9, 2.5)


def turned(shape, angles=(8, -11, 17), spacing=SPACING, flips=(1, 1, 1)):
    direction = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(flips)
    return Geometry.from_parts(shape, spacing, direction, (-31.4, 15.9, 265.3))


def box(shape, start, stop):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(low, high) for low, high in zip(start, stop, strict=True))] = True
    return mask


def ellipsoid(shape, centre, radii):
    at = np.indices(shape).transpose(1, 2, 3, 0)
    return (((at - centre) / radii) ** 2).sum(-1) <= 1


def corners_mm(mask, geometry):
    at = np.argwhere(mask)
    corners = np.concatenate([at + np.array(offset) - 0.5 for offset in product((0, 1), repeat=3)])
    return geometry.to_world(np.unique(corners, axis=0))


def slice_corners_mm(mask, geometry):
    """The corners of the voxels' middle planes, slice by slice along k."""
    for k in np.flatnonzero(mask.any(axis=(0, 1))):
        at = np.argwhere(mask[:, :, k])
        corners = np.unique(np.concatenate([at + offset for offset in product((-0.5, 0.5), repeat=2)]), axis=0)
        yield geometry.to_world(np.column_stack([corners, np.full(len(corners), k)]))


def longest_line_across(mask, geometry, found):
    """Lines at a right angle to the long axis, each voxel clipped to each line."""
    start, stop = np.array(found.long_axis.ends_mm)
    along = (stop - start) / np.linalg.norm(stop - start)
    normal = np.cross(geometry.affine[:3, 0], geometry.affine[:3, 1])
    across = np.cross(normal / np.linalg.norm(normal), along)
    voxels = np.argwhere(mask[:, :, found.slice_index])
    ring = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5)])
    points = np.array([geometry.to_world(np.column_stack([v + ring, np.full(5, found.slice_index)])) for v in voxels])
    place, height = (points - start) @ along, (points - start) @ across
    best = 0.0
    for corner in np.unique(np.round(place, 9)):
        for at in (corner - 1e-8, corner + 1e-8):
            low, high = np.inf, -np.inf
            for ts, hs in zip(place, height, strict=True):
                for t0, t1, h0, h1 in zip(ts, ts[1:], hs, hs[1:], strict=False):
                    if min(t0, t1) <= at <= max(t0, t1):
                        h = h0 + (at - t0) / (t1 - t0) * (h1 - h0) if t1 != t0 else h0
                        low, high = min(low, h), max(high, h)
            best = max(best, high - low)
    return best


def test_a_box_on_an_oblique_grid_by_hand():
    geometry = turned((40, 40, 40))
    mask = box(geometry.shape, (5, 5, 10), (25, 15, 20))
    found = axial_diameters(mask, geometry)
    # 20 x 0.7 = 14 mm by 10 x 0.9 = 9 mm by 10 x 2.5 = 25 mm
    diagonal = np.sqrt(14**2 + 9**2)
    assert found.long_axis.length_mm == pytest.approx(diagonal, abs=1e-9)
    # At a right angle to the diagonal the line leaves through both long sides: 9 mm over the cosine 14 / diagonal.
    assert found.short_axis.length_mm == pytest.approx(9 * diagonal / 14, abs=1e-9)
    assert found.slice_index == 14  # the middle of slices 10 to 19
    # Of many lines of that length the one through the middle is drawn.
    middles = [np.mean(axis.ends_mm, axis=0) for axis in (found.long_axis, found.short_axis)]
    assert np.linalg.norm(middles[0] - middles[1]) < 1.5
    assert feret_diameter(mask, geometry).length_mm == pytest.approx(np.sqrt(14**2 + 9**2 + 25**2), abs=1e-9)
    # The voxel's width along the diagonal: cos x 0.7 + sin x 0.9.
    assert found.long_axis.uncertainty_mm == pytest.approx((14 * 0.7 + 9 * 0.9) / diagonal, abs=1e-9)


def test_one_voxel():
    geometry = turned((3, 3, 3))
    mask = box(geometry.shape, (1, 1, 1), (2, 2, 2))
    found = axial_diameters(mask, geometry)
    assert found.long_axis.length_mm == pytest.approx(np.hypot(0.7, 0.9))
    assert feret_diameter(mask, geometry).length_mm == pytest.approx(np.sqrt(0.7**2 + 0.9**2 + 2.5**2))


def test_the_ends_lie_on_the_structure_and_at_a_right_angle():
    geometry = turned((30, 30, 12))
    mask = ellipsoid(geometry.shape, (14.2, 15.1, 5.6), (11.3, 6.4, 4.1))
    found = axial_diameters(mask, geometry)
    long, short = (np.array(caliper.ends_mm) for caliper in (found.long_axis, found.short_axis))
    for line, caliper in ((long, found.long_axis), (short, found.short_axis)):
        assert np.linalg.norm(line[1] - line[0]) == pytest.approx(caliper.length_mm, abs=1e-9)
        indices = geometry.to_index(line)
        assert indices[:, 2] == pytest.approx([found.slice_index] * 2, abs=1e-9)
        inside = np.argwhere(mask[:, :, found.slice_index])
        gaps = [np.abs(inside - end[:2]).max(axis=1).min() for end in indices]
        assert max(gaps) <= 0.5 + 1e-9  # within the square of a voxel of the structure
    assert (long[1] - long[0]) @ (short[1] - short[0]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_against_every_pair_of_corners(seed):
    rng = np.random.default_rng(seed)
    shape = (17, 15, 9)
    geometry = turned(shape, rng.uniform(-15, 15, 3), rng.uniform(0.5, 3, 3), rng.choice([-1, 1], 3))
    mask = ellipsoid(shape, rng.uniform((7, 6, 3), (10, 9, 6)), rng.uniform(2, 7, 3)) & (rng.random(shape) < 0.8)
    assert feret_diameter(mask, geometry).length_mm == pytest.approx(pdist(corners_mm(mask, geometry)).max(), abs=1e-6)
    found = axial_diameters(mask, geometry)
    longest = max(float(pdist(corners).max()) for corners in slice_corners_mm(mask, geometry))
    assert found.long_axis.length_mm == pytest.approx(longest, abs=1e-6)
    assert found.short_axis.length_mm == pytest.approx(longest_line_across(mask, geometry, found), abs=1e-6)


def test_the_line_across_ends_on_a_structure_that_is_not_convex():
    """An L of two arms of 10 x 1 voxels: its hull reaches across the gap, the lesion does not."""
    geometry = Geometry((12, 12, 3), np.eye(4))
    mask = box(geometry.shape, (1, 1, 1), (11, 2, 2)) | box(geometry.shape, (1, 1, 1), (2, 11, 2))
    found = axial_diameters(mask, geometry)
    # From corner (10.5, 0.5) to (0.5, 10.5); across it, the diagonal of a voxel.
    assert found.long_axis.length_mm == pytest.approx(np.hypot(10, 10))
    assert found.short_axis.length_mm == pytest.approx(longest_line_across(mask, geometry, found), abs=1e-6)
    assert found.short_axis.length_mm < 2


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.7, 0.7, 5), (2, 3, 4)])
def test_ellipsoids_lie_within_the_voxels_uncertainty_of_the_formula(spacing):
    rng = np.random.default_rng(3)
    for _ in range(8):
        radii_mm = rng.uniform(9, 20, 3)
        shape = tuple(int(2 * r / s) + 5 for r, s in zip((20, 20, 20), spacing, strict=True))
        centre = (np.array(shape) - 1) / 2 + rng.uniform(-0.5, 0.5, 3)
        mask = ellipsoid(shape, centre, radii_mm / spacing)
        geometry = turned(shape, spacing=spacing)
        found = axial_diameters(mask, geometry)
        # The ellipse in the slice that was taken, whose distance from the middle is known.
        shrink = np.sqrt(1 - ((found.slice_index - centre[2]) * spacing[2] / radii_mm[2]) ** 2)
        caliper, feret = found.long_axis, feret_diameter(mask, geometry)
        assert abs(caliper.length_mm - 2 * shrink * radii_mm[:2].max()) <= caliper.uncertainty_mm
        assert abs(feret.length_mm - 2 * radii_mm.max()) <= feret.uncertainty_mm


def test_resampling_changes_a_diameter_by_no_more_than_a_voxel():
    fine = Geometry.from_parts((96, 96, 60), (0.5, 0.5, 0.8), None, (-24, -24, -24))
    mask = ellipsoid(fine.shape, (47.3, 48.1, 30.2), (31, 22, 18))
    reference = axial_diameters(mask, fine)
    for spacing in ((0.75, 0.75, 1.2), (1, 1, 2), (1.5, 1.2, 3)):
        shape = tuple(int(n * s / t) for n, s, t in zip(fine.shape, fine.spacing_mm, spacing, strict=True))
        coarse = Geometry.from_parts(shape, spacing, None, (-24, -24, -24))
        source = np.rint(fine.to_index(coarse.to_world(np.indices(shape).transpose(1, 2, 3, 0)))).astype(int)
        resampled = mask[tuple(np.clip(source, 0, np.array(fine.shape) - 1).transpose(3, 0, 1, 2))]
        found = axial_diameters(resampled, coarse)
        for here, there in ((found.long_axis, reference.long_axis), (found.short_axis, reference.short_axis)):
            assert abs(here.length_mm - there.length_mm) <= here.uncertainty_mm


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (0, 2, 1)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_the_plane_follows_the_patient_not_the_file(order, flips):
    """The same patient stored with other axes: the same diameters in the same places."""
    geometry = turned((20, 18, 14))
    mask = ellipsoid(geometry.shape, (9.2, 8.7, 6.1), (7.4, 4.3, 5.2))
    matrix = np.eye(4)[:, [*order, 3]]
    for axis, flip in enumerate(flips):
        if flip < 0:
            matrix[:, 3] += matrix[:, axis] * (geometry.shape[order[axis]] - 1)
            matrix[:, axis] *= -1
    shape = tuple(geometry.shape[axis] for axis in order)
    stored = np.flip(mask.transpose(order), [axis for axis in range(3) if flips[axis] < 0])
    other = Geometry(shape, geometry.affine @ matrix)
    found, expected = axial_diameters(stored, other), axial_diameters(mask, geometry)
    assert other.canonical_axes()[0][2] == axial_axis(other) == order.index(2)
    assert found.long_axis.length_mm == pytest.approx(expected.long_axis.length_mm, abs=1e-9)
    assert found.short_axis.length_mm == pytest.approx(expected.short_axis.length_mm, abs=1e-9)
    assert feret_diameter(stored, other).length_mm == pytest.approx(feret_diameter(mask, geometry).length_mm, abs=1e-9)


def test_tilt_of_the_plane():
    assert axial_tilt_degrees(turned((4, 4, 4), (0, 0, 40))) == pytest.approx(0, abs=1e-5)
    assert axial_tilt_degrees(turned((4, 4, 4), (25, 0, 0))) == pytest.approx(25)
    sagittal = Geometry.from_parts((4, 4, 4), (1, 1, 5), np.eye(3)[:, [1, 2, 0]])
    assert axial_axis(sagittal) == 1
    assert axial_tilt_degrees(sagittal) == pytest.approx(0)


def test_nothing_has_no_diameter():
    geometry = turned((3, 3, 3))
    for measure in (axial_diameters, feret_diameter):
        with pytest.raises(ValueError, match="an empty mask has no diameter"):
            measure(np.zeros((3, 3, 3), bool), geometry)


masks = (
    st.binary(min_size=60, max_size=60)
    .map(lambda data: np.frombuffer(data, np.uint8).reshape(5, 4, 3) > 150)
    .filter(lambda mask: mask.any())
)
angles = st.tuples(*[st.floats(-180, 180)] * 3)


@settings(max_examples=60, deadline=None)
@given(mask=masks, angle=angles, shift=st.floats(-500, 500))
def test_turning_and_moving_the_grid_leaves_the_length_in_space(mask, angle, shift):
    still = Geometry.from_parts(mask.shape, SPACING)
    moved = Geometry.from_parts(
        mask.shape, SPACING, Rotation.from_euler("xyz", angle, degrees=True).as_matrix(), (shift, -shift, 2 * shift)
    )
    assert feret_diameter(mask, moved).length_mm == pytest.approx(feret_diameter(mask, still).length_mm, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(mask=masks, turn=st.floats(-180, 180), tilt=st.floats(-35, 35))
def test_turning_the_patient_in_the_plane_leaves_the_calipers(mask, turn, tilt):
    still = Geometry.from_parts(mask.shape, SPACING)
    direction = Rotation.from_euler("z", turn, degrees=True) * Rotation.from_euler("x", tilt, degrees=True)
    moved = Geometry.from_parts(mask.shape, SPACING, direction.as_matrix(), (1, 2, 3))
    one, other = axial_diameters(mask, still), axial_diameters(mask, moved)
    assert one.slice_index == other.slice_index
    assert other.long_axis.length_mm == pytest.approx(one.long_axis.length_mm, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(mask=masks, more=masks)
def test_adding_voxels_never_shortens(mask, more):
    geometry = turned(mask.shape)
    assert feret_diameter(mask | more, geometry).length_mm >= feret_diameter(mask, geometry).length_mm - 1e-9
    long = axial_diameters(mask | more, geometry).long_axis.length_mm
    assert long >= axial_diameters(mask, geometry).long_axis.length_mm - 1e-9


@settings(max_examples=60, deadline=None)
@given(mask=masks)
def test_the_order_of_the_three(mask):
    geometry = turned(mask.shape)
    found = axial_diameters(mask, geometry)
    assert found.short_axis.length_mm <= found.long_axis.length_mm + 1e-9
    assert found.long_axis.length_mm <= feret_diameter(mask, geometry).length_mm + 1e-9
