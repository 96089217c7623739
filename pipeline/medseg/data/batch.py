"""What one training step learns from.

Shape legend: B batch, C channels, K network outputs, (I, J, K) voxels of the patch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from medseg.core.plan import MISSING_CLASS


@dataclass(frozen=True, eq=False)
class Batch:
    """What one training step learns from.

    Attributes:
        image: (B, C, I, J, K) float32.
        labels: (B, I, J, K) uint8 network indices; all ignored for cases without a reference.
        known: (B, K) bool, labels annotated in each sample's case.
        classes: (B,) int64 class index by head; MISSING_CLASS where the sample does not show what the class is about.
        cases: Ids, for messages.
        slots: The place of each sample in the step's whole batch, of which several processes take a part each.
        clinical: (B, width) float32, the plan's clinical columns; width 0 when it has none.
        values: (B,) float32 by target, standardised; NaN where there is none to learn.
    """

    image: Tensor
    labels: Tensor
    known: Tensor
    classes: dict[str, Tensor]
    cases: tuple[str, ...]
    slots: tuple[int, ...]
    clinical: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)

    def views(self) -> Tensor:
        """Indices of the samples that carry a class or a value."""
        carries = torch.zeros(len(self.image), dtype=torch.bool, device=self.image.device)
        for values in self.classes.values():
            carries |= values != MISSING_CLASS
        for values in self.values.values():
            carries |= torch.isfinite(values)
        return carries.nonzero().flatten()

    def pairs(self) -> Tensor:
        """(B,) which two places of the step's batch each sample is one of; together they may show one case."""
        return torch.tensor(self.slots, device=self.image.device) // 2

    def classes_of_views(self) -> dict[str, Tensor]:
        views = self.views()
        return {head: values[views] for head, values in self.classes.items()}

    def values_of_views(self) -> dict[str, Tensor]:
        views = self.views()
        return {name: values[views] for name, values in self.values.items()}

    def sized(self) -> Tensor:
        """(B,) bool, which samples carry a value: it may follow from how large things are."""
        known = [torch.isfinite(values) for values in self.values.values()]
        return torch.stack(known).any(0) if known else torch.zeros(len(self.slots), dtype=torch.bool)

    def part(self, rows: Tensor) -> Batch:
        """Some of the samples, on the device where they lie."""
        chosen = rows.tolist()
        return Batch(
            self.image[rows],
            self.labels[rows],
            self.known[rows],
            {head: values[rows] for head, values in self.classes.items()},
            tuple(self.cases[row] for row in chosen),
            tuple(self.slots[row] for row in chosen),
            self.clinical[rows],
            {name: values[rows] for name, values in self.values.items()},
        )

    def pinned(self) -> Batch:
        """With its voxels in memory from which a GPU copies by itself."""
        return replace(self, image=self.image.pin_memory(), labels=self.labels.pin_memory())

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.image.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.known.to(device),
            {head: values.to(device) for head, values in self.classes.items()},
            self.cases,
            self.slots,
            self.clinical.to(device),
            {name: values.to(device) for name, values in self.values.items()},
        )
