from __future__ import annotations

import pytest
import torch

from medseg.core.plan import Plan
from medseg.nn.build import build_network, head_scales, region_groups


def _plan(*, labels=("liver", "tumour"), pool=("tumour",), view="foreground", heads=True, kind="plain", stages=3):
    return Plan.parse(
        {
            "dataset": "d",
            "channels": ["CT", "PET"],
            "labels": {name: number for number, name in enumerate(labels, start=1)},
            "spacing_mm": [1, 1, 1],
            "crop": "none",
            "normalisation": [{"scheme": "per_image"}] * 2,
            "coarse_axis": None,
            "patch_size": [16, 16, 16],
            "batch_size": 2,
            "mirror_axes": [],
            "network": {
                "kind": kind,
                "features": [4, 6, 8][:stages],
                "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]][:stages],
                "kernels": [[3, 3, 3]] * stages,
                "blocks": [1] * stages,
            },
            "classification": {"heads": {"grade": ["low", "high"]}, "view": view, "pool_labels": pool}
            if heads
            else None,
        }
    )


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_builds_what_the_plan_says(kind):
    output = build_network(_plan(kind=kind))(torch.randn(1, 2, 16, 16, 16), views=torch.arange(1))
    assert output.logits[0].shape == (1, 3, 16, 16, 16)
    assert output.classes["grade"].shape == (1, 2)


@pytest.mark.parametrize("pooling", ["foreground", "global", "attention"])
def test_only_pooling_under_the_foreground_asks_where_it_is(pooling):
    plan = _plan()
    assert plan.classification is not None
    chosen = plan.classification.model_copy(update={"pooling": pooling})
    network = build_network(plan.model_copy(update={"classification": chosen}), seed=0)
    image, masks = torch.randn(2, 2, 16, 16, 16), torch.rand(2, 3, 16, 16, 16)
    network.eval()
    asked = not torch.allclose(network.describe([image], masks), network.describe([image], masks.flip(2)))
    assert asked is (pooling == "foreground")
    assert network.head_scales == ((0, 1, 2) if asked else (1, 2))
    network.classify([image], masks)["grade"].square().sum().backward()
    learnt = [name for name, value in network.named_parameters() if "attention" in name and value.grad is not None]
    assert bool(learnt) is (pooling == "attention")


def test_without_classification_there_is_no_head():
    assert build_network(_plan(heads=False)).head is None


def test_a_classification_only_network_has_no_decoder():
    network = build_network(_plan(labels=(), pool=(), view="whole"))
    output = network(torch.randn(2, 2, 16, 16, 16), views=torch.arange(2))
    assert (output.logits, len(network.unet.decoder), output.classes["grade"].shape) == ([], 0, (2, 2))


def test_a_seed_repeats_the_weights_and_leaves_the_global_state():
    state = torch.random.get_rng_state()
    first, again, other = (build_network(_plan(), seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_regions_are_the_pooled_labels_by_network_index():
    assert region_groups(_plan()) == ((2,),)
    assert region_groups(_plan(pool=("tumour", "liver"))) == ((2,), (1,))
    many = tuple("abcde")
    assert region_groups(_plan(labels=many, pool=many[:4])) == ((1,), (2,), (3,), (4,))
    assert region_groups(_plan(labels=many, pool=many)) == ((1, 2, 3, 4, 5),)


def test_a_whole_view_has_no_regions():
    assert region_groups(_plan(view="whole", pool=())) == ()
    assert region_groups(_plan(heads=False)) == ()


def test_the_head_reads_fine_stages_under_a_region_and_coarse_ones_over_a_whole_view():
    assert [head_scales(stages, pooled=True) for stages in (2, 3, 6)] == [(0, 1), (0, 1, 2), (0, 1, 2)]
    assert [head_scales(stages, pooled=False) for stages in (2, 3, 6)] == [(0, 1), (1, 2), (4, 5)]
    assert build_network(_plan(stages=2)).head_scales == (0, 1)
