"""Windows that hold nothing are left out only where no labelled voxel can be lost."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from medseg.core.plan import Normalisation
from medseg.ops.blank import blank_values, is_blank, may_skip

CT = Normalisation(scheme="fixed", lower=-100.0, upper=200.0, mean=50.0, std=50.0)
AIR = -3.0  # (-100 - 50) / 50


def test_air_has_one_value_only_where_normalisation_says_so():
    inside = Normalisation(scheme="per_image", nonzero=True)
    assert blank_values([CT, inside]) == (AIR, 0.0)
    for rule in (
        Normalisation(scheme="per_image"),
        Normalisation(scheme="range"),
        Normalisation(scheme="fixed", upper=1.0),
    ):
        assert blank_values([CT, rule]) is None


def test_a_window_is_blank_when_every_channel_is():
    windows = torch.full((3, 2, 4, 4, 4), AIR)
    windows[:, 1] = 0
    windows[1, 1, 2, 3, 0] = 0.01
    windows[2, 0] += 5e-4
    assert is_blank(windows, (AIR, 0.0)).tolist() == [True, False, True]


@pytest.mark.parametrize("seed", range(6))
def test_may_skip_never_loses_a_labelled_voxel(seed):
    """Every window of every size from 2 voxels a side is tried."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.full((1, 5, 4, 6), AIR)
    image[0, torch.rand(5, 4, 6, generator=generator) > 0.85 - 0.1 * seed] = 1.0
    labels = (torch.rand(5, 4, 6, generator=generator) > 0.93).to(torch.uint8)
    lost = False
    for sizes in product(range(2, 6), range(2, 5), range(2, 7)):
        for start in product(*(range(length - size + 1) for length, size in zip((5, 4, 6), sizes, strict=True))):
            box = tuple(slice(first, first + size) for first, size in zip(start, sizes, strict=True))
            lost |= bool(labels[box].any()) and bool(is_blank(image[(None, slice(None), *box)], (AIR,))[0])
    assert not (may_skip(image, labels, (AIR,)) and lost)
    if lost:
        assert not may_skip(image, labels, (AIR,))


def test_one_labelled_voxel_in_the_air_forbids_it():
    image = torch.full((1, 8, 8, 8), AIR)
    image[0, :4] = 1.0
    labels = torch.zeros((8, 8, 8), dtype=torch.uint8)
    labels[:4] = 1
    assert may_skip(image, labels, (AIR,))
    labels[6, 6, 6] = 255
    assert may_skip(image, labels, (AIR,))
    labels[6, 6, 6] = 2
    assert not may_skip(image, labels, (AIR,))
    second = torch.zeros_like(image)
    assert not may_skip(torch.cat([image, second]), labels, (AIR, 0.0))
    assert may_skip(torch.cat([image, second + 1]), labels, (AIR, 0.0))
