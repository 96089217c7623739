from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseg.core.geometry import Geometry, lps_to_ras

ORIENTATIONS = tuple(product(permutations(range(3)), product((1, -1), repeat=3)))


def _grid(
    orientation, *, angles=(0.0, 0.0, 0.0), spacing=(0.7, 1.3, 3.1), origin=(-31.5, 12.25, 104.0), shape=(5, 7, 4)
):
    """A grid whose array axes run along the signed world axes of `orientation`, turned by `angles` (degrees)."""
    order, signs = orientation
    columns = np.zeros((3, 3))
    for array_axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        columns[world, array_axis] = sign
    return Geometry.from_parts(
        shape, spacing, Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ columns, origin
    )


angle = st.floats(-20, 20)
grids = st.builds(
    _grid,
    st.sampled_from(ORIENTATIONS),
    angles=st.tuples(angle, angle, angle),
    spacing=st.tuples(*[st.floats(0.2, 6)] * 3),
    origin=st.tuples(*[st.floats(-900, 900)] * 3),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
)


def _positions(geometry):
    """(I, J, K, 3) world position of every voxel."""
    return geometry.to_world(np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1))


@settings(max_examples=150, deadline=None)
@given(grids)
def test_canonical_moves_no_voxel_and_runs_ras(geometry):
    order, flips = geometry.canonical_axes()
    canonical = geometry.canonical()
    moved = np.flip(_positions(geometry).transpose(*order, 3), flips)
    assert canonical.axis_codes == "RAS"
    np.testing.assert_allclose(_positions(canonical), moved, atol=1e-9)
    assert canonical.canonical().deviation_mm(canonical) == 0


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_axis_codes_and_canonical_agree_with_nibabel(orientation):
    geometry = _grid(orientation, angles=(11, -17, 8))
    assert geometry.axis_codes == "".join(nib.aff2axcodes(geometry.affine))
    voxels = np.arange(np.prod(geometry.shape), dtype=np.int32).reshape(geometry.shape)
    peer = nib.as_closest_canonical(nib.Nifti1Image(voxels, geometry.affine))
    order, flips = geometry.canonical_axes()
    assert np.array_equal(np.flip(voxels.transpose(order), flips), np.asarray(peer.dataobj))
    np.testing.assert_allclose(geometry.canonical().affine, peer.affine, atol=1e-9)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::7])
def test_world_positions_agree_with_simpleitk(orientation):
    geometry = _grid(orientation, angles=(14, 3, -19))
    image = sitk.Image(geometry.shape, sitk.sitkUInt8)
    lps = lps_to_ras(geometry.affine)
    image.SetSpacing(geometry.spacing_mm)
    image.SetDirection((lps[:3, :3] / np.asarray(geometry.spacing_mm)).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    for index in [(0, 0, 0), (4, 6, 3), (1, 5, 2)]:
        left, posterior, superior = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(geometry.to_world(index), (-left, -posterior, superior), atol=1e-9)


@given(grids)
def test_lps_to_ras_is_its_own_inverse_and_mirrors_two_axes(geometry):
    once = lps_to_ras(geometry.affine)
    assert np.array_equal(once[:2], -geometry.affine[:2])
    assert np.array_equal(once[2:], geometry.affine[2:])
    assert np.array_equal(lps_to_ras(once), geometry.affine)


@given(grids, st.tuples(*[st.integers(-4, 4)] * 3), st.tuples(*[st.integers(1, 6)] * 3))
def test_cropped_keeps_positions_even_outside(geometry, start, size):
    box = geometry.cropped(start, np.add(start, size))
    assert box.shape == size
    np.testing.assert_allclose(_positions(box)[-1, -1, -1], geometry.to_world(np.add(start, size) - 1), atol=1e-8)
    np.testing.assert_allclose(box.to_world((0, 0, 0)), geometry.to_world(start), atol=1e-8)


@given(grids, st.tuples(*[st.integers(1, 12)] * 3))
def test_resized_keeps_the_outer_faces(geometry, shape):
    new = geometry.resized(shape)
    for corner in product((0, 1), repeat=3):
        faces = [np.asarray(corner) * np.asarray(grid.shape) - 0.5 for grid in (geometry, new)]
        np.testing.assert_allclose(new.to_world(faces[1]), geometry.to_world(faces[0]), atol=1e-8)
    extent = np.multiply(geometry.shape, geometry.spacing_mm)
    np.testing.assert_allclose(np.multiply(new.shape, new.spacing_mm), extent, rtol=1e-9)


def test_resized_by_hand():
    new = Geometry.from_parts((4, 3, 2), (1.0, 2.0, 6.0), origin_mm=(10, 20, 30)).resized((2, 3, 4))
    assert new.spacing_mm == (2.0, 2.0, 3.0)
    np.testing.assert_allclose(new.affine[:3, 3], (10.5, 20, 28.5))


@given(grids, st.tuples(*[st.floats(-5, 20)] * 3))
def test_to_index_undoes_to_world(geometry, index):
    np.testing.assert_allclose(geometry.to_index(geometry.to_world(index)), index, atol=1e-6)


def test_measures_of_an_oblique_grid():
    geometry = _grid(((2, 0, 1), (-1, 1, 1)), angles=(10, 20, 5))
    np.testing.assert_allclose(geometry.spacing_mm, (0.7, 1.3, 3.1))
    assert geometry.voxel_volume_mm3 == pytest.approx(0.7 * 1.3 * 3.1)
    np.testing.assert_allclose(geometry.direction.T @ geometry.direction, np.eye(3), atol=1e-12)
    far = geometry.corners_mm()[-1]
    np.testing.assert_allclose(far, geometry.to_world((4, 6, 3)))
    assert geometry.axis_codes == "IRA"
    assert "5x7x4 voxels of 0.7x1.3x3.1 mm, axes IRA" in geometry.describe()


def test_deviation_is_the_worst_corner():
    first = Geometry.from_parts((11, 1, 1), (2.0, 1.0, 1.0))
    second = Geometry.from_parts((11, 1, 1), (2.03, 1.0, 1.0))
    assert first.deviation_mm(second) == pytest.approx(0.3)
    assert first.agrees_with(second, tolerance_mm=0.31)
    assert not first.agrees_with(second, tolerance_mm=0.29)
    assert first.deviation_mm(Geometry.from_parts((11, 1, 2))) == float("inf")


def test_affine_is_a_copy_that_cannot_be_written():
    affine = np.eye(4)
    geometry = Geometry((2, 2, 2), affine)
    affine[0, 3] = 5
    assert geometry.affine[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 3] = 1


@pytest.mark.parametrize(
    ("shape", "affine", "words"),
    [
        ((2, 2, 2), np.eye(3), "4x4"),
        ((2, 2, 2), np.diag([1, np.nan, 1, 1]), "finite"),
        ((2, 0, 2), np.eye(4), "positive"),
        ((2, 2, 2), np.diag([1, 0, 1, 1]), "invertible"),
    ],
)
def test_refuses_what_is_no_grid(shape, affine, words):
    with pytest.raises(ValueError, match=words):
        Geometry(shape, affine)
