from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from medseg.nn import in_place
from medseg.nn.in_place import may_normalise_in_place, normalise_in_place
from medseg.nn.network import Convolution, ResidualBlock


def features(*shape, mean=0.0, spread=1.0):
    values = mean + spread * torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return values.contiguous(memory_format=torch.channels_last_3d)


def norm_of(num_features):
    norm = nn.InstanceNorm3d(num_features, affine=True).requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(1)
    norm.weight.copy_(torch.randn(num_features, generator=generator))
    norm.bias.copy_(torch.randn(num_features, generator=generator))
    return norm


@pytest.mark.parametrize(("mean", "spread"), [(0, 1), (30, 1), (100, 0.1)])
@pytest.mark.parametrize("slope", [1.0, 0.01])
@pytest.mark.parametrize("chunk_bytes", [2**20, 1000])
def test_it_is_instance_norm_in_double_precision(mean, spread, slope, chunk_bytes, monkeypatch):
    monkeypatch.setattr(in_place, "_CHUNK_BYTES", chunk_bytes)
    x, norm = features(2, 3, 9, 11, 13, mean=mean, spread=spread), norm_of(3)
    expected = functional.instance_norm(x.double(), weight=norm.weight.double(), bias=norm.bias.double(), eps=norm.eps)
    expected = functional.leaky_relu(expected, slope)
    found = normalise_in_place(x, norm, slope=slope)
    assert found is x
    # what a difference of single-precision numbers about the mean can be, in spreads
    torch.testing.assert_close(found.double(), expected, atol=1e-5 + 1e-6 * mean / spread, rtol=0)


def test_of_bf16_only_the_ends_are_rounded():
    x, norm = features(1, 4, 8, 8, 8, mean=3).bfloat16(), norm_of(4)
    expected = functional.instance_norm(x.float(), weight=norm.weight, bias=norm.bias, eps=norm.eps).bfloat16()
    assert normalise_in_place(x, norm).dtype == torch.bfloat16
    torch.testing.assert_close(x, expected, atol=0.02, rtol=0.01)


def test_features_that_somebody_needs_are_left_alone():
    x = features(1, 3, 4, 4, 4)
    assert not may_normalise_in_place(x)
    with torch.no_grad():
        assert may_normalise_in_place(x)
        assert not may_normalise_in_place(x.contiguous())
        assert not may_normalise_in_place(features(1, 1, 4, 4, 4))


@pytest.mark.parametrize("block", [Convolution, ResidualBlock])
def test_a_block_answers_alike_in_both_layouts_and_spares_its_input(block):
    network = block(3, 5, kernel=(3, 3, 3), stride=(2, 2, 2)).eval()
    x = features(2, 3, 12, 10, 8)
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(x.contiguous()), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)
    learning = network.train()(x)
    learning.sum().backward()
    torch.testing.assert_close(learning.detach(), network(x.contiguous()).detach(), atol=1e-5, rtol=1e-5)
