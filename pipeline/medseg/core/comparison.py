"""Two models on the same cases: what `medseg compare` writes; its page only shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.core.document import Document
from medseg.core.findings import Presence, Provenance

Kind = Literal["case", "label", "head"]
Verdict = Literal["second_better", "first_better", "not_distinguishable", "undecided", "identical", "too_few"]


class Contrast(Document):
    """One number of both models; every difference is second - first."""

    kind: Kind = Field(description="of what: the mean over a case's labels, one label, or one classification head")
    subject: str
    metric: str
    unit: str
    better: Literal["higher", "lower"]
    first: float = Field(description="mean over the cases, or area under the ROC curve")
    second: float
    difference: float
    low: float | None = Field(description="of the 95 % interval by patient; None where nothing bounds it")
    high: float | None
    test: Literal["wilcoxon", "delong"]
    p: float
    p_holm: float = Field(description="corrected for num_tests, the subjects that this metric was tested on")
    num_tests: int
    num_cases: int
    num_patients: int
    num_better: int | None = Field(default=None, description="cases that got better from first to second")
    num_worse: int | None = None
    verdict: Verdict
    detectable_difference: float | None = Field(description="that these patients would show four times in five")
    patients_needed: int | None = Field(description="to show the difference seen four times in five")
    sentence: str = ""


class PairedScore(Document):
    """One label or head of one case under both models."""

    kind: Kind
    subject: str
    values: dict[str, tuple[float, float]] = Field(description="metric to (first, second)")
    presence: tuple[Presence, Presence] | None = None

    @property
    def absent(self) -> bool:
        """Whether either model missed or invented the structure, so that its distances are the image's diagonal."""
        return self.presence is not None and not {"missed", "invented"}.isdisjoint(self.presence)


class PairedCase(Document):
    case: str
    patient: str
    first_page: str | None = Field(default=None, description="relative to the folder of the comparison")
    second_page: str | None = None
    scores: tuple[PairedScore, ...]


class Side(Document):
    """One of the two models."""

    name: str
    page: str | None = Field(default=None, description="its cohort's page, relative to the folder of the comparison")
    only_here: tuple[str, ...] = Field(default=(), description="cases and labels left out: the other one has them not")
    provenance: Provenance


class ComparisonReport(Document):
    schema_version: Literal[1] = 1
    name: str
    first: Side
    second: Side
    headline: tuple[str, ...] = Field(description="what the differences mean, most important first")
    contrasts: tuple[Contrast, ...]
    cases: tuple[PairedCase, ...]
    notes: tuple[str, ...] = ()
    provenance: Provenance
