from __future__ import annotations

from itertools import product

import pytest
import torch

from medseg.core.plan import ClassificationPlan, NetworkPlan
from medseg.nn.diagnosis import ClassificationHead
from medseg.nn.margin import measure_margin
from medseg.nn.network import Convolution, Network, ResidualBlock, UNet
from medseg.nn.shape import measure_shape

HEADS = ClassificationPlan(
    heads={"grade": ("low", "mid", "high"), "side": ("l", "r")}, view="foreground", pool_labels=()
)


def _plan(kind="plain", *, deep=True):
    return NetworkPlan(
        kind=kind,
        features=(4, 6, 8),
        strides=((1, 1, 1), (2, 2, 1), (2, 2, 2)),
        kernels=((3, 3, 1), (3, 3, 3), (3, 3, 3)),
        blocks=(1, 2, 2),
        deep_supervision=deep,
    )


def _network(kind="plain", *, outputs=3, groups=((1,), (2,)), deep=True):
    torch.manual_seed(0)
    unet = UNet(2, outputs, _plan(kind, deep=deep))
    return Network(unet, ClassificationHead((2, 6, 8), len(groups), HEADS), head_scales=(1, 2), region_groups=groups)


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("shape", [(16, 16, 8), (13, 11, 7), (9, 10, 5)])
def test_answers_lie_on_the_inputs_grid(kind, shape):
    network = _network(kind)
    output = network(torch.randn(2, 2, *shape), views=torch.arange(2))
    halved = tuple(-(-size // factor) for size, factor in zip(shape, (2, 2, 1), strict=True))
    assert [tuple(scale.shape) for scale in output.logits] == [(2, 3, *shape), (2, 3, *halved)]
    assert {head: tuple(value.shape) for head, value in output.classes.items()} == {"grade": (2, 3), "side": (2, 2)}
    network.eval()
    assert [tuple(scale.shape) for scale in network(torch.randn(1, 2, *shape)).logits] == [(1, 3, *shape)]


def test_without_deep_supervision_there_is_one_scale():
    assert len(_network(deep=False)(torch.randn(1, 2, 8, 8, 4)).logits) == 1


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("outputs", [3, 0])
def test_the_gradient_reaches_every_parameter(kind, outputs):
    network = _network(kind, outputs=outputs, groups=((1,), (2,)) if outputs else ())
    output = network(torch.randn(2, 2, 12, 12, 8), views=torch.arange(2))
    assert len(output.logits) == (2 if outputs else 0)
    loss = sum((scale**2).mean() for scale in output.logits) + sum((part**2).sum() for part in output.classes.values())
    loss.backward()
    silent = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


def test_every_stage_reaches_the_answer_by_its_own_skip():
    unet = _network().eval().unet
    skips = [skip.detach().requires_grad_() for skip in unet.encode(torch.randn(1, 2, 12, 10, 8))]
    (answer,) = unet.decode(skips, all_scales=False)
    (answer**2).mean().backward()
    assert all(skip.grad is not None and skip.grad.any() for skip in skips)


def test_the_diagnosis_does_not_teach_the_segmentation():
    network = _network()
    sum(part.sum() for part in network(torch.randn(1, 2, 8, 8, 4), views=torch.arange(1)).classes.values()).backward()
    assert all(value.grad is None for value in network.unet.decoder.parameters())
    assert network.unet.encoder[0][0].convolution.weight.grad.any()


def test_the_encoder_hears_of_the_classes_only_where_the_plan_says_so():
    network = _network()
    network.head_teaches = False
    output = network(torch.randn(2, 2, 8, 8, 4), views=torch.arange(2))
    sum(part.square().sum() for part in output.classes.values()).backward()
    assert all(value.grad is None for value in network.unet.parameters())
    assert network.head.heads["grade"].weight.grad.any()


def test_classify_is_the_forward_pass_with_known_probabilities():
    network = _network().eval()
    image = torch.randn(2, 2, 12, 10, 6)
    with torch.no_grad():
        output = network(image, views=torch.arange(2))
        again = network.classify([image], output.logits[0].softmax(1))
    for head, value in output.classes.items():
        torch.testing.assert_close(again[head], value)


def test_only_the_views_are_classified_and_under_the_reference_where_it_is_shown():
    network = _network().eval()
    image = torch.randn(3, 2, 12, 10, 6)
    reference = torch.zeros(3, 12, 10, 6, dtype=torch.int16)
    reference[:, 3:8, 3:8, 2:5] = 1
    reference[2] = -1
    with torch.no_grad():
        output = network(image, views=torch.tensor([0, 2]), reference=reference)
        truth = torch.stack([reference[:1] == index for index in range(3)], dim=1).float()
        shown = network.classify([image[:1]], truth)
        own = network.classify([image[2:]], output.logits[0][2:].softmax(1))
    for head, value in output.classes.items():
        assert len(value) == 2
        torch.testing.assert_close(value[:1], shown[head])
        torch.testing.assert_close(value[1:], own[head])


@pytest.mark.parametrize(("directed", "thickness", "num"), [(False, False, 7), (True, False, 20), (True, True, 24)])
def test_a_channel_of_two_values_is_measured_as_an_outline(directed, thickness, num):
    torch.manual_seed(0)
    unet = UNet(2, 0, _plan())
    plan = HEADS.model_copy(update={"directed": directed, "thickness": thickness})
    head = ClassificationHead((2, 6, 8), 0, plan, num_outlines=1)
    network = Network(unet, head, head_scales=(1, 2), shape_channels=(1,)).eval()
    image = torch.full((1, 2, 9, 9, 9), -1.0)
    image[:, 1, 2:7, 2:7, 2:7] = 1
    described = network.describe([image], None)
    measured = measure_shape((image[:, 1:] > 0).float(), directed=directed, thickness=thickness)
    assert described.shape == (1, sum(head.blocks)) == (1, 2 * (2 + 6 + 8) + num)
    torch.testing.assert_close(described[:, -num:], measured)
    torch.testing.assert_close(network(image, views=torch.arange(1)).described, described)


def test_regions_are_measured_by_direction_where_the_plan_says_so():
    plan = HEADS.model_copy(update={"directed": True})
    head = ClassificationHead((2, 6, 8), 2, plan)
    network = Network(UNet(2, 3, _plan()), head, head_scales=(1, 2), region_groups=((1,), (2,))).eval()
    probabilities = torch.rand(1, 3, 8, 8, 4)
    described = network.describe([torch.randn(1, 2, 8, 8, 4)], probabilities)
    torch.testing.assert_close(described[:, -40:], measure_shape(probabilities[:, 1:], directed=True))


def test_margins_and_shapes_are_those_of_the_mask_where_the_plan_says_so():
    head = ClassificationHead((2, 6, 8), 2, HEADS.model_copy(update={"margin": True}))
    assert head.blocks == (8, 24, 32, 32, 14)
    network = Network(UNet(2, 3, _plan()), head, head_scales=(1, 2), region_groups=((1,), (2,))).eval()
    image, probabilities = torch.randn(1, 2, 8, 8, 4), torch.rand(1, 3, 8, 8, 4)
    described = network.describe([image], probabilities)
    mask = (probabilities[:, 1:] > 0.5).float()
    torch.testing.assert_close(described[:, 64:96], measure_margin(image, mask))
    torch.testing.assert_close(described[:, 96:], measure_shape(mask))


def test_without_a_head_there_are_no_classes():
    network = Network(UNet(2, 3, _plan()), None)
    assert network(torch.randn(1, 2, 8, 8, 4), views=torch.arange(1)).classes == {}
    assert network.classify([torch.randn(1, 2, 8, 8, 4)], None) == {}
    with pytest.raises(ValueError, match="without a classification head"):
        network.describe([torch.randn(1, 2, 8, 8, 4)], None)


def test_regions_add_up_the_labels_of_a_group():
    network = _network(groups=((1, 2),)).eval()
    probabilities = torch.rand(1, 3, 8, 8, 4)
    exchanged = probabilities[:, [0, 2, 1]]
    image = torch.randn(1, 2, 8, 8, 4)
    with torch.no_grad():
        first, second = network.classify([image], probabilities), network.classify([image], exchanged)
    torch.testing.assert_close(first["grade"], second["grade"])


def test_a_residual_block_that_adds_nothing_is_its_shortcut():
    block = ResidualBlock(3, 3, kernel=(3, 3, 3))
    torch.nn.init.zeros_(block.second.norm.weight)
    x = torch.rand(1, 3, 4, 4, 4)
    torch.testing.assert_close(block(x.clone()), x)


EDGES = [shape for shape in product((1, 2, 4), repeat=3) if min(shape) <= 2]


def _weight_gradient(block, image, weight, upstream, *, bf16):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        answer = block(image.clone())
    return torch.autograd.grad((answer.float() * upstream).sum(), weight)[0]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", EDGES)
def test_the_weight_gradient_of_thin_maps_under_bf16_is_that_of_fp32(shape, stride):
    """On some builds of torch the plain convolution's is uninitialised memory here."""
    torch.manual_seed(0)
    block = Convolution(16, 16, kernel=(3, 3, 3), stride=(stride,) * 3)
    block.norm = torch.nn.Identity()
    block.eval()
    image = torch.randn(2, 16, *shape).contiguous(memory_format=torch.channels_last_3d)
    weight = block.convolution.weight
    upstream = torch.randn_like(block(image.clone()))
    exact = _weight_gradient(block, image, weight, upstream, bf16=False)
    mixed = _weight_gradient(block, image, weight, upstream, bf16=True)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0, atol=0.02 * exact.abs().max().item())


@pytest.mark.parametrize("shape", [(4, 2, 4), (2, 2, 2)])
def test_both_convolutions_of_a_residual_block_are_guarded(shape):
    torch.manual_seed(0)
    block = ResidualBlock(16, 16, kernel=(3, 3, 3))
    image = torch.randn(2, 16, *shape)
    upstream = torch.randn_like(block(image.clone()))
    for weight in (block.first.convolution.weight, block.second.convolution.weight):
        exact = _weight_gradient(block, image, weight, upstream, bf16=False)
        mixed = _weight_gradient(block, image, weight, upstream, bf16=True)
        torch.testing.assert_close(mixed, exact, rtol=0, atol=0.05 * exact.abs().max().item())


def test_thick_maps_keep_the_speed_of_bf16():
    block = Convolution(4, 4, kernel=(3, 3, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block.convolution(torch.randn(1, 4, 3, 3, 3)).dtype == torch.bfloat16
        assert block(torch.randn(1, 4, 3, 3, 3)).dtype == torch.bfloat16
        assert block(torch.randn(1, 4, 2, 3, 3)).dtype == torch.float32


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_a_whole_network_with_a_thin_bottleneck_has_finite_gradients_under_bf16(kind):
    network = _network(kind)
    image = torch.randn(2, 2, 8, 8, 4).contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(image, views=torch.arange(2))
    (output.logits[0].float() ** 2).mean().backward()
    gradients = [value.grad for value in network.unet.parameters() if value.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_what_a_gathering_head_learns_from_is_what_it_reads_of_the_same_patches_at_inference():
    """Samples 0 and 1 are of one case, 2 and 3 of another; one of each is a view."""
    torch.manual_seed(4)
    plan = HEADS.model_copy(update={"pooling": "attention"})
    assert plan.gathers
    head = ClassificationHead((2, 6, 8), 0, plan)
    network = Network(UNet(2, 3, _plan()), head, head_scales=(1, 2)).eval()
    image, bags = torch.randn(4, 2, 12, 10, 6), torch.tensor([0, 0, 1, 1])
    with torch.no_grad():
        learnt = network(image, views=torch.tensor([1, 3]), bags=bags).described
        by_case = torch.cat([network.describe(image[pair].split(1), None) for pair in ([0, 1], [2, 3])])
        side_by_side = network.describe([image[[1, 3]], image[[0, 2]]], None)
        alone = network(image, views=torch.tensor([1, 3])).described
    torch.testing.assert_close(learnt, by_case)
    torch.testing.assert_close(side_by_side, by_case)
    assert not torch.allclose(alone, by_case, atol=1e-3)


def test_attention_learns_to_weigh_one_view_against_another():
    torch.manual_seed(4)
    head = ClassificationHead((2, 6, 8), 0, HEADS.model_copy(update={"pooling": "attention"}))
    network = Network(UNet(2, 3, _plan()), head, head_scales=(1, 2))
    output = network(torch.randn(2, 2, 12, 10, 6), views=torch.tensor([1]), bags=torch.tensor([0, 0]))
    assert all(len(answer) == 1 for answer in output.classes.values())
    sum(answer.square().sum() for answer in output.classes.values()).backward()
    assert all(value.grad is not None and value.grad.any() for value in head.attention.parameters() if value.ndim > 1)
