"""The rule tables of response criteria: configs/response/*.yaml. No number of any criterion stands in code."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from medseg.core.document import Document
from medseg.core.followup import CriterionSummary, CutOffs, Quantity
from medseg.core.measurements import Measurement


class TargetRules(Document):
    most: int = Field(ge=1)
    per_organ: int | None = Field(ge=1)
    least_long_axis_mm: float = Field(ge=0, description="a measurable lesion has at least this")
    least_short_axis_mm: float = Field(ge=0)


class NodeRules(Document):
    words: tuple[str, ...] = Field(min_length=1, description="a label or organ with one of these words is a node")
    quantity: Quantity
    least_short_axis_mm: float = Field(ge=0)
    normal_below_mm: float = Field(ge=0)


class PartialRules(Document):
    relative: float = Field(gt=-1, lt=0)


class ProgressionRules(Document):
    relative: float = Field(gt=0)
    absolute: float = Field(ge=0, description="in the unit of the quantity; both must be reached")


class NewLesionRules(Document):
    least_long_axis_mm: float = Field(ge=0)


class Criterion(Document):
    """One published criterion, as far as masks can answer it."""

    schema_version: Literal[1] = 1
    id: str = Field(pattern=r"^[a-z0-9_]+$")
    name: str
    edition: str
    source: str
    scope: str
    quantity: Quantity
    targets: TargetRules
    nodes: NodeRules | None
    partial: PartialRules
    progression: ProgressionRules
    new_lesion: NewLesionRules
    not_judged: tuple[str, ...] = ()

    def is_node(self, lesion: Measurement) -> bool:
        """Whether the label or the organ says that it is a lymph node."""
        if self.nodes is None:
            return False
        words = re.findall(r"[a-z]+", f"{lesion.label} {lesion.organ or ''}".lower())
        return any(word in self.nodes.words for word in words)

    def is_measurable(self, lesion: Measurement) -> bool:
        if lesion.long_axis is None or lesion.short_axis is None:
            return False
        if self.nodes is not None and self.is_node(lesion):
            return lesion.short_axis.length_mm >= self.nodes.least_short_axis_mm
        return (
            lesion.long_axis.length_mm >= self.targets.least_long_axis_mm
            and lesion.short_axis.length_mm >= self.targets.least_short_axis_mm
        )

    def is_normal(self, lesion: Measurement) -> bool:
        """A node that is no longer pathological."""
        if self.nodes is None or not self.is_node(lesion) or lesion.short_axis is None:
            return False
        return lesion.short_axis.length_mm < self.nodes.normal_below_mm

    def is_unequivocal(self, lesion: Measurement) -> bool:
        """Large enough to count as a new lesion without a reader."""
        if lesion.long_axis is None or self.is_normal(lesion):
            return False
        return lesion.long_axis.length_mm >= self.new_lesion.least_long_axis_mm

    def value_of(self, lesion: Measurement) -> tuple[float, float]:
        """What the lesion adds to the sum, and its uncertainty."""
        quantity = self.nodes.quantity if self.nodes is not None and self.is_node(lesion) else self.quantity
        if quantity == "volume_ml":
            return lesion.volume_ml, lesion.volume_uncertainty_ml
        if lesion.long_axis is None or lesion.short_axis is None:
            return 0.0, 0.0
        long_mm, long_error = lesion.long_axis.length_mm, lesion.long_axis.uncertainty_mm
        short_mm, short_error = lesion.short_axis.length_mm, lesion.short_axis.uncertainty_mm
        if quantity == "product_mm2":
            return long_mm * short_mm, ((long_mm * short_error) ** 2 + (short_mm * long_error) ** 2) ** 0.5
        return (long_mm, long_error) if quantity == "long_axis_mm" else (short_mm, short_error)

    def cut_offs(self) -> CutOffs:
        return CutOffs(
            partial_relative=self.partial.relative,
            progression_relative=self.progression.relative,
            progression_absolute=self.progression.absolute,
            new_lesion_mm=self.new_lesion.least_long_axis_mm,
        )

    def summary(self, targets: tuple[str, ...]) -> CriterionSummary:
        return CriterionSummary(
            id=self.id,
            name=self.name,
            edition=self.edition,
            source=self.source,
            scope=self.scope,
            quantity=self.quantity,
            targets=targets,
            not_judged=self.not_judged,
        )
