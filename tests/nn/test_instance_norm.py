from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from medseg.nn.instance_norm import instance_norm


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


def test_it_is_torchs_own_where_nothing_is_learnt():
    norm, x = _norm(), _features()
    with torch.no_grad():
        expected = functional.leaky_relu(norm(x), 0.01)
        assert torch.equal(instance_norm(norm, x, slope=0.01), expected)
    assert torch.equal(instance_norm(norm.eval(), x), norm(x))


def test_a_map_of_one_voxel_is_refused_as_torch_refuses_it():
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        instance_norm(_norm(), torch.zeros(2, 5, 1, 1, 1))
