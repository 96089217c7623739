"""A number over a cohort, with its uncertainty."""

from __future__ import annotations

from pydantic import Field

from medseg.core.document import Document


class Estimate(Document):
    """A number with its uncertainty: mean and bootstrap 95 % interval clustered by patient, median and quartiles."""

    mean: float
    low: float | None = Field(description="None where nothing bounds it: one patient says nothing of others")
    high: float | None
    median: float
    quartile_1: float
    quartile_3: float
    n: int
