"""What is reported: per label, per case, per cohort. The JSON files are these models; pages only show them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.core.document import Document
from medseg.core.geometry import Shape, Vector

Presence = Literal["both", "both_empty", "missed", "invented"]


class LabelMetrics(Document):
    """One label of one case against its reference; definitions in docs/metrics.md.

    Nothing is ever NaN: `presence` tells which row of the empty-mask table was used.
    """

    label: str
    presence: Presence
    dice: float
    iou: float
    precision: float
    recall: float
    hd_mm: float
    hd95_mm: float
    assd_mm: float
    nsd: float
    tolerance_mm: float = Field(description="of nsd")
    volume_ml: float
    reference_volume_ml: float


class ClassAnswer(Document):
    """One classification head's answer for one case."""

    head: str
    probabilities: dict[str, float]
    reference: str | None = None

    @property
    def answer(self) -> str:
        return max(self.probabilities, key=self.probabilities.__getitem__)


class GridSummary(Document):
    shape: Shape
    spacing_mm: Vector
    axis_codes: str


class Provenance(Document):
    """What made a result: enough to make it again."""

    medseg_version: str
    created: str = Field(description="UTC, ISO 8601")
    model: str = ""
    weights_sha256: str = ""
    plan_sha256: str = ""
    dataset: str = ""
    packages: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, str | int | float | bool | None] = Field(default_factory=dict)


class CasePrediction(Document):
    """The JSON that `infer` writes beside each mask."""

    schema_version: Literal[1] = 1
    case: str
    mask: str | None = Field(description="file name of the mask, in the same folder")
    mask_sha256: str | None = None
    source_names: tuple[str, ...] = Field(default=(), description="file names only, no folders")
    grid: GridSummary
    labels: dict[str, int]
    volumes_ml: dict[str, float]
    classes: tuple[ClassAnswer, ...] = ()
    flags: tuple[str, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)
    provenance: Provenance


class CaseReport(Document):
    """One case: what was found, and how it compares with the reference when there is one."""

    schema_version: Literal[1] = 1
    case: str
    patient: str
    grid: GridSummary
    volumes_ml: dict[str, float]
    metrics: tuple[LabelMetrics, ...] = Field(default=(), description="labels annotated in this case's reference")
    unlabelled: tuple[str, ...] = Field(default=(), description="labels not annotated in the reference: not scored")
    classes: tuple[ClassAnswer, ...] = ()
    flags: tuple[str, ...] = ()
    attributes: dict[str, str] = Field(default_factory=dict)
    provenance: Provenance

    @property
    def mean_dice(self) -> float | None:
        """Mean over the scored labels; None when nothing was scored."""
        return sum(row.dice for row in self.metrics) / len(self.metrics) if self.metrics else None


class Estimate(Document):
    """A number with its uncertainty: mean and bootstrap 95 % interval clustered by patient, median and quartiles."""

    mean: float
    low: float
    high: float
    median: float
    quartile_1: float
    quartile_3: float
    n: int


class LabelSummary(Document):
    label: str
    dice: Estimate
    iou: Estimate
    hd_mm: Estimate
    hd95_mm: Estimate
    assd_mm: Estimate
    nsd: Estimate
    num_missed: int
    num_invented: int
    num_both_empty: int


class ClassSummary(Document):
    """One classification head over the cohort."""

    head: str
    classes: tuple[str, ...]
    n: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    auroc: float | None = Field(description="macro one-versus-rest; None when only one class occurs")
    auroc_low: float | None
    auroc_high: float | None
    brier: float
    ece: float
    precision: dict[str, float]
    recall: dict[str, float]
    f1: dict[str, float]
    confusion: tuple[tuple[int, ...], ...] = Field(
        description="rows: reference, columns: predicted, in order of classes"
    )
    collapsed: bool = Field(description="at least 95 % of the answers are one class although the references are not")


class CaseFailure(Document):
    case: str
    code: str
    message: str
    remedy: str | None = None


class CohortReport(Document):
    schema_version: Literal[1] = 1
    name: str
    num_cases: int
    labels: tuple[LabelSummary, ...]
    mean_dice: Estimate | None
    classes: tuple[ClassSummary, ...]
    cases: tuple[CaseReport, ...] = Field(description="worst mean Dice first")
    failures: tuple[CaseFailure, ...] = ()
    provenance: Provenance
