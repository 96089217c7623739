"""An image in two parts: nothing of it is lost in bf16, and the network is the same."""

from __future__ import annotations

import pytest
import torch

from medseg.core.plan import NetworkPlan
from medseg.nn.network import UNet
from medseg.nn.two_parts import reading_two_parts, two_parts


def _unet(kind="plain", in_channels=2):
    plan = NetworkPlan(
        kind=kind, features=(4, 6), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3),) * 2, blocks=(1, 1)
    )
    torch.manual_seed(1)
    return UNet(in_channels, 3, plan).eval()


def _image(in_channels=2):
    return torch.randn(1, in_channels, 8, 8, 8, generator=torch.Generator().manual_seed(2))


def _answer(unet, image):
    with torch.no_grad():
        return unet.decode(unet.encode(image), all_scales=False)[0]


def test_the_parts_are_what_bf16_holds_and_what_it_loses():
    # between 1 and 2 bf16 knows every 128th: 1 + 3/256 lies between two, and goes to the even one
    parts = two_parts(torch.tensor([[1 + 3 / 256], [-1050.25]]).reshape(2, 1, 1, 1, 1)).flatten(1)
    assert parts.tolist() == [[1 + 4 / 256, -1 / 256], [-1048.0, -2.25]]


def test_together_they_are_the_image():
    image = 30 * _image()
    parts = two_parts(image)
    assert torch.equal(parts[:, :2] + parts[:, 2:], image)
    assert torch.equal(parts[:, :2].bfloat16().float(), parts[:, :2])
    assert (parts[:, 2:].abs() <= image.abs() / 2**8).all()


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_the_answer_is_the_same(kind):
    unet, image = _unet(kind), _image()
    torch.testing.assert_close(_answer(reading_two_parts(unet), two_parts(image)), _answer(unet, image))


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_the_weights_are_those_of_the_network_also_after_they_changed(kind):
    unet, image = _unet(kind), _image()
    twin = reading_two_parts(unet)
    assert {id(one) for one in twin.parameters()} == {id(one) for one in unet.parameters()}
    before = _answer(unet, image)
    with torch.no_grad():
        unet.first.convolution.weight.mul_(-1)
    assert not torch.allclose(_answer(unet, image), before)
    torch.testing.assert_close(_answer(twin, two_parts(image)), _answer(unet, image))


def test_the_network_itself_stays_as_it_is_and_no_random_number_is_drawn():
    unet, image = _unet(), _image()
    state, before = torch.get_rng_state(), _answer(unet, image)
    reading_two_parts(unet)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(_answer(unet, image), before)
