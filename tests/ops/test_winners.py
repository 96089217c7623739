"""The winner of interpolated logits, against interpolating all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.ops import winners as module
from medseg.ops.resample import LINEAR, NEAREST, Line, along_axis, interpolation_matrix, sample
from medseg.ops.winners import winners

SHAPE = (9, 11, 7)
POSITIONS = (
    np.linspace(-0.4, 8.4, 23),
    np.linspace(10.3, -0.2, 31),  # the axis runs the other way
    np.arange(7.0),  # sample by sample
)


def lines(orders=(LINEAR, LINEAR, LINEAR)):
    return [Line.through(line, size, order) for line, size, order in zip(POSITIONS, SHAPE, orders, strict=True)]


def densely(logits, orders=(LINEAR, LINEAR, LINEAR)):
    for axis, (line, size, order) in enumerate(zip(POSITIONS, SHAPE, orders, strict=True)):
        logits = along_axis(logits, torch.from_numpy(interpolation_matrix(line, size, order)), axis + 1)
    return logits


def blobs(classes):
    """Background with a blob of each class, of which some overlap and one fills everything."""
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(classes, *SHAPE, generator=generator) - 6
    logits[0] += 6
    for channel in logits[1:]:
        start = [int(torch.randint(0, size - 2, (1,), generator=generator)) for size in SHAPE]
        channel[tuple(slice(first, first + 3) for first in start)] += 8
    if classes > 4:
        logits[3] += 5.5
    return logits


@pytest.mark.parametrize("chunk", [1, 2000, 2**30])
@pytest.mark.parametrize("classes", [1, 2, 6])
@pytest.mark.parametrize("orders", [(LINEAR,) * 3, (LINEAR, NEAREST, LINEAR)])
def test_the_winner_is_that_of_all_classes(classes, orders, chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk)
    logits = blobs(classes)
    expected = densely(logits, orders)
    found = winners(logits, lines(orders))
    two = expected.topk(min(2, classes), dim=0).values
    clear = (two[0] - two[-1] > 1e-4) if classes > 1 else torch.ones_like(two[0], dtype=torch.bool)
    assert clear.float().mean() > 0.95
    assert torch.equal(found[clear].long(), expected.argmax(0)[clear])
    assert classes == 1 or len(found.unique()) > 1


@pytest.mark.parametrize("order", [(), (3, 1, 6, 2, 5, 4)])
def test_how_channels_lie_in_memory_makes_no_difference(order):
    logits = blobs(6)
    side_by_side = logits.movedim(0, -1).contiguous().movedim(-1, 0)
    assert side_by_side.stride(0) == 1
    found = winners(logits, lines(), paint_order=order)
    assert len(found.unique()) > 2
    assert torch.equal(winners(side_by_side, lines(), paint_order=order), found)
    side_by_side[1:] = -9
    assert not winners(side_by_side, lines()).any()


@pytest.mark.parametrize("chunk", [1, 2**30])
def test_the_last_region_above_zero_paints(chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk)
    logits = blobs(4)
    logits[0] -= 3
    order = (2, 4, 1, 3)
    scores = densely(logits)
    expected = torch.zeros(scores.shape[1:], dtype=torch.uint8)
    for index, score in zip(order, scores, strict=True):
        expected[score > 0] = index
    clear = (scores.abs() > 1e-4).all(0)
    assert torch.equal(winners(logits, lines(), paint_order=order)[clear], expected[clear])
    assert len(expected.unique()) >= 4


def test_a_class_that_is_nowhere_better_costs_nothing(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "sample", lambda array, lines: calls.append(array.shape) or sample(array, lines))
    logits = torch.zeros(60, *SHAPE)
    logits[0] = 1
    assert not winners(logits, lines()).any()
    assert calls == []
    logits[7, 2, 3, 4] = 9
    assert set(winners(logits, lines()).unique().tolist()) == {0, 7}
    assert len(calls) == 2


def test_equals_go_to_the_lowest():
    logits = torch.zeros(4, *SHAPE)
    logits[2:, 3:6, 3:6, 3:6] = 1
    assert set(winners(logits, lines()).unique().tolist()) == {0, 2}


def test_a_line_reads_as_its_matrix_does():
    array = torch.randn(SHAPE)
    torch.testing.assert_close(sample(array, lines()), densely(array[None])[0], atol=1e-5, rtol=1e-5)
    single = Line.through(np.array([-1.0, 0.0, 3.0]), 1, LINEAR)
    assert single.near.tolist() == single.far.tolist() == [0, 0, 0]
    assert lines()[0].touching(2, 3) == slice(4, 11)
