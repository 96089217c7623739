"""The page of one case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medseg.core.findings import CaseReport, LabelMetrics
from medseg.ops.surfaces import SurfaceDistances
from medseg.report.html import render
from medseg.report.outlines import UNITS_PER_VOXEL
from medseg.report.pictures import Picture

PRESENCE_WORDS = {
    "both": "in both",
    "both_empty": "both empty",
    "missed": "missed",
    "invented": "invented",
}
_NUM_BINS = 24
_MOST_LESIONS = 40


@dataclass(frozen=True)
class Histogram:
    """Shares of the surface area in bins of equal width from 0 to `limit_mm`; the last takes what lies beyond."""

    label: str
    shares: tuple[float, ...]
    limit_mm: float
    tolerance_mm: float
    within_tolerance: float


def render_case(
    report: CaseReport,
    pictures: Sequence[Picture] = (),
    *,
    distances: Mapping[str, SurfaceDistances] | None = None,
    cohort_page: str | None = None,
) -> str:
    """One self-contained HTML page.

    Args:
        report: All numbers on the page.
        pictures: From `case_pictures`.
        distances: Label to the distances between its two surfaces, to draw a histogram of each scored label.
        cohort_page: Relative link back to the cohort's page.
    """
    outlines = [outline for picture in pictures for outline in (*picture.prediction, *picture.reference)]
    colours = {name: n for n, name in enumerate(report.volumes_ml)}
    colours |= {outline.label: outline.colour for outline in outlines}
    return render(
        "case.html",
        {
            "title": f"{report.case} · case report",
            "report": report,
            "findings": _findings(report),
            "colours": colours,
            "worst": max(report.metrics, key=lambda row: row.hd95_mm, default=None),
            "presence_words": PRESENCE_WORDS,
            "absent": [row for row in report.metrics if row.presence in ("missed", "invented")],
            "units": UNITS_PER_VOXEL,
            "extent": [picture for picture in pictures if picture.purpose == "extent"],
            "difference": [picture for picture in pictures if picture.purpose == "difference"],
            "shown_labels": list(
                dict.fromkeys(outline.label for picture in pictures for outline in picture.prediction)
            ),
            "has_reference": any(picture.reference for picture in pictures),
            "error_kinds": {region.kind for picture in pictures for region in picture.errors},
            "lesions": [(one, one.lesions[:_MOST_LESIONS]) for one in report.lesions],
            "percentiles": list(report.metrics[0].percentiles_mm) if report.metrics else [],
            "histograms": histograms(report.metrics, distances or {}),
            "cohort_page": cohort_page,
        },
        script="zoom.js",
    )


def _findings(report: CaseReport) -> list[tuple[str, float, LabelMetrics | None]]:
    """Every label with its volume in ml, and its row of metrics when it was scored."""
    rows = {row.label: row for row in report.metrics}
    volumes = {row.label: row.volume_ml for row in report.metrics} | report.volumes_ml
    return [(name, volume, rows.get(name)) for name, volume in volumes.items()]


def histograms(metrics: Sequence[LabelMetrics], distances: Mapping[str, SurfaceDistances]) -> list[Histogram]:
    """One per label present in both masks, all on one scale, that of the widest 99th percentile."""
    shown = [(row, distances[row.label]) for row in metrics if row.presence == "both" and row.label in distances]
    limits = (max(2 * row.tolerance_mm, found.hausdorff_mm(99)) for row, found in shown)
    limit_mm = float(np.ceil(max(1.0, *limits))) if shown else 1.0
    return [_histogram(row, found, limit_mm) for row, found in shown]


def _histogram(row: LabelMetrics, found: SurfaceDistances, limit_mm: float) -> Histogram:
    areas = np.zeros(_NUM_BINS)
    for direction in (found.to_reference, found.to_prediction):
        inside = np.minimum(direction.distances_mm, np.nextafter(limit_mm, 0))
        areas += np.histogram(inside, _NUM_BINS, (0, limit_mm), weights=direction.areas_mm2)[0]
    shares = tuple(float(area) for area in areas / areas.sum())
    return Histogram(row.label, shares, limit_mm, row.tolerance_mm, found.agreement(row.tolerance_mm))
