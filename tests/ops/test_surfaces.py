"""Surface elements and distances, against hand-derived cases and brute force."""

from itertools import product

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from medseg.ops.surfaces import element_areas, surface_distances, voxel_surface_distances

SPACING = (1.0, 2.0, 4.0)
SHAPE = (6, 5, 12)


def voxels(*places, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[tuple(np.transpose(places))] = True
    return mask


def test_a_flat_surface_has_the_area_of_the_face():
    """Four voxels filling one layer (i = 0) of the neighbourhood: the cut is the whole j-k face, 2 x 4 mm."""
    assert element_areas(SPACING)[0b00001111] == pytest.approx(8.0)
    assert element_areas(SPACING)[0b00110011] == pytest.approx(4.0)
    assert element_areas(SPACING)[0b01010101] == pytest.approx(2.0)


def test_a_corner_has_the_area_of_the_triangle_through_the_edge_middles():
    """One voxel of eight: a triangle with legs .5, 1 and 2 mm.

    Its area vector has half the products of the legs, (1 x 2, .5 x 2, .5 x 1) / 2 = (1, .5, .25), and the length
    sqrt(1 + .25 + .0625).
    """
    table = element_areas(SPACING)
    assert [table[1 << bit] for bit in range(8)] == pytest.approx([np.sqrt(1.3125)] * 8)


def test_inverting_the_neighbourhood_keeps_its_area_and_only_uniform_ones_have_none():
    table = element_areas(SPACING)
    np.testing.assert_allclose(table, table[::-1])
    assert set(np.flatnonzero(table == 0)) == {0, 255}


def test_areas_equal_the_published_table():
    """All 256 neighbourhoods; theirs names the corner (i, j, k) by the bit 7 - (4i + 2j + k)."""
    from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area

    reversed_bits = [int(f"{code:08b}"[::-1], 2) for code in range(256)]
    published = create_table_neighbour_code_to_surface_area(SPACING)
    np.testing.assert_allclose(element_areas(SPACING)[reversed_bits], published, atol=1e-12)


def test_the_digital_phantom_of_the_ibsi_has_its_consensus_surface():
    """Image Biomarker Standardisation Initiative, reference manual: mesh surface 388 mm^2, 74 voxels of 8 mm^3."""
    mask = np.ones((5, 4, 4), bool)
    mask[tuple(np.transpose([(0, 2, 1), (2, 2, 2), (3, 0, 2), (3, 0, 3), (4, 0, 2), (4, 0, 3)]))] = False
    assert mask.sum() * 8 == 592
    distances = surface_distances(mask, mask, spacing_mm=(2, 2, 2))
    assert distances.to_reference.total == pytest.approx(388, abs=0.5)


def test_two_equal_voxels_apart():
    """One voxel, and the same two steps along k (4 mm voxels).

    The elements are their eight corners, all of one area: k = 0 and 1 against k = 2 and 3. The near four are one step
    (4 mm) from the other voxel, the far four two steps (8 mm). So HD = HD95 = 8, ASSD = (4 + 8) / 2 = 6, and half of
    both surfaces lies within 4 mm.
    """
    distances = surface_distances(voxels((2, 2, 3)), voxels((2, 2, 5)), spacing_mm=SPACING)
    assert distances.hausdorff_mm() == pytest.approx(8)
    assert distances.hausdorff_mm(95) == pytest.approx(8)
    assert distances.hausdorff_mm(50) == pytest.approx(4)
    assert distances.average_mm == pytest.approx(6)
    assert distances.agreement(4.0) == pytest.approx(0.5)
    assert distances.agreement(3.9) == 0
    assert distances.agreement(8.0) == 1


def test_distances_are_weighted_by_area():
    """One voxel against itself and its neighbour along k.

    With a = sqrt(1.3125) the area at a voxel's corner and b = 2 x sqrt(2^2 + 1^2) the area at the middle of the bar's
    long edge (two triangles with area vector (2, 1, 0): half a j-k face of 8 mm^2 / 2 each, half an i-k face), the bar
    has 4 elements at distance 0 (a), 4 at 0 (b) and 4 at 4 mm (a); the voxel has 8 at 0 (a).
    """
    corner, edge = np.sqrt(1.3125), 2 * np.sqrt(5)
    distances = surface_distances(voxels((2, 2, 3)), voxels((2, 2, 3), (2, 2, 4)), spacing_mm=SPACING)
    bar = 8 * corner + 4 * edge
    assert distances.to_prediction.total == pytest.approx(bar)
    assert distances.average_mm == pytest.approx(4 * corner * 4 / (bar + 8 * corner))
    assert distances.agreement(1.0) == pytest.approx(1 - 4 * corner / (bar + 8 * corner))
    share_near = 100 * (1 - 4 * corner / bar)
    assert distances.hausdorff_mm(share_near - 0.01) == 0
    assert distances.hausdorff_mm(share_near + 0.01) == pytest.approx(4)
    assert distances.hausdorff_mm(95) == pytest.approx(4)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 0.8, 5.0), (3.0, 0.4, 1.1)])
