from __future__ import annotations

import math

import pytest
import torch

from medseg.core.plan import ClassificationPlan
from medseg.nn.diagnosis import Attention, ClassificationHead, OrdinalLayer, Standardise, _pool


def test_features_are_standardised_over_all_cases_seen():
    standardise = Standardise(2)
    seen = torch.randn(400, 2) * torch.tensor([3.0, 0.1]) + torch.tensor([10.0, -1.0])
    for pair in seen.split(2):
        standardise(pair)
    standardise.eval()
    result = standardise(seen)
    assert result.mean(0).abs().max() < 0.25
    assert (result.std(0) - 1).abs().max() < 0.25
    assert standardise(torch.full((1, 2), 1e6)).max() == 5


def test_pooling_by_hand():
    features = torch.zeros(1, 1, 4, 1, 1)
    features[0, 0, :, 0, 0] = torch.tensor([5.0, 1.0, 2.0, 100.0])
    regions = torch.zeros(1, 2, 8, 1, 1)
    regions[0, 0, :2] = 1  # the first voxel of the features; dilated, the first two
    mean_1, mean_2, max_1, max_2 = _pool(features, regions)[0].tolist()
    assert mean_1 == pytest.approx(6 / 2.001)
    assert max_1 == 5
    assert (mean_2, max_2) == (0, 0)
    assert _pool(features, None)[0].tolist() == [27, 100]


def test_what_lies_outside_the_regions_does_not_change_the_diagnosis():
    features, regions = torch.randn(1, 4, 8, 8, 8), torch.zeros(1, 1, 16, 16, 16)
    regions[..., 4:8, 4:8, 4:8] = 1
    changed = features.clone()
    changed[..., 6:, :, :] += 50
    torch.testing.assert_close(_pool(features, regions), _pool(changed, regions))
    changed[..., 3, 3, 3] += 50
    assert not torch.allclose(_pool(features, regions), _pool(changed, regions))


def test_steps_of_a_scale_by_hand():
    layer = OrdinalLayer(1, 3)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.copy_(torch.tensor([-1.0, 1.0]))  # used in falling order
    (found,) = layer(torch.tensor([[0.25]])).exp().tolist()
    above = [1 / (1 + math.exp(-(0.5 + bias))) for bias in (1.0, -1.0)]
    assert found == pytest.approx([1 - above[0], above[0] - above[1], above[1]], abs=1e-6)


def test_a_fresh_scale_has_equal_steps_and_its_answers_are_log_probabilities():
    layer = OrdinalLayer(4, 5)
    assert layer(torch.zeros(1, 4)).exp()[0].tolist() == pytest.approx([0.2] * 5, abs=1e-6)
    answers = layer(10 * torch.randn(50, 3, 4))
    assert answers.shape == (50, 3, 5)
    torch.testing.assert_close(answers.exp().sum(-1), torch.ones(50, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(answers.softmax(-1), answers.exp(), atol=1e-4, rtol=0)


def test_attention_by_hand():
    """Two places; without a gate's opinion both count alike, with one the second counts e^2 times as much."""
    attend = Attention(1)
    with torch.no_grad():
        for layer in (attend.content, attend.gate, attend.to_weight):
            layer.weight.zero_()
            layer.bias.zero_()
    features = torch.tensor([1.0, 4.0]).reshape(1, 1, 2, 1, 1)
    told, mass = attend(features)
    assert told[0].tolist() == pytest.approx([2.5, 4])
    assert float(mass.detach()) == pytest.approx(math.log(2))
    with torch.no_grad():
        attend.gate.bias.fill_(50.0)
        attend.content.weight[0] = 100.0
        attend.content.bias[0] = -250.0  # tanh: -1 at the first place, 1 at the second
        attend.to_weight.weight[0, 0] = 1.0
    share = math.exp(2) / (1 + math.exp(2))
    told, mass = attend(features)
    assert told[0].tolist() == pytest.approx([1 * (1 - share) + 4 * share, 4])
    assert float(mass.detach()) == pytest.approx(math.log(math.exp(-1) + math.exp(1)))


def _gathering_head() -> ClassificationHead:
    plan = ClassificationPlan.parse(
        {"heads": {"grade": ["low", "high"]}, "view": "foreground", "pooling": "attention", "pool_labels": ["tumour"]}
    )
    head = ClassificationHead([1, 3, 4], 0, plan).eval()
    assert head.gathers
    return head


def test_views_gathered_are_one_large_view_whatever_their_order():
    """Attention weighs the places of all views as if they had been one; of another case's nothing comes in."""
    torch.manual_seed(2)
    head = _gathering_head()
    shapes = ((1, 8, 4, 4), (3, 4, 2, 2), (4, 2, 2, 2))
    large = [torch.randn(1, *shape) * 3 for shape in shapes]
    halves = [torch.cat(part.chunk(2, dim=2)) for part in large]
    others = [torch.randn(1, channels, i // 2, j, k) + 9 for channels, i, j, k in shapes]
    expected, _ = head.pool(large, None)
    pooled, masses = head.pool([torch.cat(pair) for pair in zip(others, halves, strict=True)], None)
    together = torch.tensor([[False, True, True], [True, False, False]])
    found = head.gather(pooled, masses, together)
    torch.testing.assert_close(found[:1], expected)
    torch.testing.assert_close(found[1:], pooled[:1])
    torch.testing.assert_close(head.gather(pooled.flip(0), masses.flip(0), together.flip(1)), found)
    alike = head.gather(pooled, torch.zeros_like(masses), together)  # the views' plain mean is another answer
    assert not torch.allclose(alike[:1], expected, atol=1e-3)
