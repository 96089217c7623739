"""What `medseg find-best` says: which configuration, which cleaning of masks, and why."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.core.answering import Cleanup
from medseg.core.document import Document
from medseg.core.estimate import Estimate
from medseg.core.findings import Provenance


class Candidate(Document):
    """A configuration that was trained in folds, or two of them answering together."""

    name: str
    score: Estimate = Field(description="mean over the cases, masks as they are")


class Step(Document):
    """One change that was considered, against what stood until then."""

    kind: Literal["configuration", "cleanup"]
    subject: str = Field(description="candidate, or label")
    change: str
    gain: Estimate = Field(description="paired difference by case, positive where better")
    taken: bool


class Choice(Document):
    """What is chosen from the scores of some cases."""

    candidate: str
    cleanup: dict[str, Cleanup] = Field(default_factory=dict)


class BestReport(Document):
    """`find-best.json`."""

    schema_version: Literal[1] = 1
    dataset: str
    metric: str
    rule: str
    candidates: tuple[Candidate, ...]
    steps: tuple[Step, ...]
    choice: Choice
    plain: Estimate = Field(description="score of the first candidate, masks as they are")
    chosen: Estimate = Field(description="score of the choice on the cases that it was chosen by: too good")
    honest: Estimate = Field(
        description="score of choosing: each fold's cases under what was chosen by the other folds"
    )
    left_out: tuple[str, ...] = Field(default=(), description="cases that not every candidate could be scored on")
    not_paired: tuple[str, ...] = Field(default=(), description="pairs whose plans differ in more than the network")
    choices_by_fold: tuple[Choice, ...] = Field(description="what was chosen without each fold")
    provenance: Provenance
