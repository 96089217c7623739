"""What a check finds in a dataset, and what a repair changes. The JSON files are these models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.core.document import Document
from medseg.core.findings import Provenance
from medseg.core.reading import Reading

Severity = Literal["error", "warning", "note"]
Fixable = Literal["yes", "no", "--assume-orientation", "--prefer"]
Outcome = Literal["kept", "repaired", "left out"]


class Finding(Document):
    """One thing to know about a case, or about the whole dataset when `case` is empty."""

    case: str
    severity: Severity
    code: str
    file: str = ""
    message: str
    remedy: str = ""
    fixable: Fixable = Field(default="no", description="whether `check --fix` mends it, or which option it needs first")


class CheckReport(Document):
    """What a check found; errors first."""

    schema_version: Literal[1] = 1
    dataset: str
    num_cases: int
    num_ok: int = Field(description="cases without an error or a warning of their own")
    findings: tuple[Finding, ...] = ()

    @property
    def num_errors(self) -> int:
        return sum(finding.severity == "error" for finding in self.findings)


class Change(Document):
    """One thing that a repair changes."""

    code: str = Field(description="the finding that it answers")
    was: str
    now: str
    max_displacement_mm: float | None = Field(
        default=None, description="farthest that a voxel moves in the patient; None where it had no place before"
    )


class FileChanges(Document):
    """One file of the new dataset that differs from its original."""

    kind: Literal["image", "label"]
    source: str = Field(description="relative to the original manifest")
    file: str = Field(description="relative to the new manifest; empty while nothing is written")
    sha256_before: str
    sha256_after: str
    changes: tuple[Change, ...]


class CaseTreatment(Document):
    """What became of one case."""

    case: str
    outcome: Outcome
    files: tuple[FileChanges, ...] = Field(default=(), description="the repaired ones")
    reasons: tuple[Finding, ...] = Field(default=(), description="why it was left out")


class DoctorReport(Document):
    """`changes.json`: every case, every change, and what is still to be looked at in the new dataset."""

    schema_version: Literal[1] = 1
    dataset: str
    reading: Reading = Field(description="what the user allowed")
    findings: tuple[Finding, ...] = Field(description="in the original dataset")
    cases: tuple[CaseTreatment, ...]
    remaining: tuple[Finding, ...] = Field(default=(), description="in the new dataset")
    provenance: Provenance

    def with_outcome(self, outcome: Outcome) -> tuple[CaseTreatment, ...]:
        return tuple(case for case in self.cases if case.outcome == outcome)
