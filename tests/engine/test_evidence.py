"""Steps without a finite result, or without the memory for one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from medseg.core.errors import InputError, MedsegError, ResourceError
from medseg.core.settings import TrainSettings
from medseg.data.patches import PatchSampler
from medseg.data.store import Store, open_store
from medseg.engine import evidence, step
from medseg.engine.checkpoint import TrainingProgress
from medseg.engine.clock import Clock
from medseg.engine.evidence import read_evidence
from medseg.engine.machine import Machine, build_machine
from medseg.engine.step import as_seen, guarded_step
from medseg.io.weights import save_tensors
from medseg.workflows.workspace import Workspace

SETTINGS = TrainSettings(epochs=100, warmup_steps=2, seed=5, amp=False, device="cpu")


@pytest.fixture(scope="module")
def store(workspace: Workspace) -> Store:
    opened = open_store(workspace.store)
    plan = opened.plan.model_copy(update={"patch_size": (16, 16, 8), "batch_size": 3})
    return Store(opened.folder, plan, opened.dataset, opened.index)


@pytest.fixture(scope="module")
def sampler(store: Store) -> PatchSampler:
    return PatchSampler([store.load(entry.id) for entry in store.index.cases[:4]], store.plan, seed=5)


@pytest.fixture
def machine(store: Store) -> Machine:
    return build_machine(store.plan, SETTINGS)


@pytest.fixture
def clock() -> Clock:
    progress = TrainingProgress(step=7, samples=21)
    return Clock(SETTINGS, progress, num_cases=4, batch_size=3, final_factor=1.0)


def spoiled(batch, sample: int):
    image = batch.image.clone()
    image[sample, 0, 3, 3, 3] = float("nan")
    return replace(batch, image=image, cases=("a", "b", "c"))


def weights(machine: Machine) -> list[torch.Tensor]:
    return [value.detach().clone() for value in machine.network.parameters()]


def test_the_case_is_named_and_its_batch_kept_as_drawn_and_as_seen(machine, sampler, clock, tmp_path):
    before, batch = weights(machine), spoiled(sampler.batch(7), 1)
    with pytest.raises(MedsegError, match=r"the loss is not finite .* on case b; no weight") as caught:
        guarded_step(machine, batch, clock, SETTINGS, folder=tmp_path)
    error, path = caught.value, tmp_path / "failed-step-7.safetensors"
    assert (error.code, error.exit_code, error.file) == ("E-NUMERIC", 1, path)
    assert f"medseg train --preview --batch {path}" in error.remedy
    assert all(torch.equal(first, second) for first, second in zip(before, weights(machine), strict=True))
    kept, tensors = read_evidence(path)
    assert (kept.seed, kept.step, kept.cases, kept.not_finite) == (5, 7, ("a", "b", "c"), ("b",))
    assert json.loads(path.with_suffix(".json").read_text()) == json.loads(kept.to_json())
    seen, _ = as_seen(batch, machine.how, seed=(5, 7), augmented=True)
    for name, value in (("drawn_image", batch.image), ("image", seen.image), ("labels", seen.labels)):
        assert torch.equal(tensors[name].nan_to_num(99.0), value.nan_to_num(99.0)), name
    assert torch.equal(tensors["class.lesion_type"], batch.classes["lesion_type"])


def test_several_processes_keep_their_parts_under_names_of_their_own(machine, sampler, clock, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "how_many", lambda: 2)
    for rank, sample in ((0, 0), (1, 2)):
        monkeypatch.setattr(evidence, "own_rank", lambda rank=rank: rank)
        with pytest.raises(MedsegError) as caught:
            guarded_step(machine, spoiled(sampler.batch(7), sample), clock, SETTINGS, folder=tmp_path)
        assert caught.value.file == tmp_path / f"failed-step-7-rank-{rank}.safetensors"
        assert read_evidence(caught.value.file)[0].not_finite == ("abc"[sample],)


def test_a_gradient_that_is_not_finite_stops_before_the_update(machine, sampler, clock, tmp_path):
    next(machine.network.unet.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    before = weights(machine)
    with pytest.raises(MedsegError, match="the gradient is not finite"):
        guarded_step(machine, sampler.batch(7), clock, SETTINGS, folder=tmp_path)
    assert all(torch.equal(first, second) for first, second in zip(before, weights(machine), strict=True))
    assert (tmp_path / "failed-step-7.safetensors").exists()


def test_a_scaler_skips_steps_with_a_smaller_scale_and_gives_up_when_that_does_not_help(
    machine, sampler, clock, tmp_path, monkeypatch
):
    machine.scaler = torch.amp.GradScaler("cpu", enabled=True)
    monkeypatch.setattr(step, "_MOST_SKIPPED", 3)
    scale, before, hurt = machine.scaler.get_scale(), weights(machine), next(machine.network.unet.parameters())
    handle = hurt.register_hook(lambda gradient: gradient * float("inf"))
    told = [guarded_step(machine, sampler.batch(7), clock, SETTINGS, folder=tmp_path) for _ in range(3)]
    assert [row["skipped"] for row in told] == [1.0, 1.0, 1.0]
    assert machine.scaler.get_scale() == scale / 8
    assert all(torch.equal(first, second) for first, second in zip(before, weights(machine), strict=True))
    handle.remove()
    assert "gradient_norm" in guarded_step(machine, sampler.batch(7), clock, SETTINGS, folder=tmp_path)
    assert machine.num_skipped == 0
    hurt.register_hook(lambda gradient: gradient * float("inf"))
    for _ in range(3):
        guarded_step(machine, sampler.batch(7), clock, SETTINGS, folder=tmp_path)
    with pytest.raises(MedsegError, match="the gradient is not finite") as caught:
        guarded_step(machine, sampler.batch(7), clock, SETTINGS, folder=tmp_path)
    assert caught.value.code == "E-NUMERIC"


def test_a_full_disk_does_not_hide_why_the_step_failed(machine, sampler, clock, tmp_path, monkeypatch):
    def full(*_):
        raise InputError("the disk is full", code="E-DISK-FULL")

    monkeypatch.setattr(evidence, "save_tensors", full)
    with pytest.raises(MedsegError, match="The batch could not be kept: the disk is full") as caught:
        guarded_step(machine, spoiled(sampler.batch(7), 0), clock, SETTINGS, folder=tmp_path)
    assert caught.value.code == "E-NUMERIC"


def test_another_file_is_no_evidence(tmp_path):
    save_tensors(tmp_path / "weights.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(InputError) as caught:
        read_evidence(tmp_path / "weights.safetensors")
    assert caught.value.code == "E-NOT-EVIDENCE"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate"), MemoryError()]
)
@pytest.mark.parametrize(
    ("size", "advice"), [(3, r"--batch-size 1, .*accumulate=2\): it goes on"), (1, "smaller patch_size")]
)
def test_out_of_memory_names_the_smaller_batch(machine, sampler, clock, tmp_path, monkeypatch, error, size, advice):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(step, "train_step", fails)
    with pytest.raises(ResourceError, match=advice) as caught:
        guarded_step(machine, sampler.batch(7, range(size)), clock, SETTINGS, folder=tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("E-MEMORY", 6)


def test_any_other_fault_is_not_called_out_of_memory(machine, sampler, clock, tmp_path, monkeypatch):
    def fails(*_, **__):
        message = "shapes"
        raise RuntimeError(message)

    monkeypatch.setattr(step, "train_step", fails)
    with pytest.raises(RuntimeError, match="shapes"):
        guarded_step(machine, sampler.batch(7), clock, SETTINGS, folder=tmp_path)
