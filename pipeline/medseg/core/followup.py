"""What is said of one patient over time: how examinations were aligned, which lesion is which, and the response."""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import Field

from medseg.core.document import Document
from medseg.core.findings import Provenance
from medseg.core.measurements import Measurement

LesionState = Literal[
    "baseline", "new", "vanished", "grown", "shrunk", "stable", "split", "merged", "reappeared", "not covered"
]
Stage = Literal["same grid", "none", "rigid", "affine", "deformable"]
Category = Literal["CR", "PR", "SD", "PD", "NE"]
Quantity = Literal["long_axis_mm", "short_axis_mm", "product_mm2", "volume_ml"]
Row = tuple[float, float, float, float]

UNITS: dict[Quantity, str] = {"long_axis_mm": "mm", "short_axis_mm": "mm", "product_mm2": "mm²", "volume_ml": "ml"}


class AlignmentQuality(Document):
    """How well two images lie on each other, measured at the points of the baseline's body."""

    correlation: float = Field(description="Pearson, of the grey values; low between different kinds of images")
    mutual_information: float = Field(description="in nats, of the grey values, 32 bins")
    body_dice: float = Field(description="overlap of the two bodies, of the parts that both images cover")


class RegistrationQuality(Document):
    """The alignment with the baseline that was used, and how good it is."""

    stage: Stage = Field(description="the last one that was plausible; none: the scanner's coordinates as they are")
    matrix: tuple[Row, Row, Row, Row] = Field(description="baseline to this examination, RAS+ mm; the affine part")
    rotation_degrees: float
    determinant: float = Field(description="of the affine part: 1 keeps volumes")
    before: AlignmentQuality
    after: AlignmentQuality
    refused: tuple[str, ...] = Field(default=(), description="stages that were given up, and why")


class DoublingTime(Document):
    """Days in which a growing volume doubles at the rate between two examinations: days ln 2 / ln(later / earlier)."""

    days: float
    low_days: float = Field(description="fastest growth within the measurements' uncertainty; 0 where it has no bound")
    high_days: float | None = Field(description="slowest; None where the uncertainty allows no growth at all")
    since: str = Field(description="the earlier examination")


class TrackedLesion(Document):
    """One lesion at one examination. Id, number and DICOM tracking UID are the same at every examination."""

    id: str
    number: int = Field(ge=1, description="its value in CASE.lesions.nii.gz")
    label: str
    tracking_uid: str
    state: LesionState = Field(description="against the examination before")
    parents: tuple[str, ...] = Field(default=(), description="ids at the examination before, of a split or merged one")
    merged_into: str | None = Field(default=None, description="the id under which it goes on; it is not measured alone")
    measurement: Measurement | None = Field(
        description="None where it is not seen, not covered, or merged into another"
    )
    change_from_previous: float | None = Field(default=None, description="of the volume, relative: 0.25 is 25 % more")
    change_from_baseline: float | None = Field(
        default=None, description="likewise; None for later lesions, parts and mergers"
    )
    doubling: DoublingTime | None = None

    @property
    def volume_ml(self) -> float | None:
        """0 for a lesion that vanished, None for one that cannot be measured."""
        if self.measurement is not None:
            return self.measurement.volume_ml
        return 0.0 if self.state == "vanished" else None


class TargetValue(Document):
    """What one target lesion adds to the sum."""

    id: str
    value: float
    uncertainty: float = Field(description="half width of the range that the voxel size leaves open")
    remark: str = ""


class CutOffs(Document):
    """The numbers that decided, from the rule table."""

    partial_relative: float = Field(description="change against the baseline, at most")
    progression_relative: float = Field(description="change against the nadir, at least, and")
    progression_absolute: float = Field(description="likewise, in the unit of the quantity")
    new_lesion_mm: float = Field(description="long axis from which a new lesion counts")


class Response(Document):
    """One examination judged by one criterion: the numbers, and the sentence that says what decided."""

    criterion: str = Field(description="id of the rule table")
    category: Category
    decided_by: str
    quantity: Quantity
    targets: tuple[TargetValue, ...]
    total: float | None = Field(description="sum over the targets; None where a target cannot be measured")
    uncertainty: float | None = None
    baseline_total: float | None
    nadir_total: float | None = Field(description="smallest sum before this examination, the baseline included")
    nadir_at: str | None = Field(default=None, description="the examination of the smallest sum")
    change_from_baseline: float | None = Field(default=None, description="relative")
    change_from_nadir: float | None = Field(default=None, description="relative")
    cut_offs: CutOffs
    borderline: bool = Field(default=False, description="the measurements' uncertainty reaches across a cut-off")
    new_lesions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class CriterionSummary(Document):
    """The rule table in force, for the reader of the result."""

    id: str
    name: str
    edition: str
    source: str
    scope: str
    quantity: Quantity
    targets: tuple[str, ...] = Field(description="ids chosen at the baseline")
    not_judged: tuple[str, ...] = Field(description="parts of the published criterion that a mask cannot answer")


class TimePoint(Document):
    """One examination."""

    case: str
    date: date | None
    days: int | None = Field(description="since the baseline")
    registration: RegistrationQuality | None = Field(description="None for the baseline")
    lesions: tuple[TrackedLesion, ...]
    responses: tuple[Response, ...] = Field(default=(), description="one per criterion; none for the baseline")
    flags: tuple[str, ...] = ()


class FollowUp(Document):
    """`followup.json`: one patient over time, baseline first. Research use only."""

    schema_version: Literal[1] = 1
    name: str = Field(description="the patient as the manifest calls it, or the baseline's case")
    time_points: tuple[TimePoint, ...] = Field(min_length=2)
    criteria: tuple[CriterionSummary, ...] = ()
    rules: dict[str, float] = Field(description="what counted as the same lesion and as a change")
    flags: tuple[str, ...] = ()
    provenance: Provenance
