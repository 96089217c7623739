from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from medseg.core.plan import MISSING_CLASS
from medseg.core.settings import TrainSettings
from medseg.data.batch import Batch
from medseg.data.patches import PatchSampler
from medseg.data.store import open_store
from medseg.engine.machine import build_machine
from medseg.engine.step import Pace, as_seen, train_step
from medseg.ops.augment import Augmentation


def test_samples_that_tell_a_number_are_seen_in_their_size():
    labels = torch.zeros(2, 24, 24, 24, dtype=torch.uint8)
    labels[:, 8:16, 8:16, 8:16] = 1
    values = {"volume": torch.tensor([0.5, math.nan]), "age": torch.tensor([math.nan, math.nan])}
    known = torch.ones(2, 2, dtype=torch.bool)
    batch = Batch(labels[:, None].float(), labels, known, {}, ("a", "b"), (0, 1), torch.zeros(2, 0), values)
    how = Augmentation((), (), (0, 1, 2), rotation_deg=0.0, scaling=(1.25, 1.25), p_spatial=1.0, intensity=False)
    seen, _ = as_seen(batch, how, seed=(0, 1), augmented=True)
    assert torch.equal(seen.labels[0], labels[0])
    assert (seen.labels[1] == 1).sum() / 8**3 == pytest.approx(1.25**3, rel=0.1)
    assert batch.sized().tolist() == [True, False]


@pytest.mark.parametrize("teaches", [False, True])
def test_a_mistaken_class_does_not_reach_the_segmentation_unless_the_plan_lets_it(workspace, teaches):
    store = open_store(workspace.store)
    assert store.plan.classification is not None
    assert not store.plan.classification.teaches_encoder
    diagnosis = store.plan.classification.model_copy(update={"teaches_encoder": teaches})
    plan = store.plan.model_copy(update={"classification": diagnosis, "patch_size": (16, 16, 8), "batch_size": 4})
    sampler = PatchSampler([store.load(case.id) for case in store.index.cases[:4]], plan, seed=1)
    settings = TrainSettings(epochs=1, amp=False, augment=False, device="cpu", gradient_clip=1e9)
    states = []
    for turned in (False, True):
        machine = build_machine(plan, settings)
        for number in range(2):
            batch = sampler.batch(number)
            index = batch.classes["lesion_type"]
            given = {"lesion_type": torch.where((index != MISSING_CLASS) & turned, 1 - index, index)}
            pace = Pace(class_weight=1.0, reference_share=0.5)
            train_step(machine, replace(batch, classes=given), seed=(0, number), pace=pace, settings=settings)
        states.append((machine.network.unet.state_dict(), machine.network.head.state_dict()))
    (unet, head), (other, other_head) = states
    assert any(not torch.equal(value, other_head[name]) for name, value in head.items())
    assert all(torch.equal(value, other[name]) for name, value in unet.items()) is not teaches
