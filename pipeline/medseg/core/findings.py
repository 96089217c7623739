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

    @property
    def relative_volume_error(self) -> float | None:
        """(volume - reference) / reference; None without a reference volume."""
        return self.volume_ml / self.reference_volume_ml - 1 if self.reference_volume_ml else None


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
    backend: str = Field(default="torch", description="who ran the network")
    seconds: dict[str, float] = Field(default_factory=dict)
    provenance: Provenance


class CaseReport(Document):
    """One case: what was found, and how it compares with the reference when there is one."""

    schema_version: Literal[1] = 1
    case: str
    patient: str
    grid: GridSummary
    reference_sha256: str | None = Field(default=None, description="of the reference's file; None without one")
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
    low: float | None = Field(description="None where nothing bounds it: one patient says nothing of others")
    high: float | None
    median: float
    quartile_1: float
    quartile_3: float
    n: int


class LesionMatch(Document):
    """One lesion of the reference with the predicted one assigned to it, or one of them alone."""

    status: Literal["matched", "missed", "invented"]
    centre_mm: Vector = Field(description="RAS+, centre of gravity; of the reference's lesion unless invented")
    volume_ml: float
    reference_volume_ml: float
    dice: float
    iou: float


class LesionDetection(Document):
    """The lesions of one label of one case; definitions in docs/metrics.md."""

    label: str
    criterion: Literal["iou", "overlap"]
    threshold: float
    num_reference: int
    num_predicted: int
    num_matched: int
    sensitivity: float
    precision: float
    f1: float
    panoptic_quality: float
    lesions: tuple[LesionMatch, ...] = Field(description="largest first")


class LesionSummary(Document):
    """The lesions of one label over the cohort: counts of all cases together, so that empty cases weigh nothing."""

    label: str
    num_cases: int
    num_reference: int
    num_predicted: int
    num_matched: int
    sensitivity: float
    precision: float
    f1: float
    panoptic_quality: float
    false_positives_per_case: float
    matched_dice: float | None = Field(description="mean over the matched lesions; None when there are none")


class PairedComparison(Document):
    """One metric of two models on the same cases."""

    difference: Estimate = Field(description="second - first")
    wilcoxon_p: float = Field(description="two-sided signed-rank test on the patients' mean differences")
    num_higher: int = Field(description="cases where the second model's number is higher")
    num_lower: int
    num_equal: int

    @property
    def distinguishable(self) -> bool:
        """Whether the interval of the difference excludes zero."""
        low, high = self.difference.low, self.difference.high
        return (low is not None and low > 0) or (high is not None and high < 0)


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
    auprc: float | None = Field(default=None, description="average precision, of the classes auroc is about")
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
