"""Targets: case-level numbers with a unit, such as an age in years, their answers, and how good these are."""

from __future__ import annotations

from pydantic import Field, FiniteFloat

from medseg.core.document import Document
from medseg.core.estimate import Estimate


class ValueRange(Document):
    """What the training cases hold of one target, in its unit."""

    n: int
    mean: FiniteFloat
    std: FiniteFloat = Field(ge=0, description="of the population: divided by n")
    low: FiniteFloat
    high: FiniteFloat


class Target(ValueRange):
    """A number that the network answers. It is learnt in standard deviations from the mean of the training cases."""

    std: FiniteFloat = Field(gt=0)
    unit: str

    def standardised(self, value: float) -> float:
        """From the target's unit."""
        return (value - self.mean) / self.std

    def in_unit(self, standardised: float) -> float:
        """Back to the target's unit."""
        return self.mean + self.std * standardised


class ValueAnswer(Document):
    """One target's answer for one case, with the range of the cases that taught it."""

    name: str
    unit: str
    value: float
    low: float = Field(description="least value among the training cases")
    high: float = Field(description="greatest value among the training cases")
    reference: float | None = None

    @property
    def inside(self) -> bool:
        """Whether the training cases reach this far."""
        return self.low <= self.value <= self.high

    @property
    def words(self) -> str:
        return f"{self.value:.4g} {self.unit}".strip()


class Bounded(Document):
    """A number with its 95 % interval: bootstrap percentiles over patients; None under 8 patients."""

    value: float
    low: float | None
    high: float | None


class ValueSummary(Document):
    """One target over the cohort, answers against references; definitions in docs/metrics.md."""

    name: str
    unit: str
    n: int = Field(description="cases with an answer and a reference")
    num_without_reference: int = Field(description="cases with an answer alone: not scored")
    num_outside: int = Field(description="answers, of the n, that lie outside the range of the training cases")
    mae: Estimate
    bias: Estimate = Field(description="mean of answer - reference")
    rmse: Bounded
    r2: Bounded | None = Field(description="None where all references are equal")
    spearman: Bounded | None = Field(description="None where all references or all answers are equal")
