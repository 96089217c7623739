"""The winner of interpolated logits, against interpolating all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.ops import winners as module
from medseg.ops.lines import LINEAR, NEAREST, Line, corners
from medseg.ops.resample import along_axis, interpolation_matrix
from medseg.ops.winners import Winners

SHAPE = (9, 11, 7)
POSITIONS = (
    np.linspace(-0.4, 8.4, 23),
    np.linspace(10.3, -0.2, 31),  # the axis runs the other way
    np.arange(7.0),  # sample by sample
)


def winners(logits, lines, paint_order=()):
    return Winners(paint_order).between(logits, lines)


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


def test_only_between_samples_of_different_winners_anything_is_interpolated(monkeypatch):
    looked_at = []
    monkeypatch.setattr(
        module, "corners", lambda near, at, shape: looked_at.append(len(at)) or corners(near, at, shape)
    )
    logits = torch.zeros(60, *SHAPE)
    logits[0] = 1
    logits[5, 4:] = 2
    assert not winners(logits[:5], lines()).any()
    assert sum(looked_at) == 0
    found = winners(logits, lines())
    between = (POSITIONS[0] > 3) & (POSITIONS[0] < 4)
    assert sum(looked_at) == between.sum() * found[0].numel()
    logits[7, 2, 3, 4] = 9
    assert set(winners(logits, lines()).unique().tolist()) == {0, 5, 7}


def test_what_wins_at_no_sample_may_win_between():
    logits = torch.tensor([[4.0, 0], [0, 4], [3, 3]]).reshape(3, 2, 1, 1)
    line = Line.through(np.array([0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]), 2, LINEAR)
    single = Line.through(np.zeros(1), 1, LINEAR)
    assert winners(logits, [line, single, single]).flatten().tolist() == [0, 0, 2, 2, 2, 1, 1]


def test_equals_go_to_the_lowest():
    logits = torch.zeros(4, *SHAPE)
    logits[2:, 3:6, 3:6, 3:6] = 1
    assert set(winners(logits, lines()).unique().tolist()) == {0, 2}
