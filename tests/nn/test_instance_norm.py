from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from medseg.nn import instance_norm as module
from medseg.nn.instance_norm import instance_norm
from medseg.nn.network import Convolution, ResidualBlock


def _norm(channels=5):
    norm = nn.InstanceNorm3d(channels, affine=True)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(channels, generator=random) + 0.5)
        norm.bias.copy_(torch.randn(channels, generator=random))
    return norm


def _features(dtype=torch.float32, shape=(3, 5, 6, 4, 7)):
    random = torch.Generator().manual_seed(2)
    # Every sample and channel lies elsewhere: statistics over the batch would show.
    offsets = torch.randn(*shape[:2], 1, 1, 1, generator=random) * 3
    return (torch.randn(shape, generator=random) + offsets).to(dtype)


def _with_gradients(answer, norm, x, given):
    y = answer(x)
    return [y, *torch.autograd.grad(y, (x, norm.weight, norm.bias), given.to(y.dtype))]


@pytest.mark.parametrize("slope", [1.0, 0.01])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_values_and_gradients_are_those_of_the_definition(slope, dtype, tolerance, layout):
    norm = _norm()
    x = _features(dtype).contiguous(memory_format=layout).requires_grad_()
    given = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    found = _with_gradients(lambda x: instance_norm(norm, x, slope=slope), norm, x, given)

    exact, wide = _norm().double(), x.detach().double().requires_grad_()

    def defined(x):
        mean, variance = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), unbiased=False, keepdim=True)
        scale, shift = (part[:, None, None, None] for part in (exact.weight, exact.bias))
        return functional.leaky_relu((x - mean) / torch.sqrt(variance + exact.eps) * scale + shift, slope)

    for ours, theirs in zip(found, _with_gradients(defined, exact, wide, given), strict=True):
        assert float((ours.detach().double() - theirs.detach()).norm() / theirs.detach().norm()) < tolerance


def test_channels_stay_last_in_both_directions():
    norm, x = _norm(), _features().contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    y = instance_norm(norm, x, slope=0.01)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    assert gradient.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(("mean", "spread"), [(0, 1), (30, 1), (100, 0.1)])
@pytest.mark.parametrize("slope", [1.0, 0.01])
@pytest.mark.parametrize("chunk_bytes", [2**20, 1000])
@pytest.mark.parametrize("learns", [True, False])
def test_far_from_zero_it_is_still_that_of_double_precision(mean, spread, slope, chunk_bytes, learns, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    x = (mean + spread * _features(shape=(2, 5, 9, 11, 13))).contiguous(memory_format=torch.channels_last_3d)
    norm, wide = _norm(), x.double()
    expected = functional.leaky_relu(_norm().double()(wide), slope)
    with torch.set_grad_enabled(learns):
        found = instance_norm(norm, x, slope=slope)
    assert (found is x) != learns
    # what a difference of single-precision numbers about the mean can be, in spreads
    torch.testing.assert_close(found.double(), expected, atol=1e-5 + 1e-6 * mean / spread, rtol=0)


def test_of_bf16_only_the_ends_are_rounded():
    norm, x = _norm(), _features(torch.bfloat16).contiguous(memory_format=torch.channels_last_3d)
    expected = functional.leaky_relu(norm(x.float()), 0.01).bfloat16()
    with torch.no_grad():
        found = instance_norm(norm, x, slope=0.01)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.01)


def test_it_is_torchs_own_in_another_layout_where_nothing_is_learnt():
    norm, x = _norm(), _features()
    before = x.clone()
    with torch.no_grad():
        expected = functional.leaky_relu(norm(x), 0.01)
        assert torch.equal(instance_norm(norm, x, slope=0.01), expected)
    assert torch.equal(instance_norm(norm.eval(), x), norm(x))
    assert torch.equal(x, before)


@pytest.mark.parametrize("block", [Convolution, ResidualBlock])
def test_a_block_answers_alike_in_both_layouts_and_spares_its_input(block):
    network = block(3, 5, kernel=(3, 3, 3), stride=(2, 2, 2)).eval()
    x = _features(shape=(2, 3, 12, 10, 8)).contiguous(memory_format=torch.channels_last_3d)
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(x.contiguous()), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)
    learning = network.train()(x)
    learning.sum().backward()
    torch.testing.assert_close(learning.detach(), network(x.contiguous()).detach(), atol=1e-5, rtol=1e-5)


def test_a_map_of_one_voxel_is_refused_as_torch_refuses_it():
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        instance_norm(_norm(), torch.zeros(2, 5, 1, 1, 1))


@pytest.mark.filterwarnings("ignore")
def test_what_is_traced_on_little_holds_for_more(monkeypatch):
    """One chunk of what it is shown, and eight of what is asked later."""
    monkeypatch.setattr(module, "_CHUNK_BYTES", 2 * 4 * 27)
    norm = nn.InstanceNorm3d(2, affine=True).requires_grad_(False)
    little, more = (
        _features(shape=(1, 2, *[side] * 3)).contiguous(memory_format=torch.channels_last_3d) for side in (3, 6)
    )
    with torch.no_grad():
        traced = torch.jit.trace(lambda x: instance_norm(norm, x), (little,), check_trace=False)
        torch.testing.assert_close(traced(more.clone()), norm(more))
