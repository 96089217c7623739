"""How weights are changed: two recipes that are known to work, each number of which a setting may replace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from medseg.core.settings import TrainSettings

Name = Literal["adamw", "sgd"]

_MOMENTUM = 0.99
_BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Recipe:
    """Numbers of one optimiser; after a linear warm-up the rate falls as (1 - share)^0.9 in both."""

    name: Name
    learning_rate: float
    weight_decay: float
    gradient_clip: float

    def rate(self, step: int, share: float, *, warmup_steps: int) -> float:
        """At a step, after a share of the training."""
        warm = min(1.0, (step + 1) / (warmup_steps + 1))
        return self.learning_rate * warm * float(max(1 - share, 1e-3) ** 0.9)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        if self.name == "sgd":
            return torch.optim.SGD(
                parameters,
                lr=self.learning_rate,
                weight_decay=self.weight_decay,
                momentum=_MOMENTUM,
                nesterov=True,
            )
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, betas=_BETAS)


# SGD's numbers are nnU-Net's (Isensee et al., Nature Methods 2021); AdamW's were found on small data and CPUs.
RECIPES: dict[Name, Recipe] = {
    "adamw": Recipe("adamw", learning_rate=2e-3, weight_decay=1e-2, gradient_clip=1.0),
    "sgd": Recipe("sgd", learning_rate=1e-2, weight_decay=3e-5, gradient_clip=12.0),
}


def recipe_of(settings: TrainSettings) -> Recipe:
    """The recipe that the settings name, with what they say instead of its own numbers."""
    standard = RECIPES[settings.recipe]
    return Recipe(
        settings.recipe,
        learning_rate=settings.learning_rate or standard.learning_rate,
        weight_decay=standard.weight_decay if settings.weight_decay is None else settings.weight_decay,
        gradient_clip=settings.gradient_clip or standard.gradient_clip,
    )
