from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.errors import UsageError
from medseg.nn.build import build_segmenter
from medseg.planning import network as module
from medseg.planning.memory import step_bytes
from medseg.planning.network import PRESETS, Task, plan_step

LARGE = Task((400, 380, 300), (1.0, 1.0, 1.0), num_channels=1, num_outputs=3, num_cases=40)
SMALL = Task((40, 36, 30), (1.0, 1.0, 1.0), num_channels=2, num_outputs=3, num_cases=40)
OUTSIDE = {"num_channels": 1, "num_outputs": 3}
FOREIGN = ("swin-unetr", "segresnet", "attention-unet")

tasks = st.builds(
    Task,
    st.tuples(*[st.integers(1, 500)] * 3),
    st.tuples(*[st.floats(0.3, 6).map(lambda value: round(value, 2))] * 3),
    num_channels=st.just(1),
    num_outputs=st.sampled_from([0, 3]),
    num_cases=st.integers(1, 100),
)


@settings(max_examples=200, deadline=None)
@given(tasks, st.sampled_from(FOREIGN), st.sampled_from(["cpu", "gpu"]))
def test_patches_of_monais_networks_are_multiples_of_what_these_shrink_them_by(task, kind, target):
    step = plan_step(task, kind, target)
    coarsest = [edge / factor for edge, factor in zip(step.patch_size, step.network.factors, strict=True)]
    assert all(edge == int(edge) >= 1 for edge in coarsest)
    assert np.prod(coarsest) >= 2
    assert step.network.kind == kind
    assert step.batch_size >= 2


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_planned_network_can_be_built_and_takes_its_patch(kind):
    step = plan_step(SMALL, kind, "cpu")
    built = build_segmenter(step.network, 2, 3).to("meta")
    skips = built.encode(torch.empty(1, 2, *step.patch_size, device="meta"))
    assert built.decode(skips, all_scales=True)[0].shape[2:] == step.patch_size


def test_residual_encoders_grow_their_patch_with_the_memory_they_are_meant_for():
    steps = {name: plan_step(LARGE, name, "gpu") for name in PRESETS}
    voxels = [np.prod(step.patch_size) / 128**3 for step in steps.values()]
    assert voxels == pytest.approx([1, 3, 5], rel=0.2)
    for step in steps.values():
        assert (step.network.kind, step.network.blocks, step.batch_size) == ("residual", (1, 3, 4, 6, 6, 6), 2)
    need = {
        name: step_bytes(step.network, step.patch_size, step.batch_size, **OUTSIDE, value_bytes=2) / 2**30
        for name, step in steps.items()
    }
    assert need["resenc-m"] < 8
    assert need["resenc-l"] < 24
    assert need["resenc-xl"] < 40


def test_where_the_cases_are_small_a_larger_preset_takes_more_of_them():
    steps = [plan_step(SMALL, name, "gpu") for name in ("resenc-m", "resenc-xl")]
    assert steps[0].patch_size == steps[1].patch_size
    assert steps[1].batch_size >= steps[0].batch_size


def test_a_device_with_less_memory_gets_a_smaller_step():
    free, tight = plan_step(LARGE, None, "gpu"), plan_step(LARGE, None, "gpu", memory_gib=3.0)
    assert np.prod(tight.patch_size) < np.prod(free.patch_size)
    need = step_bytes(tight.network, tight.patch_size, tight.batch_size, **OUTSIDE, value_bytes=2)
    assert need < 0.85 * 3 * 2**30
    assert "of 3 GiB" in tight.decisions[-1].reason
    assert plan_step(LARGE, None, "gpu", memory_gib=80.0).patch_size == free.patch_size


def test_no_memory_at_all_ends_with_the_smallest_step():
    assert np.prod(plan_step(LARGE, None, "gpu", memory_gib=1e-6).patch_size) <= 2 * module.MIN_EDGE**3


def test_counted_memory_by_hand():
    """Two convolutions on 8 voxels a side: input, two outputs of the convolutions, two of the norms, one upsampled."""
    step = plan_step(SMALL, "plain", "cpu", patch_size=(8, 8, 8))
    one, two = (step_bytes(step.network, (8, 8, 8), batch, num_channels=2, num_outputs=3) for batch in (1, 2))
    weights = 20 * sum(value.numel() for value in build_segmenter(step.network, 2, 3).parameters())
    assert two - weights == 2 * (one - weights)
    features = step.network.features[0]
    full = 8**3 * 4 * (2 + 8 * features)
    assert full < one - weights < 3 * full


def test_half_the_bytes_halve_what_the_network_keeps_but_not_its_loss_nor_its_weights():
    step = plan_step(SMALL, "plain", "cpu", patch_size=(8, 8, 8))

    def held(num_outputs, value_bytes):
        return step_bytes(
            step.network, (8, 8, 8), 1, num_channels=2, num_outputs=num_outputs, value_bytes=value_bytes
        ) - 20 * sum(value.numel() for value in build_segmenter(step.network, 2, num_outputs).parameters())

    model = build_segmenter(step.network, 2, 1).to("meta")
    scales = model.decode(model.encode(torch.empty(1, 2, 8, 8, 8, device="meta")), all_scales=True)
    voxels = sum(scale[0, 0].numel() for scale in scales)
    assert held(5, 2) - held(3, 2) == 2 * voxels * 5 * 4  # five copies of two more outputs
    assert held(3, 4) / 2 < held(3, 2) < 0.6 * held(3, 4)


def test_a_patch_that_monais_networks_cannot_take_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="multiples of 32x32x32") as caught:
        plan_step(SMALL, "swin-unetr", "cpu", patch_size=(60, 40, 20))
    assert caught.value.code == "E-PATCH"
    assert "[64, 32, 32]" in caught.value.remedy
    with pytest.raises(UsageError) as caught:
        plan_step(SMALL, "swin-unetr", "cpu", patch_size=(32, 32, 32))
    assert "[64, 32, 32]" in caught.value.remedy
    assert plan_step(SMALL, "swin-unetr", "cpu", patch_size=(64, 32, 32)).patch_size == (64, 32, 32)
