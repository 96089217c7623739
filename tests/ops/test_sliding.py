from __future__ import annotations

import weakref
from itertools import product

import pytest
import torch
from monai.inferers import sliding_window_inference

from medseg.ops import sliding
from medseg.ops.sliding import WindowGrid, gaussian, sliding_slabs, sliding_window

torch.manual_seed(0)
CONVOLUTION = torch.nn.Conv3d(2, 3, 3, padding=1).eval().requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    ("shape", "window", "overlap"),
    [((24, 16, 12), (12, 8, 4), 0.5), ((24, 16, 12), (8, 8, 12), 0.0), ((20, 16, 14), (8, 16, 8), 0.75)],
)
def test_equals_monai_where_the_windows_start_alike(shape, window, overlap):
    image = torch.randn(2, *shape)
    ours = sliding_window(image, CONVOLUTION, window=window, num_outputs=3, overlap=overlap, window_batch=3)
    peer = sliding_window_inference(
        image[None], window, 3, CONVOLUTION, overlap=overlap, mode="gaussian", sigma_scale=0.125
    )[0]
    torch.testing.assert_close(ours, peer, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("shape", [(13, 8, 21), (5, 3, 30), (1, 1, 1), (8, 8, 8)])
def test_constants_and_local_answers_come_back(shape, overlap):
    image = torch.randn(1, *shape)
    answer = sliding_window(
        image,
        lambda x: torch.cat([torch.full_like(x, 3.0), 2 * x], dim=1),
        window=(8, 6, 7),
        num_outputs=2,
        overlap=overlap,
        window_batch=4,
    )
    assert answer.shape == (2, *shape)
    torch.testing.assert_close(answer[0], torch.full(shape, 3.0))
    torch.testing.assert_close(answer[1], 2 * image[0])


def test_many_channels_stay_as_they_lie_in_memory_and_blend_to_the_same_bits(monkeypatch):
    torch.manual_seed(3)
    image = torch.randn(1, 13, 9, 11)
    slopes = torch.randn(20, 1, 1, 1)
    grid = WindowGrid.over(image.shape[1:], (6, 5, 4), 0.5)

    def plain(windows):
        return (windows * slopes).bfloat16()

    def side_by_side(windows):
        return plain(windows).movedim(1, -1).contiguous().movedim(-1, 1)

    def nothing_at_first(windows):
        answer = side_by_side(windows)
        return answer if windows.mean() > 0 else torch.zeros(20, 1, 1, 1).expand(answer.shape)

    def as_numbers(windows):
        return nothing_at_first(windows).contiguous()

    def slabs(predict):
        return list(sliding_slabs(image, predict, grid=grid, num_outputs=20))

    assert {slab.stride(0) == 1 for slab in slabs(plain)} == {False}
    assert {slab.stride(0) == 1 for slab in slabs(side_by_side)} == {True}
    expected = torch.cat(slabs(plain), dim=1)
    assert torch.equal(torch.cat(slabs(side_by_side), dim=1), expected)
    assert torch.equal(torch.cat(slabs(nothing_at_first), dim=1), torch.cat(slabs(as_numbers), dim=1))
    monkeypatch.setattr("medseg.ops.sliding._CACHE_BYTES", 1)  # row by row
    assert torch.equal(torch.cat(slabs(side_by_side), dim=1), expected)


def test_a_slab_is_let_go_when_whoever_took_it_lets_go():
    image = torch.randn(1, 24, 6, 6)
    taken = []

    def predict(windows):
        assert all(slab() is None for slab in taken)
        return windows

    for slab in sliding_slabs(image, predict, grid=WindowGrid.over((24, 6, 6), (6, 6, 6), 0.5), num_outputs=1):
        taken.append(weakref.ref(slab.untyped_storage()))
        del slab
    assert len(taken) > 4


def test_a_small_image_is_padded_with_zeros_around():
    seen = []

    def predict(windows):
        seen.append(windows)
        return windows

    image = torch.ones(1, 3, 6, 5)
    assert torch.equal(sliding_window(image, predict, window=(6, 6, 6), num_outputs=1), image)
    (only,) = seen
    assert only.shape == (1, 1, 6, 6, 6)
    assert only.sum() == image.sum()
    assert torch.equal(only[0, 0, 1:4, :, 0:5], image[0])


def test_the_order_and_grouping_of_windows_do_not_matter():
    image = torch.randn(2, 17, 11, 9)
    alone, together = (
        sliding_window(image, CONVOLUTION, window=(8, 8, 8), num_outputs=3, window_batch=size) for size in (1, 7)
    )
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    mirrored = sliding_window(
        image.flip(1), lambda x: CONVOLUTION(x.flip(2)).flip(2), window=(8, 8, 8), num_outputs=3
    ).flip(1)
    torch.testing.assert_close(alone, mirrored, atol=1e-5, rtol=1e-5)


def test_counts_the_windows_it_runs():
    for shape, overlap in (((17, 11, 9), 0.5), ((4, 4, 4), 0.5), ((30, 8, 8), 0.0)):
        calls = []
        sliding_window(
            torch.zeros(1, *shape),
            lambda x, calls=calls: calls.append(len(x)) or x,
            window=(8, 8, 8),
            num_outputs=1,
            overlap=overlap,
        )
        assert sum(calls) == WindowGrid.over(shape, (8, 8, 8), overlap).count
    assert WindowGrid.over((16, 8, 8), (8, 8, 8), 0.5).count == 3
    assert WindowGrid.over((17, 8, 8), (8, 8, 8), 0.5).count == 4


def test_gaussian_by_hand():
    weight = gaussian((9, 9, 9))
    assert weight[4, 4, 4] == 1
    assert weight[4, 4, 5].item() == pytest.approx(2.718281828 ** (-0.5 / 1.125**2))
    assert weight.min().item() == pytest.approx(1e-3)
    assert torch.equal(weight, weight.flip(0, 1, 2))
    assert gaussian((1, 1, 1)).item() == 1


def test_the_weights_of_nnunet_by_hand():
    weight = gaussian((8, 9, 8), "nnunet")
    assert weight[4, 4, 4] == 1
    assert weight[3, 4, 4].item() == pytest.approx(2.718281828 ** (-0.5 / 1.0**2))
    assert weight[0, 4, 4].item() == pytest.approx(2.718281828**-8, rel=1e-4)
    assert weight[0, 0, 0].item() == pytest.approx(6e-9)


@pytest.mark.parametrize("shape", [(30, 9, 7), (8, 20, 20), (3, 4, 5), (17, 4, 19)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
def test_slabs_come_in_order_and_are_finished(shape, overlap):
    """Against a blend that holds everything until the end."""
    window = (8, 6, 7)
    image = torch.randn(2, *shape)
    grid = WindowGrid.over(shape, window, overlap)
    slabs = list(sliding_slabs(image, CONVOLUTION, grid=grid, num_outputs=3, window_batch=2))
    assert sum(slab.shape[1] for slab in slabs) == shape[0]
    assert max(slab.shape[1] for slab in slabs) <= window[0]
    low = [max(size - length, 0) // 2 for size, length in zip(window, shape, strict=True)]
    padded = torch.zeros(2, *(max(size, length) for size, length in zip(window, shape, strict=True)))
    inner = tuple(slice(first, first + length) for first, length in zip(low, shape, strict=True))
    padded[(slice(None), *inner)] = image
    total, weight = torch.zeros(3, *padded.shape[1:]), torch.zeros(padded.shape[1:])
    for start in product(*grid.starts):
        box = tuple(slice(first, first + size) for first, size in zip(start, window, strict=True))
        total[(slice(None), *box)] += CONVOLUTION(padded[(slice(None), *box)][None])[0] * gaussian(window)
        weight[box] += gaussian(window)
    expected = (total / weight)[(slice(None), *inner)]
    torch.testing.assert_close(torch.cat(slabs, dim=1), expected, atol=1e-5, rtol=1e-4)


def test_what_lies_beyond_the_image_or_the_box_is_not_held(monkeypatch):
    held = []
    empty = sliding._Part.empty
    monkeypatch.setattr(sliding._Part, "empty", lambda *args, **kind: held.append(args[1]) or empty(*args, **kind))
    for grid, across in (
        (WindowGrid.over((30, 12, 2), (8, 6, 7), 0.5), (12, 2)),
        (WindowGrid.over((30, 12, 2), (8, 6, 7), 0.5).touching(((3, 4, 0), (20, 9, 1))), (5, 1)),
    ):
        held.clear()
        slabs = list(sliding_slabs(torch.randn(2, 30, 12, 2), CONVOLUTION, grid=grid, num_outputs=3))
        assert {shape[2:] for shape in held} == {across}
        assert {slab.shape[2:] for slab in slabs} == {across}


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.7])
@pytest.mark.parametrize(
    ("shape", "start"), [((30, 19, 12), (9, 2, 5)), ((21, 4, 17), (16, 1, 0)), ((8, 6, 3), (2, 2, 1))]
)
def test_in_a_box_the_answer_is_that_of_all_windows(shape, start, overlap):
    """Only windows that touch the box are run, and they lie where they lie without it."""
    image, seen = torch.randn(1, *shape), []

    def predict(windows):
        # As instance norm does, it makes each answer depend on the whole window.
        seen.append(len(windows))
        return torch.cat([windows - windows.mean((2, 3, 4), keepdim=True)] * 2, dim=1)

    grid = WindowGrid.over(shape, (8, 6, 7), overlap)
    whole = torch.cat(list(sliding_slabs(image, predict, grid=grid, num_outputs=2)), dim=1)
    assert sum(seen) == grid.count
    seen.clear()
    stop = tuple(min(first + 3, length) for first, length in zip(start, shape, strict=True))
    near = grid.touching((start, stop))
    slabs = list(sliding_slabs(image, predict, grid=near, num_outputs=2))
    box = tuple(slice(*ends) for ends in zip(start, stop, strict=True))
    torch.testing.assert_close(torch.cat(slabs, dim=1), whole[(slice(None), *box)], atol=1e-6, rtol=1e-5)
    touching = [
        all(
            at < b + pad and at + side > a + pad
            for at, side, a, b, pad in zip(first, near.size, start, stop, near.padding, strict=True)
        )
        for first in product(*grid.starts)
    ]
    assert sum(seen) == sum(touching) == near.count <= grid.count


def test_a_grid_turned_holds_the_same_windows():
    grid = WindowGrid.over((30, 19, 12), (8, 6, 7), 0.5).touching(((9, 2, 5), (12, 9, 8)))
    turned = grid.led_by(2)
    assert turned.shape == (12, 30, 19)
    assert turned.size == (7, 8, 6)
    assert turned.starts == (grid.starts[2], grid.starts[0], grid.starts[1])
    assert turned.box == ((5, 9, 2), (8, 12, 9))
