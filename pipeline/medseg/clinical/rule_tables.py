"""Rule tables: how values become categories, with edition and source. Read from YAML, checked before any use."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from medseg.clinical.conditions import Condition
from medseg.core.document import Document
from medseg.core.errors import UsageError

# What is measured on lesions; everything else a table must ask for in `inputs`.
MEASURED = ("long_axis_mm", "short_axis_mm", "mean_diameter_mm", "feret_mm", "volume_mm3", "count")
ASKED = ("nodule_type", "timing", "solid_component_mm", "solid_component_mm3", "vascular_invasion", "extension")


class RuleBin(Document):
    """A category; `up_to` counts its own bound in, `below` leaves it out, neither is the last bin."""

    category: str = Field(min_length=1, max_length=40)
    up_to: float | None = Field(default=None, gt=0)
    below: float | None = Field(default=None, gt=0)

    @property
    def bound(self) -> float | None:
        return self.up_to if self.up_to is not None else self.below


class Rule(Document):
    """Where `when` holds (always without it): one `category`, or the bin of a measure."""

    id: str = Field(min_length=1, pattern=r"^[a-z0-9_.-]+$")
    when: str | None = None
    category: str | None = None
    measure: str | None = None
    bins: tuple[RuleBin, ...] = ()


class TableInput(Document):
    """What the table needs to be told: one of `answers`, or a number when there are none."""

    question: str = Field(min_length=1)
    answers: tuple[str, ...] = ()
    needed_when: str | None = Field(default=None, description="condition; always without it")


class RuleTable(Document):
    """`configs/staging/*.yaml`."""

    schema_version: Literal[1] = 1
    id: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str = Field(min_length=1)
    component: str = Field(min_length=1)
    edition: str = Field(min_length=1)
    source: str = Field(min_length=1)
    scope: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    subject: Literal["largest", "each"] = Field(description="the lesion with the longest axis, or every lesion")
    rounding: dict[str, int] = Field(
        default_factory=dict, description="decimals to which a value is rounded before anything is compared"
    )
    cross_check: str | None = Field(default=None, description="another measure; a different category is remarked")
    inputs: dict[str, TableInput] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _known_names(self) -> RuleTable:
        for name in self.inputs:
            if name not in ASKED:
                message = f"input {name!r} is none of {', '.join(ASKED)}"
                raise ValueError(message)
        for name in {*self.rounding, *([self.cross_check] if self.cross_check else [])}:
            if name not in {*MEASURED, *self.inputs}:
                message = f"{name!r} is nothing that is measured: {', '.join(MEASURED)}"
                raise ValueError(message)
        if len({rule.id for rule in self.rules}) < len(self.rules):
            message = "two rules have one id"
            raise ValueError(message)
        return self

    @cached_property
    def conditions(self) -> dict[str, Condition]:
        """By rule id, and by input name for `needed_when`."""
        found = {rule.id: self._condition(rule.when) for rule in self.rules if rule.when is not None}
        for name, asked in self.inputs.items():
            if asked.needed_when is not None:
                found[name] = self._condition(asked.needed_when)
        return found

    def _condition(self, text: str) -> Condition:
        numbers = {*MEASURED, *(name for name, asked in self.inputs.items() if not asked.answers)}
        texts = {name: asked.answers for name, asked in self.inputs.items() if asked.answers}
        return Condition(text, numbers=numbers, texts=texts)


def parse_table(values: dict[str, Any], *, file: Path | None = None) -> RuleTable:
    """A table whose every condition and bin was checked.

    Raises:
        UsageError: `E-CONFIG`, `E-RULE-CONDITION`, `E-RULE-BINS`.
    """
    table = RuleTable.parse(values, file=file)
    try:
        _ = table.conditions
        for rule in table.rules:
            _check_bins(rule, {*MEASURED, *(name for name, asked in table.inputs.items() if not asked.answers)})
    except UsageError as error:
        error.file = file
        raise
    return table


def _check_bins(rule: Rule, names: set[str]) -> None:
    if (rule.category is None) == (not rule.bins):
        raise _bad_bins(f"rule {rule.id} must have either a category or bins")
    if not rule.bins:
        return
    if rule.measure not in names:
        raise _bad_bins(f"rule {rule.id} needs a measure among {', '.join(sorted(names))}, got {rule.measure!r}")
    *bounded, last = rule.bins
    if last.bound is not None or any(one.bound is None for one in bounded):
        raise _bad_bins(f"rule {rule.id}: every bin but the last needs one of up_to and below, and the last neither")
    if any(one.up_to is not None and one.below is not None for one in bounded):
        raise _bad_bins(f"rule {rule.id}: a bin has both up_to and below")
    if len({one.up_to is None for one in bounded}) > 1:
        raise _bad_bins(f"rule {rule.id} mixes up_to and below")
    bounds = [one.bound or 0.0 for one in bounded]
    if bounds != sorted(set(bounds)):
        raise _bad_bins(f"rule {rule.id}: the bounds must grow from bin to bin, got {bounds}")


def _bad_bins(message: str) -> UsageError:
    return UsageError(message, code="E-RULE-BINS", remedy="See configs/staging and docs/clinical.md.")
