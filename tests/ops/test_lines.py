"""What is read between samples, against matrices and by hand."""

from __future__ import annotations

import numpy as np
import torch

from medseg.ops.lines import LINEAR, NEAREST, Line, corners, sample, settled
from medseg.ops.resample import along_axis, interpolation_matrix

SHAPE = (9, 11, 7)
POSITIONS = (np.linspace(-0.4, 8.4, 23), np.linspace(10.3, -0.2, 31), np.arange(7.0))


def lines(orders=(LINEAR, LINEAR, LINEAR)):
    return [Line.through(line, size, order) for line, size, order in zip(POSITIONS, SHAPE, orders, strict=True)]


def test_a_line_reads_as_its_matrix_does():
    array = torch.randn(SHAPE)
    expected = array
    for axis, (line, size) in enumerate(zip(POSITIONS, SHAPE, strict=True)):
        expected = along_axis(expected, torch.from_numpy(interpolation_matrix(line, size, LINEAR)), axis)
    torch.testing.assert_close(sample(array, lines()), expected, atol=1e-5, rtol=1e-5)
    single = Line.through(np.array([-1.0, 0.0, 3.0]), 1, LINEAR)
    assert single.near.tolist() == single.far.tolist() == [0, 0, 0]


def test_an_axis_that_is_read_at_its_samples_needs_no_neighbours():
    nearly = Line.through(np.arange(6.0) * (1 + 1e-9) - 1e-8, 6, LINEAR)
    assert nearly.near.tolist() == nearly.far.tolist() == [0, 1, 2, 3, 4, 5]
    assert not nearly.weight.any()
    assert Line.through(np.array([0.0, 0.5, 1.0]), 2, LINEAR).weight.tolist() == [0, 0.5, 1]


def test_samples_and_shares_give_what_is_between():
    array = torch.randn(SHAPE)
    for orders, count in (((LINEAR,) * 3, 4), ((LINEAR, NEAREST, LINEAR), 2)):  # the last axis is read at its samples
        expected = sample(array, lines(orders))
        numbers, shares = corners(lines(orders), torch.ones(expected.shape).nonzero(), SHAPE)
        assert numbers.shape == shares.shape == (expected.numel(), count)
        found = (array.flatten()[numbers] * shares).sum(1)
        torch.testing.assert_close(found, expected.flatten(), atol=1e-5, rtol=1e-5)


def test_a_position_is_settled_where_all_samples_around_it_are_the_same():
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    labels[3:, 4:] = 7
    value, mixed = settled(labels, lines())
    share = sample((labels == 7).float(), lines())
    assert torch.equal(mixed, (share > 0) & (share < 1))
    assert torch.equal(value[~mixed] == 7, share[~mixed] == 1)