def test_distances_equal_brute_force_near_and_far(spacing_mm):
    """Two blocks and a far speck: some elements are found around, some only in the tree."""
    shape = (30, 28, 26)
    prediction, reference = np.zeros((2, *shape), bool)
    prediction[1:9, 3:9, 0:7] = True
    prediction[27:30, 25:28, 24:26] = True
    reference[2:10, 2:8, 1:9] = True
    distances = surface_distances(prediction, reference, spacing_mm=spacing_mm)

    def corners(mask):
        padded = np.pad(mask, 1).astype(int)
        total = sum(padded[tuple(slice(o, o + n + 1) for o, n in zip(offset, shape, strict=True))]
                    for offset in product((0, 1), repeat=3))  # fmt: skip
        return np.argwhere((total > 0) & (total < 8)) * np.array(spacing_mm)

    between = cdist(corners(prediction), corners(reference))
    np.testing.assert_allclose(distances.to_reference.distances_mm, between.min(axis=1), atol=1e-9)
    np.testing.assert_allclose(distances.to_prediction.distances_mm, between.min(axis=0), atol=1e-9)


def test_voxel_surfaces_by_hand():
    """A 3 x 3 x 3 block against its centre voxel, spacing 1 x 2 x 4 mm.

    The block's surface is all its voxels but the centre, which is the other surface: the farthest is a corner,
    sqrt(1 + 4 + 16) mm away; the centre's nearest surface voxel is its neighbour along i, 1 mm away.
    """
    block = np.zeros((5, 5, 5), bool)
    block[1:4, 1:4, 1:4] = True
    centre = voxels((2, 2, 2), shape=block.shape)
    distances = voxel_surface_distances(block, centre, spacing_mm=SPACING)
    steps = [
        np.sqrt(i * i + 4 * j * j + 16 * k * k) for i, j, k in product((-1, 0, 1), repeat=3) if (i, j, k) != (0, 0, 0)
    ]
    np.testing.assert_allclose(np.sort(distances.to_reference.distances_mm), np.sort(steps))
    assert distances.to_prediction.distances_mm.tolist() == [1.0]
    assert distances.average_mm == pytest.approx((sum(steps) + 1) / 27)
    assert distances.hausdorff_mm(50) == pytest.approx(np.median(steps))


def test_a_mask_that_fills_the_array_has_its_surface_at_the_border():
    full = np.ones((3, 4, 5), bool)
    inner = np.zeros_like(full)
    inner[1, 1:3, 1:4] = True
    distances = surface_distances(full, inner, spacing_mm=(1, 1, 1))
    assert distances.to_reference.distances_mm.min() == 1
    assert distances.to_reference.distances_mm.size == 4 * 5 * 6 - 2 * 3 * 4


def test_a_tolerance_on_the_lattice_counts_whatever_the_rounding():
    """Three steps of .1 mm are .3 mm although three times the binary .1 is more."""
    first, second = voxels((0, 0, 0), shape=(6, 1, 1)), voxels((4, 0, 0), shape=(6, 1, 1))
    distances = surface_distances(first, second, spacing_mm=(0.1, 0.1, 0.1))
    assert distances.agreement(0.3) == pytest.approx(0.5)
