"""The page of a follow-up, and the same numbers as CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from medseg.core.followup import (
    UNITS,
    CriterionSummary,
    DoublingTime,
    FollowUp,
    LesionState,
    Response,
    TimePoint,
    TrackedLesion,
)
from medseg.report.followup_pictures import FollowUpPictures
from medseg.report.html import data_uri, render
from medseg.report.outlines import UNITS_PER_VOXEL
from medseg.report.spreadsheet import csv_text
from medseg.report.trends import Trend, sum_trend, volume_trend

CATEGORY_WORDS = {
    "CR": "complete response",
    "PR": "partial response",
    "SD": "stable disease",
    "PD": "progressive disease",
    "NE": "not evaluable",
}
QUANTITY_WORDS = {
    "long_axis_mm": "sum of the longest axial diameters",
    "short_axis_mm": "sum of the short axes",
    "product_mm2": "sum of the products of perpendicular diameters",
    "volume_ml": "sum of the volumes",
}
_COLUMNS = (
    "patient", "case", "date", "days", "lesion", "number", "label", "state", "parents", "merged_into", "volume_ml",
    "volume_uncertainty_ml", "long_axis_mm", "short_axis_mm", "change_from_previous", "change_from_baseline",
    "doubling_days", "doubling_low_days", "doubling_high_days", "organ", "side", "tracking_uid",
)  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """One lesion at all examinations; None before it was first seen."""

    id: str
    label: str
    number: int
    seen: tuple[TrackedLesion | None, ...]
    doubling: DoublingTime | None

    @property
    def last(self) -> TrackedLesion | None:
        return self.seen[-1]


@dataclass(frozen=True)
class _Judged:
    """One criterion over time."""

    summary: CriterionSummary
    unit: str
    words: str
    responses: tuple[tuple[TimePoint, Response], ...]
    trend: Trend | None


def render_followup(report: FollowUp, pictures: FollowUpPictures | None = None) -> str:
    """One self-contained HTML page.

    Args:
        report: All numbers on the page.
        pictures: From `followup_pictures`.
    """
    last = report.time_points[-1]
    return render(
        "followup.html",
        {
            "title": f"{report.name} · follow-up",
            "report": report,
            "states": _states(last),
            "rows": [_row(lesion, report) for lesion in last.lesions],
            "judged": [_judged(criterion, report) for criterion in report.criteria],
            "category_words": CATEGORY_WORDS,
            "volumes": volume_trend(report),
            "pictures": pictures,
            "units": UNITS_PER_VOXEL,
            "flags": [*report.flags, *(f"{p.case}: {flag}" for p in report.time_points for flag in p.flags)],
            "csv": data_uri(followup_csv(report).encode(), "text/csv;charset=utf-8"),
        },
    )


def followup_csv(report: FollowUp) -> str:
    """One row per lesion and examination."""
    return csv_text([_COLUMNS, *(_cells(report, point, one) for point in report.time_points for one in point.lesions)])


def _cells(report: FollowUp, point: TimePoint, lesion: TrackedLesion) -> tuple[str | float, ...]:
    measured, doubling = lesion.measurement, lesion.doubling
    known = (
        None if measured is None else measured.volume_uncertainty_ml,
        None if measured is None or measured.long_axis is None else measured.long_axis.length_mm,
        None if measured is None or measured.short_axis is None else measured.short_axis.length_mm,
        lesion.change_from_previous,
        lesion.change_from_baseline,
        None if doubling is None else doubling.days,
        None if doubling is None else doubling.low_days,
        None if doubling is None else doubling.high_days,
        None if measured is None else measured.organ,
        None if measured is None else measured.side,
    )
    return (
        report.name,
        point.case,
        "" if point.date is None else point.date.isoformat(),
        "" if point.days is None else point.days,
        lesion.id,
        lesion.number,
        lesion.label,
        lesion.state,
        " ".join(lesion.parents),
        lesion.merged_into or "",
        "" if lesion.volume_ml is None else lesion.volume_ml,
        *("" if value is None else value for value in known),
        lesion.tracking_uid,
    )


def _states(point: TimePoint) -> list[tuple[str, int]]:
    """How many lesions are in which state at the last examination, the most alarming first."""
    counts = Counter(lesion.state for lesion in point.lesions)
    order: tuple[LesionState, ...] = (
        *("new", "grown", "reappeared", "split", "merged", "stable", "shrunk", "vanished", "not covered"),
    )
    return [(state, counts[state]) for state in order if counts[state]]


def _row(lesion: TrackedLesion, report: FollowUp) -> _Row:
    seen = tuple(next((one for one in point.lesions if one.id == lesion.id), None) for point in report.time_points)
    return _Row(lesion.id, lesion.label, lesion.number, seen, lesion.doubling)


def _judged(criterion: CriterionSummary, report: FollowUp) -> _Judged:
    return _Judged(
        criterion,
        UNITS[criterion.quantity],
        QUANTITY_WORDS[criterion.quantity],
        tuple(_responses(criterion, report)),
        sum_trend(report, criterion),
    )


def _responses(criterion: CriterionSummary, report: FollowUp) -> Iterator[tuple[TimePoint, Response]]:
    for point in report.time_points:
        yield from ((point, response) for response in point.responses if response.criterion == criterion.id)
