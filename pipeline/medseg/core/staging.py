"""What a rule table says of measured lesions. The JSON files are these models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.core.document import Document
from medseg.core.findings import Provenance


class RuleInput(Document):
    """One value that a rule looked at."""

    name: str
    value: float | str
    uncertainty: float | None = Field(default=None, description="of a measured value, as of its caliper")
    origin: Literal["measured", "given"]


class MissingInput(Document):
    """What a table asks and nobody answered."""

    name: str
    question: str
    answers: tuple[str, ...] = Field(description="allowed values; empty for a number")


class Bin(Document):
    """A category and the values that belong to it."""

    category: str
    above: float | None = Field(description="None: no lower bound")
    up_to: float | None = Field(description="None: no upper bound")
    closed: Literal["right", "left"] = Field(description="which bound belongs to the bin")


class StageResult(Document):
    """One statement: its rule, what went in, and where the cut-offs lie. Never a stage: one component of it."""

    table: str
    title: str
    edition: str
    source: str
    scope: str
    licence: str
    component: str = Field(description="what the category is about: size component only, or a risk category by size")
    lesions: tuple[str, ...] = Field(description="ids of the lesions it is about")
    category: str | None = Field(description="None when an input is missing or no rule applies")
    borderline: tuple[str, ...] = Field(
        default=(), description="the categories that the measurement's uncertainty reaches, when it is more than one"
    )
    rule: str | None = None
    measure: str | None = Field(default=None, description="the measured value that decided")
    cut_offs: tuple[Bin, ...] = ()
    inputs: tuple[RuleInput, ...] = ()
    missing: tuple[MissingInput, ...] = ()
    remark: str = ""
    statement: str = Field(description="the whole in one sentence")


class CaseStaging(Document):
    """`CASE.staging.json`."""

    schema_version: Literal[1] = 1
    case: str
    results: tuple[StageResult, ...]
    provenance: Provenance
