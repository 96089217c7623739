"""Counting what happens to each attribute."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from medseg.core.deidentification import AttributeCount


@dataclass
class Tally:
    """Counts by the keyword of an attribute."""

    removed: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.removed += other.removed
        self.replaced += other.replaced
        self.kept += other.kept

    def counts(self) -> tuple[AttributeCount, ...]:
        names = sorted({*self.removed, *self.replaced, *self.kept})
        return tuple(
            AttributeCount(
                attribute=name, removed=self.removed[name], replaced=self.replaced[name], kept=self.kept[name]
            )
            for name in names
        )
