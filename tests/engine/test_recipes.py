from __future__ import annotations

import logging

import pytest
import torch

from medseg.core.errors import MedsegError, UsageError
from medseg.core.settings import TrainSettings
from medseg.data.patches import PatchSampler
from medseg.data.store import open_store
from medseg.engine import compiling, step
from medseg.engine.compiling import compile_network
from medseg.engine.devices import make_deterministic
from medseg.engine.machine import build_machine
from medseg.engine.recipes import RECIPES, recipe_of
from medseg.engine.step import Pace, train_step
from medseg.nn.network import MeanPool

PACE = Pace(class_weight=1.0, reference_share=0.5)
SETTINGS = TrainSettings(epochs=1, amp=False, augment=False, device="cpu")


@pytest.fixture(scope="module")
def opened(workspace):
    store = open_store(workspace.store)
    plan = store.plan.model_copy(update={"patch_size": (16, 16, 8), "batch_size": 4})
    classification = plan.classification.model_copy(update={"dropout": 0.0})
    plan = plan.model_copy(update={"classification": classification})
    return plan, PatchSampler([store.load(case.id) for case in store.index.cases[:4]], plan, seed=1)


def _weights(opened, settings, *, steps=2):
    plan, sampler = opened
    machine = build_machine(plan, settings)
    told = [train_step(machine, sampler.batch(at), seed=(0, at), pace=PACE, settings=settings) for at in range(steps)]
    return machine, told


def _distance(first, second):
    pairs = zip(first.network.parameters(), second.network.parameters(), strict=True)
    return max((one - other).abs().max().item() for one, other in pairs)


def test_a_recipe_brings_its_numbers_and_settings_replace_them():
    assert recipe_of(SETTINGS) == RECIPES["adamw"]
    sgd = recipe_of(TrainSettings(epochs=1, recipe="sgd"))
    assert (sgd.learning_rate, sgd.weight_decay, sgd.gradient_clip) == (1e-2, 3e-5, 12.0)
    other = recipe_of(TrainSettings(epochs=1, recipe="sgd", learning_rate=0.1, weight_decay=0.0, gradient_clip=2.0))
    assert (other.learning_rate, other.weight_decay, other.gradient_clip) == (0.1, 0.0, 2.0)
    with pytest.raises(UsageError, match="recipe"):
        TrainSettings.parse({"recipe": "adam"})


def test_the_rate_warms_up_and_falls():
    recipe = RECIPES["sgd"]
    assert recipe.rate(0, 0.0, warmup_steps=9) == pytest.approx(1e-3)
    assert recipe.rate(9, 0.0, warmup_steps=9) == pytest.approx(1e-2)
    assert recipe.rate(500, 0.5, warmup_steps=9) == pytest.approx(1e-2 * 0.5**0.9)
    assert recipe.rate(500, 1.0, warmup_steps=9) > 0


