"""What changes while training, and how it is built."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medseg.engine.compiling import compile_network
from medseg.engine.devices import amp_dtype, make_deterministic, pick_device, place
from medseg.engine.recipes import Recipe, recipe_of
from medseg.nn.build import build_network
from medseg.nn.transfer import is_encoder
from medseg.ops.augment import Augmentation

if TYPE_CHECKING:
    from medseg.core.plan import Plan
    from medseg.core.settings import TrainSettings
    from medseg.nn.network import Network


@dataclass(eq=False)
class Machine:
    """Network, averaged weights, optimiser, scaler, precision and augmentation of one training."""

    network: Network
    averaged: Network
    recipe: Recipe
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    dtype: torch.dtype | None
    how: Augmentation
    num_skipped: int = 0  # steps in a row that the scaler did not make

    def average(self, decay: float) -> None:
        """Move the averaged weights towards the network's."""
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.network.parameters()), 1 - decay)
            for kept, current in zip(self.averaged.buffers(), self.network.buffers(), strict=True):
                kept.copy_(current)

    def freeze_encoder(self, *, frozen: bool) -> None:
        """Hold the encoder's weights, or let go of them."""
        for name, parameter in self.network.named_parameters():
            if is_encoder(name):
                parameter.requires_grad = not frozen

    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def model(self) -> dict[str, Tensor]:
        """The averaged weights on the CPU: what becomes the model."""
        return {name: value.detach().cpu().contiguous().clone() for name, value in self.averaged.state_dict().items()}


def build_machine(plan: Plan, settings: TrainSettings) -> Machine:
    """A fresh network and all that trains it.

    Raises:
        UsageError: E-DEVICE.
    """
    device = pick_device(settings.device)
    if settings.deterministic:
        make_deterministic()
    network = place(build_network(plan, seed=settings.seed), device)
    dtype, recipe = amp_dtype(device, enabled=settings.amp), recipe_of(settings)
    averaged = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
    if device.type == "cuda" if settings.compile is None else settings.compile:
        compile_network(network, plan, batch_size=-(-plan.batch_size // settings.accumulate), dtype=dtype)
    return Machine(
        network=network,
        averaged=averaged,
        recipe=recipe,
        optimizer=recipe.optimizer(network.parameters()),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        device=device,
        dtype=dtype,
        how=Augmentation.from_plan(plan, elastic=settings.elastic),
    )
