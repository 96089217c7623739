"""What is reported: per label, per case, per cohort. The JSON files are these models; pages only show them."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field

from medseg.core.batch import InputSeal
from medseg.core.detection import LesionDetection, LesionSummary
from medseg.core.document import Document
from medseg.core.errors import MedsegError
from medseg.core.estimate import Estimate
from medseg.core.geometry import Geometry, Shape, Vector
from medseg.core.prediction import Region
from medseg.core.values import ValueAnswer, ValueSummary

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
    relative_volume_error: float | None = Field(
        default=None, description="(volume - reference) / reference; None without a reference volume"
    )
    percentiles_mm: dict[str, float] = Field(
        default_factory=dict, description="as hd95_mm, at further percentiles of the distances; key: the percentile"
    )


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

    @classmethod
    def of(cls, geometry: Geometry) -> GridSummary:
        return cls(shape=geometry.shape, spacing_mm=geometry.spacing_mm, axis_codes=geometry.axis_codes)

    @property
    def diagonal_mm(self) -> float:
        """No distance inside the image is longer."""
        return math.hypot(*(size * step for size, step in zip(self.shape, self.spacing_mm, strict=True)))


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
    files: dict[str, str] = Field(default_factory=dict, description="every file of this case by its format")
    sha256: dict[str, str] = Field(default_factory=dict, description="of each of these files, by its name")
    source_names: tuple[str, ...] = Field(default=(), description="file names only, no folders")
    inputs: tuple[InputSeal, ...] = Field(default=(), description="what the images were when they were read")
    clinical: dict[str, str] = Field(default_factory=dict, description="columns that the diagnosis read, as given")
    grid: GridSummary
    labels: dict[str, int]
    volumes_ml: dict[str, float]
    classes: tuple[ClassAnswer, ...] = ()
    values: tuple[ValueAnswer, ...] = ()
    flags: tuple[str, ...] = ()
    backend: str = Field(default="torch", description="who ran the network")
    windows: int = Field(default=0, description="over all members, blank ones included")
    skipped_windows: int = Field(default=0, description="of these, blank ones that are background without the network")
    region: Region | None = Field(default=None, description="what --roi looked at closely; None: the whole image")
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
    values: tuple[ValueAnswer, ...] = ()
    lesions: tuple[LesionDetection, ...] = ()
    flags: tuple[str, ...] = ()
    attributes: dict[str, str] = Field(default_factory=dict)
    provenance: Provenance = Field(description="of the prediction; of the scoring where the prediction has none")
    scoring: Provenance | None = Field(default=None, description="what scored it, with the settings in force")

    @property
    def mean_dice(self) -> float | None:
        """Mean over the scored labels; None when nothing was scored."""
        return sum(row.dice for row in self.metrics) / len(self.metrics) if self.metrics else None


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
    relative_volume_error: Estimate | None = Field(default=None, description="over the cases with a reference volume")
    percentiles_mm: dict[str, Estimate] = Field(default_factory=dict)


class ClassArea(Document):
    """How well one class can be told from the rest; None where only one kind of case occurs."""

    auroc: float | None
    auroc_low: float | None
    auroc_high: float | None
    auprc: float | None


class RocCurve(Document):
    """One class against the rest: a point per distinct probability, from (0, 0) to (1, 1)."""

    name: str
    false_positive_rate: tuple[float, ...]
    true_positive_rate: tuple[float, ...]
    thresholds: tuple[float | None, ...] = Field(description="lowest probability called positive; None: nothing is")


class ReliabilityBin(Document):
    """The cases whose confidence falls into one bin."""

    confidence: float
    accuracy: float
    num_cases: int


class OrdinalSummary(Document):
    """What is asked of an ordered head besides: how far the answers are off."""

    kappa: float | None = Field(description="quadratic weighted; None where both sides know one same class only")
    mae_steps: float = Field(description="mean distance of answer and reference in steps of the scale")
    cuts: dict[str, ClassArea] = Field(description="this class and higher ones against the lower ones")


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
    collapsed: bool = Field(description="at least 95 % of the answers are one class although the references differ")
    areas: dict[str, ClassArea] = Field(default_factory=dict, description="each class against the rest")
    ordinal: OrdinalSummary | None = Field(default=None, description="of a head whose classes are ordered")
    roc: tuple[RocCurve, ...] = Field(default=(), description="of the classes auroc is about")
    reliability: tuple[ReliabilityBin, ...] = ()


class MultiLabelSummary(Document):
    """All yes-or-no heads together: findings that a case may have at the same time."""

    heads: tuple[str, ...]
    n: int = Field(description="cases with an answer and a reference for every one of the heads")
    exact_match: float = Field(description="share of cases with every head right")
    hamming_accuracy: float = Field(description="share of right answers over all heads")
    micro_f1: float = Field(description="of the second class of each head, all answers counted together")
    macro_f1: float = Field(description="mean over the heads that have or answer the second class")
    macro_auroc: float | None = Field(description="mean over the heads whose both classes occur")


class SubgroupSummary(Document):
    """The cases that share one value of an attribute, or whose structure has about one size."""

    attribute: str
    group: str
    num_cases: int
    num_patients: int
    mean_dice: Estimate | None = None
    dice: dict[str, Estimate] = Field(default_factory=dict, description="by label")
    accuracy: dict[str, Estimate] = Field(default_factory=dict, description="by classification head")
    num_missed: int = 0
    num_invented: int = 0


class CaseFailure(Document):
    case: str
    code: str
    message: str
    remedy: str | None = None
    file: str | None = Field(default=None, description="name of the file at fault, without its folder")

    @classmethod
    def of(cls, case: str, error: MedsegError) -> Self:
        """What failed a case, as its row of a report."""
        file = error.file.name if error.file else None
        return cls(case=case, code=error.code, message=error.message, remedy=error.remedy or None, file=file)


class CohortReport(Document):
    schema_version: Literal[1] = 1
    name: str
    num_cases: int
    labels: tuple[LabelSummary, ...]
    mean_dice: Estimate | None
    classes: tuple[ClassSummary, ...]
    values: tuple[ValueSummary, ...] = ()
    cases: tuple[CaseReport, ...] = Field(description="worst mean Dice first")
    failures: tuple[CaseFailure, ...] = ()
    lesions: tuple[LesionSummary, ...] = ()
    multilabel: MultiLabelSummary | None = None
    subgroups: tuple[SubgroupSummary, ...] = ()
    unanswered: dict[str, int] = Field(
        default_factory=dict, description="head or target to cases with a reference and no answer"
    )
    not_grouped: dict[str, str] = Field(default_factory=dict, description="attributes without a table, and why")
    provenance: Provenance
