"""Lesions of a prediction against those of the reference: per case and over a cohort."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.core.document import Document
from medseg.core.geometry import Vector

Criterion = Literal["iou", "overlap"]


class LesionMatch(Document):
    """One lesion of the reference with the predicted one assigned to it, or one of them alone."""

    status: Literal["matched", "missed", "invented"]
    centre_mm: Vector = Field(description="RAS+, centre of gravity; of the reference's lesion unless invented")
    slice_number: int = Field(description="slice of the centre from foot to head as the file counts it, from 1")
    volume_ml: float
    reference_volume_ml: float
    dice: float
    iou: float


class LesionDetection(Document):
    """The lesions of one label of one case; definitions in docs/metrics.md."""

    label: str
    criterion: Criterion
    threshold: float
    min_volume_ml: float = 0.0
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
