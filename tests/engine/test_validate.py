from __future__ import annotations

import pytest
import torch

from medseg.core.errors import ModelError, ResourceError
from medseg.core.settings import TrainSettings
from medseg.data.store import LoadedCase, Store, open_store
from medseg.engine import checkpoint, train, validate
from medseg.engine.checkpoint import CHECKPOINT
from medseg.engine.machine import Machine, build_machine
from medseg.engine.thrift import Thrift
from medseg.engine.train import Run, fit
from medseg.workflows.workspace import Workspace

CPU = torch.device("cpu")
SETTINGS = TrainSettings(epochs=2, warmup_steps=2, seed=5, amp=False, device="cpu")


@pytest.fixture(scope="module")
def store(workspace: Workspace) -> Store:
    opened = open_store(workspace.store)
    plan = opened.plan.model_copy(update={"patch_size": (16, 16, 8), "batch_size": 2})
    return Store(opened.folder, plan, opened.dataset, opened.index)


@pytest.fixture(scope="module")
def cases(store: Store) -> list[LoadedCase]:
    return [store.load(entry.id) for entry in store.index.cases[:4]]


@pytest.fixture(scope="module")
def machine(store: Store) -> Machine:
    return build_machine(store.plan, SETTINGS)


def scarce(monkeypatch, num_failures: int, huge: LoadedCase) -> list[Thrift]:
    """Let one case run out of memory so many times; the rungs tried on it."""
    tried: list[Thrift] = []
    whole = validate.infer_case

    def answered(networks, image, plan, *, thrift, **options):
        if torch.equal(image, huge.image.float()):
            tried.append(thrift)
            if len(tried) <= num_failures:
                raise torch.OutOfMemoryError("no more")
        return whole(networks, image, plan, thrift=thrift, **options)

    monkeypatch.setattr(validate, "infer_case", answered)
    monkeypatch.setattr(validate, "rungs_of", lambda _: tuple(Thrift))
    return tried


@pytest.mark.parametrize("num_failures", [1, 2, 3])
def test_a_case_too_large_is_scored_the_thrifty_way(store, cases, machine, monkeypatch, num_failures):
    plain = validate.validate(machine.averaged, cases, store.plan, device=CPU, dtype=None)
    tried = scarce(monkeypatch, num_failures, cases[1])
    scores = validate.validate(machine.averaged, cases, store.plan, device=CPU, dtype=None)
    assert tried == list(Thrift)[: num_failures + 1]
    assert scores == pytest.approx(plain, abs=1e-3)


def test_a_case_that_no_rung_holds_is_named_and_nothing_is_lost(store, cases, tmp_path, monkeypatch):
    """The training has a checkpoint of the very step, and with enough memory goes on to the same weights."""

    def trained(folder):
        run = Run(folder, {"plan": "a"}, lambda _: None, lambda *_: None)
        return fit(store.plan, cases, cases[:1], settings=SETTINGS, run=run)

    whole = trained(tmp_path / "whole")
    with monkeypatch.context() as patch:
        scarce(patch, 4, cases[0])
        with pytest.raises(ResourceError, match=r"does not hold a case of .* goes on from here") as caught:
            trained(tmp_path / "cut")
    assert (caught.value.code, caught.value.case) == ("E-MEMORY", cases[0].entry.id)
    assert checkpoint.load_progress(tmp_path / "cut" / CHECKPOINT, {"plan": "a"}).step == 1
    again = trained(tmp_path / "cut")
    assert all(torch.equal(again.weights[name], value) for name, value in whole.weights.items())


def test_out_of_memory_in_the_last_validation_leaves_the_trained_network(store, cases, tmp_path, monkeypatch):
    run = Run(tmp_path, {"plan": "a"}, lambda _: None, lambda *_: None)
    monkeypatch.setattr(train.Clock, "validation_due", lambda _: False)
    scarce(monkeypatch, 4, cases[0])
    with pytest.raises(ResourceError):
        fit(store.plan, cases, cases[:1], settings=SETTINGS, run=run)
    assert checkpoint.load_progress(tmp_path / CHECKPOINT, {"plan": "a"}).step == 4


def test_an_answer_that_is_not_finite_is_told_as_a_training_that_diverged(store, cases, tmp_path, monkeypatch):
    def diverged(*_arguments, **_options):
        raise ModelError("the network's answer is not finite", code="E-NUMERIC", remedy="Run again.")

    monkeypatch.setattr(validate, "infer_case", diverged)
    run = Run(tmp_path, {"plan": "a"}, lambda _: None, lambda *_: None)
    with pytest.raises(ModelError, match=r"diverged.*learning_rate.*last checkpoint") as caught:
        fit(store.plan, cases, cases[:1], settings=SETTINGS, run=run)
    assert caught.value.case == cases[0].entry.id
    assert not (tmp_path / CHECKPOINT).exists()  # weights that answer nothing are nothing to go on from


def test_an_error_in_a_validation_that_is_not_about_memory_passes(store, cases, machine, monkeypatch):
    def broken(*_arguments, **_options):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(validate, "infer_case", broken)
    with pytest.raises(RuntimeError, match="shapes") as caught:
        validate.validate(machine.averaged, cases, store.plan, device=CPU, dtype=None)
    assert caught.value.__notes__ == [f"while working on case {cases[0].entry.id}"]
