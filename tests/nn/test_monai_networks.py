from __future__ import annotations

import pytest
import torch
from monai.networks import nets

from medseg.core.plan import NetworkPlan
from medseg.nn.build import build_segmenter

KINDS = ("swin-unetr", "segresnet", "attention-unet")
SHAPES = {"swin-unetr": (64, 32, 32), "segresnet": (24, 16, 8), "attention-unet": (16, 8, 6)}


def _plan(kind):
    features = {"swin-unetr": (12, 12, 24, 48, 96, 192)}.get(kind, (4, 8, 16))
    stride = (2, 2, 1) if kind == "attention-unet" else (2, 2, 2)
    return NetworkPlan(
        kind=kind,
        features=features,
        strides=((1, 1, 1), *[stride] * (len(features) - 1)),
        kernels=((3, 3, 3),) * len(features),
        blocks=(1,) * len(features),
        decoder_blocks=1,
        deep_supervision=False,
    )


def _image(kind, batch=1):
    return torch.randn(batch, 2, *SHAPES[kind], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_every_stage_and_logits_on_the_inputs_grid(kind):
    plan = _plan(kind)
    network = build_segmenter(plan, 2, 3)
    skips = network.encode(_image(kind))
    assert [skip.shape[1] for skip in skips] == list(plan.features)
    assert tuple(skips[0].shape[2:]) == SHAPES[kind]
    factors = [size // least for size, least in zip(SHAPES[kind], skips[-1].shape[2:], strict=True)]
    assert tuple(factors) == plan.factors
    (logits,) = network.decode(skips, all_scales=True)
    assert tuple(logits.shape) == (1, 3, *SHAPES[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_every_parameter(kind):
    network = build_segmenter(_plan(kind), 2, 3)
    (network.decode(network.encode(_image(kind)), all_scales=True)[0] ** 2).mean().backward()
    silent = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    # MONAI builds an unused norm after the patch embedding, and a bias before an instance norm has no effect
    assert [name for name in silent if not name.endswith("bias")] == []


def test_opened_networks_answer_as_monais_own():
    for kind in ("swin-unetr", "segresnet"):
        network = build_segmenter(_plan(kind), 2, 3).eval()
        with torch.no_grad():
            ours = network.decode(network.encode(_image(kind)), all_scales=False)[0]
            torch.testing.assert_close(ours, network.net(_image(kind)))


def test_the_attention_u_net_answers_as_monais_own_with_instance_norm():
    plan = _plan("attention-unet")
    torch.manual_seed(0)
    theirs = nets.AttentionUnet(3, 2, 3, channels=plan.features, strides=plan.strides[1:])
    for parent in list(theirs.modules()):
        for name, child in parent.named_children():
            if isinstance(child, torch.nn.BatchNorm3d):
                setattr(parent, name, torch.nn.InstanceNorm3d(child.num_features, affine=True))
    torch.manual_seed(0)
    ours = build_segmenter(plan, 2, 3)
    assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in ours.modules())
    with torch.no_grad():
        expected = theirs(_image("attention-unet"))
        found = ours.decode(ours.encode(_image("attention-unet")), all_scales=False)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_without_outputs_there_is_an_encoder_alone_and_all_of_it_is_used(kind):
    network = build_segmenter(_plan(kind), 2, 0)
    assert not network.decodes
    sum((skip**2).mean() for skip in network.encode(_image(kind))[-2:]).backward()
    silent = [name for name, value in network.named_parameters() if value.grad is None]
    assert silent == []


@pytest.mark.parametrize("kind", KINDS)
def test_thin_maps_are_computed_in_fp32_on_a_cpu(kind):
    """As in our own networks: the bf16 weight gradient of a 3D convolution is wrong there."""
    network = build_segmenter(_plan(kind), 2, 3)
    image = _image(kind)

    def gradients():
        network.zero_grad()
        (network.decode(network.encode(image), all_scales=True)[0].float() ** 2).mean().backward()
        return [value.grad.clone() for value in network.parameters()]

    exact = gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = gradients()
    for one, other in zip(exact, mixed, strict=True):
        torch.testing.assert_close(one, other)


def test_thick_maps_keep_the_speed_of_bf16():
    network = build_segmenter(_plan("segresnet"), 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network.encode(torch.randn(1, 2, 16, 16, 16))[1].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("swin-unetr", {"features": (12, 24, 48, 96, 192, 384)}, "features of swin-unetr"),
        ("swin-unetr", {"features": (8, 8, 16, 32, 64, 128)}, "multiple of 12"),
        ("segresnet", {"strides": ((1, 1, 1), (2, 2, 1), (2, 2, 2))}, "halves every axis"),
        ("attention-unet", {"kernels": ((3, 3, 1), (3, 3, 3), (3, 3, 3))}, "kernels of attention-unet"),
    ],
)
def test_a_plan_that_they_cannot_follow_is_refused(kind, change, words):
    with pytest.raises(ValueError, match=words):
        NetworkPlan(**{**_plan(kind).model_dump(), **change})