def test_sgd_is_nesterov_momentum_by_hand():
    """v = g + m v; w -= lr (g + m v), after nnU-Net's weight decay; with v = g at the first step."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    recipe = RECIPES["sgd"]
    optimizer = recipe.optimizer([weight])
    decay, rate, velocity, expected = recipe.weight_decay, recipe.learning_rate, 0.0, 1.0
    for number, gradient in enumerate((0.5, -0.25)):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        full = gradient + decay * expected
        velocity = full if number == 0 else 0.99 * velocity + full
        expected -= rate * (full + 0.99 * velocity)
        assert weight.item() == pytest.approx(expected)


@pytest.mark.parametrize("recipe", ["adamw", "sgd"])
def test_a_batch_in_parts_is_the_same_step_but_for_the_dice_of_the_batch(opened, monkeypatch, recipe):
    def per_voxel(logits, target, _known):
        coarse = sum(scale.square().mean() for scale in logits[1:])
        return coarse + logits[0].square().mean() + (logits[0][:, 0] * target.float()).mean()

    monkeypatch.setattr(step, "segmentation_loss", per_voxel)
    settings = SETTINGS.model_copy(update={"recipe": recipe, "class_weight": 0.0})
    pace = Pace(class_weight=0.0, reference_share=0.5)
    machines = []
    for parts in (1, 2, 4, 3):
        chosen = settings.model_copy(update={"accumulate": parts})
        machine = build_machine(opened[0], chosen)
        losses = train_step(machine, opened[1].batch(0), seed=(0, 0), pace=pace, settings=chosen)
        machines.append((machine, losses))
    whole, told = machines[0]
    gradient = _gradient(whole)
    for machine, losses in machines[1:]:
        assert losses["segmentation"] == pytest.approx(told["segmentation"], rel=1e-5)
        assert losses["gradient_norm"] == pytest.approx(told["gradient_norm"], rel=1e-3)
        # By rounding, which hangs on the CPU, a leaky ReLU at 0 may fall to its other side: some entries then differ.
        assert (_gradient(machine) - gradient).norm() < 0.01 * gradient.norm()


def _gradient(machine):
    return torch.cat([value.grad.flatten() for value in machine.network.unet.parameters()])


def test_accumulating_trains_with_the_real_losses(opened):
    _, told = _weights(opened, SETTINGS.model_copy(update={"accumulate": 2}))
    _, whole = _weights(opened, SETTINGS)
    assert told[0]["segmentation"] == pytest.approx(whole[0]["segmentation"], rel=0.1)
    assert set(told[0]) == set(whole[0])


def test_deterministic_training_repeats_bit_for_bit(opened):
    settings = SETTINGS.model_copy(update={"deterministic": True, "augment": True})
    try:
        first, _ = _weights(opened, settings)
        again, _ = _weights(opened, settings)
        assert _distance(first, again) == 0
        assert torch.are_deterministic_algorithms_enabled()
        assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
    finally:
        torch.use_deterministic_algorithms(mode=False)
        torch.backends.cudnn.deterministic = False


@pytest.mark.parametrize("stride", [(2, 2, 2), (2, 1, 2), (1, 2, 1)])
@pytest.mark.parametrize("shape", [(8, 6, 4), (7, 6, 3), (2, 5, 3)])
def test_mean_pooling_is_the_same_where_every_run_must_be(stride, shape):
    image = torch.randn(2, 3, *shape, dtype=torch.float64)
    image = image.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    pool = MeanPool(stride)
    plain = pool(image)
    (gradient,) = torch.autograd.grad((plain**3).sum(), image)
    try:
        make_deterministic()
        again = pool(image)
        assert "AvgPool" not in again.grad_fn.name()  # which a GPU refuses
        (other,) = torch.autograd.grad((again**3).sum(), image)
    finally:
        torch.use_deterministic_algorithms(mode=False)
        torch.backends.cudnn.deterministic = False
    torch.testing.assert_close(again, plain)
    torch.testing.assert_close(other, gradient)


def test_the_scaler_of_half_precision_scales_and_skips_on_a_cpu(opened, monkeypatch):
    """The path of a GPU without bf16: a gradient that overflows makes no step and halves the scale."""
    machine = build_machine(opened[0], SETTINGS)
    machine.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=2.0**10)
    batch = opened[1].batch(0)
    plain, told = _weights(opened, SETTINGS, steps=1)
    scaled = train_step(machine, batch, seed=(0, 0), pace=PACE, settings=SETTINGS)
    assert scaled["gradient_norm"] == pytest.approx(told[0]["gradient_norm"], rel=1e-4)
    assert _distance(machine, plain) < 1e-4
    before = [value.detach().clone() for value in machine.network.parameters()]
    real = step.segmentation_loss
    monkeypatch.setattr(step, "segmentation_loss", lambda *arguments: real(*arguments) * 1e38)
    assert train_step(machine, batch, seed=(0, 1), pace=PACE, settings=SETTINGS)["skipped"] == 1.0
    assert machine.scaler.get_scale() == 2.0**9
    assert all(torch.equal(one, two) for one, two in zip(before, machine.network.parameters(), strict=True))
    machine.num_skipped = 20
    with pytest.raises(MedsegError, match="not finite"):
        train_step(machine, batch, seed=(0, 2), pace=PACE, settings=SETTINGS)


def _pretend_to_compile(monkeypatch, *, fails):
    compiled = []

    def wrap(function):
        def run(*arguments, **options):
            if fails:
                message = "No working C++ compiler found\nmore"
                raise RuntimeError(message)
            compiled.append(function)
            return function(*arguments, **options)

        return run

    monkeypatch.setattr(compiling.torch, "compile", wrap)
    return compiled


def test_compiling_runs_encoder_and_decoder_through_the_compiler_and_changes_no_weight(opened, monkeypatch):
    compiled = _pretend_to_compile(monkeypatch, fails=False)
    plain, _ = _weights(opened, SETTINGS)
    assert compiled == []
    machine, _ = _weights(opened, SETTINGS.model_copy(update={"compile": True}))
    assert len(compiled) == 2 + 2 * 2
    assert _distance(plain, machine) == 0
    assert set(machine.network.state_dict()) == set(plain.network.state_dict())


def test_without_a_compiler_training_goes_on_and_says_so(opened, monkeypatch, caplog):
    _pretend_to_compile(monkeypatch, fails=True)
    with caplog.at_level(logging.WARNING):
        machine, told = _weights(opened, SETTINGS.model_copy(update={"compile": True}))
    assert told[1]["segmentation"] > 0
    assert "W-COMPILE" in caplog.text
    assert "No working C++ compiler found" in caplog.text
    assert "more" not in caplog.text
    assert _distance(machine, _weights(opened, SETTINGS)[0]) == 0


def test_compiling_leaves_no_gradient(opened, monkeypatch):
    _pretend_to_compile(monkeypatch, fails=False)
    network = build_machine(opened[0], SETTINGS).network
    assert compile_network(network, opened[0], batch_size=2, dtype=None)
    assert all(value.grad is None for value in network.parameters())
