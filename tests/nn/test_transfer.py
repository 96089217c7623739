from __future__ import annotations

import pytest
import torch

from medseg.core.plan import Plan
from medseg.nn.build import build_network
from medseg.nn.transfer import is_encoder, take_over

KINDS = ("plain", "residual", "segresnet", "attention-unet")


def _plan(**changes):
    values = {
        "dataset": "d",
        "channels": ["MRI", "MRI", "PET"],
        "labels": {"organ": 1, "lesion": 2},
        "spacing_mm": [1, 1, 1],
        "crop": "none",
        "coarse_axis": None,
        "patch_size": [16, 16, 16],
        "batch_size": 2,
        "mirror_axes": [],
        "network": {
            "kind": "plain",
            "features": [8, 16],
            "strides": [[1, 1, 1], [2, 2, 2]],
            "kernels": [[3, 3, 3], [3, 3, 3]],
            "blocks": [1, 1],
        },
        "classification": {
            "heads": {"kind": ["a", "b", "c"]},
            "view": "foreground",
            "pool_labels": ["lesion"],
        },
        **changes,
    }
    values["normalisation"] = [{"scheme": "per_image"}] * len(values["channels"])
    return Plan.parse(values)


def _taken(plan, source_plan):
    """Weights of the new network, of the fresh one, of the source, and states by layer."""
    fresh, source = (build_network(one, seed=seed).state_dict() for one, seed in ((plan, 1), (source_plan, 2)))
    weights, layers = take_over(fresh, source, plan, source_plan)
    assert set(weights) == set(fresh)
    assert all(weights[name].shape == fresh[name].shape for name in fresh)
    return weights, fresh, source, {layer.name: layer for layer in layers}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_plan_takes_over_everything(kind):
    plan = _plan(network={**_plan().network.model_dump(), "kind": kind, "deep_supervision": kind in KINDS[:2]})
    weights, _, source, layers = _taken(plan, plan)
    assert {layer.state for layer in layers.values()} == {"loaded"}
    assert all(torch.equal(weights[name], source[name]) for name in source)
    assert any(is_encoder(name) for name in source)
    assert not all(is_encoder(name) for name in source)


def test_outputs_follow_the_labels_names():
    weights, fresh, source, layers = _taken(_plan(labels={"vessel": 1, "lesion": 2, "organ": 3}), _plan())
    name = "unet.to_logits.0.weight"
    here, there = weights[name], source[name]
    assert torch.equal(here[[0, 2, 3]], there[[0, 2, 1]])
    assert torch.equal(here[1], fresh[name][1])
    assert (layers[name].state, layers[name].why) == ("partly", "1 of 4 are new")
    assert layers["unet.encoder.0.0.convolution.weight"].state == "loaded"


def test_an_output_of_another_label_stays_fresh_though_its_shape_fits():
    other = {"labels": {"cyst": 1, "stone": 2}, "classification": None}
    weights, fresh, source, layers = _taken(_plan(**other), _plan())
    assert torch.equal(weights["unet.to_logits.0.bias"][0], source["unet.to_logits.0.bias"][0])
    assert torch.equal(weights["unet.to_logits.0.bias"][1:], fresh["unet.to_logits.0.bias"][1:])
    assert layers["unet.to_logits.0.bias"].state == "partly"


def test_regions_are_no_labels():
    regions = _plan(regions={"organ": [1, 2], "lesion": [2]}, classification=None)
    _, _, _, layers = _taken(regions, _plan())
    assert layers["unet.to_logits.0.weight"].state == "fresh"
    assert layers["unet.to_logits.0.weight"].why == "nothing of the same name"


@pytest.mark.parametrize("kind", KINDS[:3])
def test_the_first_convolution_follows_the_channels_names(kind):
    network = {**_plan().network.model_dump(), "kind": kind, "deep_supervision": False}
    plan = _plan(channels=["PET", "CT", "MRI", "MRI"], network=network)
    weights, fresh, source, layers = _taken(plan, _plan(network=network))
    (name,) = [name for name, layer in layers.items() if layer.state == "partly"]
    assert torch.equal(weights[name][:, [0, 2, 3]], source[name][:, [2, 0, 1]])
    assert torch.equal(weights[name][:, 1], fresh[name][:, 1])
    assert layers["head.heads.kind.weight"].state == "fresh"


def test_channels_of_other_names_in_the_same_number_go_by_order():
    plain = {"classification": None}
    weights, _, source, layers = _taken(_plan(channels=["US", "CT", "XR"], **plain), _plan(**plain))
    name = "unet.encoder.0.0.convolution.weight"
    assert layers[name].state == "loaded"
    assert torch.equal(weights[name], source[name])


def test_classes_follow_their_names():
    classification = {"heads": {"kind": ["c", "new", "a"], "stage": ["1", "2"]}}
    classification |= {"view": "foreground", "pool_labels": ["lesion"]}
    weights, fresh, source, layers = _taken(_plan(classification=classification), _plan())
    name = "head.heads.kind.weight"
    assert torch.equal(weights[name][[0, 2]], source[name][[2, 0]])
    assert torch.equal(weights[name][1], fresh[name][1])
    assert layers["head.heads.stage.weight"].why == "the source has none"
    assert layers["head.standardise.mean"].state == "loaded"


def test_a_number_is_taken_over_in_the_same_unit_and_scale_alone():
    age = {"unit": "years", "n": 9, "mean": 60.0, "std": 10.0, "low": 40.0, "high": 80.0}

    def plan(target):
        answers = {"heads": {}, "targets": {"age": target}, "view": "foreground", "pool_labels": ["lesion"]}
        return _plan(classification=answers)

    *_, layers = _taken(plan(age), plan(age))
    assert layers["head.heads.age.weight"].state == "loaded"
    for other in ({"unit": "months"}, {"mean": 61.0}):
        *_, layers = _taken(plan(age), plan(age | other))
        assert layers["head.heads.age.weight"].state == "fresh"
        assert layers["head.standardise.mean"].state == "loaded"


@pytest.mark.parametrize(
    "other",
    [
        {"pool_labels": ["organ"]},
        {"pool_labels": ["lesion"], "directed": True},
        {"pool_labels": ["lesion"], "thickness": True},
        {"pool_labels": ["lesion"], "margin": True},
    ],
)
def test_a_head_that_reads_otherwise_is_fresh(other):
    classification = {"heads": {"kind": ["a", "b", "c"]}, "view": "foreground", **other}
    *_, layers = _taken(_plan(classification=classification), _plan())
    assert {layers[name].state for name in layers if name.startswith("head.")} == {"fresh"}


def test_another_shape_is_told():
    network = {**_plan().network.model_dump(), "features": [8, 24]}
    *_, layers = _taken(_plan(network=network), _plan())
    assert layers["unet.encoder.1.0.convolution.weight"].why == (
        "another shape: (16, 8, 3, 3, 3) there, (24, 8, 3, 3, 3) here"
    )
