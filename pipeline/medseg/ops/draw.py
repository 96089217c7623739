"""Random numbers for a batch, each sample's from a generator of its own.

Shape legend: B batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Draw:
    """Random numbers for one batch, drawn on the CPU sample by sample and sent to the device."""

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device) -> None:
        self.generators, self.size, self.device = generators, len(generators), device

    def only(self, chosen: Tensor) -> Draw:
        return Draw([self.generators[index] for index in chosen.tolist()], self.device)

    def uniform(self, low: float, high: float, *columns: int) -> Tensor:
        """(B, *columns) in [low, high)."""
        values = self._each(lambda generator: torch.rand(columns, generator=generator)) * (high - low) + low
        return values.to(self.device)

    def per_sample(self, low: float, high: float) -> Tensor:
        """(B, 1, 1, 1, 1)."""
        return self.uniform(low, high, 1, 1, 1, 1)

    def flags(self, probability: float) -> Tensor:
        """(B,) bool, which samples drew a transform; on the CPU."""
        return self._each(lambda generator: torch.rand((), generator=generator)) < probability

    def chosen(self, probability: float) -> Tensor:
        """Indices of the samples that drew a transform."""
        return self.flags(probability).nonzero().flatten().to(self.device)

    def normal_like(self, image: Tensor) -> Tensor:
        """Noise made on the device from seeds drawn on the CPU: fast, repeatable per device."""

        def noise(seed: int) -> Tensor:
            generator = torch.Generator(image.device).manual_seed(seed)
            return torch.randn(image.shape[1:], generator=generator, device=image.device)

        seeds = self._each(lambda generator: torch.randint(2**62, (), generator=generator))
        return torch.stack([noise(int(seed)) for seed in seeds])

    def _each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(generator) for generator in self.generators])
