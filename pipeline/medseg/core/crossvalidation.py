"""What a cross-validation says: every case judged once, by the model that did not see it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.core.document import Document
from medseg.core.estimate import Estimate
from medseg.core.findings import CaseFailure, ClassSummary, LabelSummary, Provenance, ReliabilityBin


class ScoreTable(Document):
    """The scores of some cases: of one fold, or of all."""

    num_cases: int = Field(description="that were scored")
    mean_dice: Estimate | None
    labels: tuple[LabelSummary, ...]
    classes: tuple[ClassSummary, ...]


class FoldResult(Document):
    """One fold: its model, the cases that judge it, and their scores."""

    fold: int
    bundle: str = Field(description="folder, relative to that of the cross-validation")
    num_training_cases: int
    held_back: tuple[str, ...]
    scores: ScoreTable | None = Field(description="None when no case of the fold could be scored")


class Calibration(Document):
    """How well the confidence of one head fits its accuracy, as it is and with a temperature.

    Every number is of cases whose fold had no part in the temperature that they are judged with.
    """

    head: str
    n: int
    temperature: float = Field(description="stored in the model: fitted to all folds, or 1 when it does not help")
    fitted: float = Field(description="fitted to all folds, helpful or not")
    nll: tuple[float, float] = Field(description="negative log-likelihood before and after")
    brier: tuple[float, float]
    ece: tuple[float, float]
    reliability: tuple[tuple[ReliabilityBin, ...], tuple[ReliabilityBin, ...]]


class CrossValidation(Document):
    """`cross-validation.json`."""

    schema_version: Literal[1] = 1
    name: str
    dataset: str
    stratify_by: str
    folds: tuple[FoldResult, ...]
    pooled: ScoreTable = Field(description="all cases together, each judged by the fold that did not see it")
    calibration: tuple[Calibration, ...] = ()
    not_judged: tuple[str, ...] = Field(default=(), description="cases that no fold holds back")
    warnings: tuple[str, ...] = ()
    failures: tuple[CaseFailure, ...] = ()
    provenance: Provenance
