"""A few steps on noise tell what a training takes."""

import sys

import pytest
import torch

from medseg.core.settings import TrainSettings
from medseg.data.store import open_store
from medseg.engine import trial as module
from medseg.engine.machine import build_machine
from medseg.engine.trial import try_steps

SETTINGS = TrainSettings(epochs=1, device="cpu")
MIB = 2**20


@pytest.fixture(scope="module")
def plan(workspace):
    return open_store(workspace.store).plan.model_copy(update={"patch_size": (16, 16, 8), "batch_size": 2})


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak cannot be forgotten")
@pytest.mark.parametrize("what", ["guarded_step", "packed_checkpoint"])
def test_what_steps_and_checkpoints_take_is_in_the_peak_and_what_was_before_is_not(plan, monkeypatch, what):
    before = torch.ones(512 * MIB // 4)
    del before
    work = getattr(module, what)

    def with_much_more(*arguments, **named):
        torch.ones(256 * MIB // 4)
        return work(*arguments, **named)

    usual = try_steps(plan, SETTINGS)
    monkeypatch.setattr(module, what, with_much_more)
    greedy = try_steps(plan, SETTINGS)
    assert 0 < usual.peak_bytes - usual.before_bytes < 400 * MIB
    assert 256 * MIB <= greedy.peak_bytes - greedy.before_bytes < 600 * MIB
    assert greedy.peak_bytes - usual.peak_bytes > 128 * MIB


def test_the_windows_that_are_answered_together_are_as_many_as_in_a_validation(plan, monkeypatch):
    seen = []
    whole = module.torch_segment
    monkeypatch.setattr(module, "torch_segment", lambda *of: lambda windows: seen.append(whole(*of)(windows).shape))
    try_steps(plan, SETTINGS)
    assert not seen
    for judged, windows in (
        ((16, 16, 8), 1),
        ((28, 16, 8), 1),
        ((16, 28, 20), 6),
        ((200, 200, 200), 2 * 64**3 // (16 * 16 * 8)),
    ):
        try_steps(plan, SETTINGS, judged=judged)
        assert seen.pop() == (windows, plan.num_outputs, 16, 16, 8)


def test_windows_that_do_not_fit_are_no_fault_of_the_steps(plan, monkeypatch):
    def failing(error):
        def segment(_windows):
            raise error

        monkeypatch.setattr(module, "torch_segment", lambda *_: segment)
        return try_steps(plan, SETTINGS, judged=(16, 16, 8))

    assert failing(torch.OutOfMemoryError("no more")).seconds > 0
    with pytest.raises(RuntimeError, match="something else"):
        failing(RuntimeError("something else"))


def test_weights_are_counted_and_the_fastest_step_counts(plan, monkeypatch):
    times = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))
    found = try_steps(plan, SETTINGS)
    assert (found.seconds, found.device) == (1.0, "cpu")
    assert found.num_weights == sum(value.numel() for value in build_machine(plan, SETTINGS).network.parameters())


def test_where_the_system_does_not_tell_there_is_no_peak(plan, monkeypatch):
    monkeypatch.setattr(module, "peak_bytes", lambda _: None)
    assert try_steps(plan, SETTINGS).peak_bytes is None
