"""Coordinates of the plots on the cohort page, in SVG units; the template only draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medseg.core.estimate import Estimate
from medseg.core.findings import CaseReport, ClassSummary, LabelMetrics

_GOLDEN = 0.6180339887498949
_ROW_HEIGHT = 44.0
_GUTTER = 552.0
_ABSENT = ("missed", "invented")


@dataclass(frozen=True)
class Axis:
    """A scale from values to units.

    Attributes:
        low, high: Values at the ends.
        start, stop: Units at the ends; `start` may exceed `stop`.
        ticks: Values worth a line and a number.
        logarithmic: Equal ratios take equal room.
    """

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Where a value lies; values beyond the ends lie at the ends."""
        inside = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            share = (inside - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)


@dataclass(frozen=True)
class Point:
    """One case, `absent` when the label was missed or invented; or one bin of cases, its `size` by their number."""

    x: float
    y: float
    text: str
    colour: int = 0
    absent: bool = False
    size: float = 1.0


@dataclass(frozen=True)
class Strip:
    """One label's distribution: every case as a point, box of the quartiles, mean with its interval, in units."""

    label: str
    y: float
    points: tuple[Point, ...]
    estimate: Estimate


@dataclass(frozen=True)
class Strips:
    """All labels' distributions of one metric on one axis."""

    title: str
    unit: str
    axis: Axis
    height: float
    strips: tuple[Strip, ...]
    num_absent: int


@dataclass(frozen=True)
class Scatter:
    x_axis: Axis
    y_axis: Axis
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Curve:
    """A line in the unit square: points in SVG units, and what each number means."""

    name: str
    colour: int
    path: str
    note: str = ""


@dataclass(frozen=True)
class Reliability:
    """Share of right answers by confidence: x, y in units, number of cases, per bin that holds any."""

    points: tuple[Point, ...]
    path: str


def nice_ticks(low: float, high: float, *, count: int = 5) -> tuple[float, ...]:
    """Round numbers within low..high, about `count` of them."""
    rough = (high - low) / count
    decade = 10.0 ** math.floor(math.log10(rough))
    step = decade * min((1, 2, 5, 10), key=lambda factor: abs(factor * decade - rough))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(n * step, 10) for n in range(first, last + 1))


def metric_strips(
    title: str,
    *,
    unit: str,
    estimates: Mapping[str, Estimate],
    cases: Sequence[CaseReport],
    value_of: Callable[[LabelMetrics], float],
) -> Strips:
    """One strip per label; with a unit, missed and invented structures lie in a gutter at the far right.

    Such an axis ends at the largest distance among the structures that were found: the diagonal of the image, which
    stands for the others, would squeeze these together.
    """
    rows: dict[str, list[tuple[str, LabelMetrics]]] = {label: [] for label in estimates}
    for case in cases:
        for row in case.metrics:
            if row.label in rows:
                rows[row.label].append((case.case, row))
    found = [value_of(row) for pairs in rows.values() for _, row in pairs if row.presence not in _ABSENT]
    high = max([*found, 1e-3]) * 1.02 if unit else 1.0
    axis = Axis(0.0, high, 110, 530, nice_ticks(0.0, high))
    strips = []
    for position, (label, estimate) in enumerate(estimates.items()):
        middle = _ROW_HEIGHT * (position + 0.5)
        points = []
        for n, (case_id, row) in enumerate(rows[label]):
            value, absent = value_of(row), row.presence in _ABSENT
            x = _GUTTER if absent and unit else axis.at(value)
            offset = ((n * _GOLDEN) % 1 - 0.5) * _ROW_HEIGHT / 2
            text = f"{case_id}: {value:.3g}{' ' + unit if unit else ''}{', ' + row.presence if absent else ''}"
            points.append(Point(x, round(middle + offset, 2), text, position, absent))
        strips.append(Strip(label, middle, tuple(points), estimate))
    num_absent = sum(point.absent for strip in strips for point in strip.points)
    return Strips(title, unit, axis, _ROW_HEIGHT * len(strips), tuple(strips), num_absent)


def dice_by_volume(labels: Sequence[str], cases: Sequence[CaseReport]) -> Scatter | None:
    """Dice against reference volume (logarithmic); None when no reference has a volume."""
    colours = {label: n for n, label in enumerate(labels)}
    rows = [(case.case, row) for case in cases for row in case.metrics if row.reference_volume_ml > 0]
    if not rows:
        return None
    volumes = [row.reference_volume_ml for _, row in rows]
    low, high = min(volumes) / 1.3, max(volumes) * 1.3
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = tuple(
        tick for decade in decades for step in (1, 2, 5) if low <= (tick := float(f"{step}e{decade}")) <= high
    )
    x_axis = Axis(low, high, 50, 550, ticks if len(ticks) <= 7 else ticks[:: len(ticks) // 6], logarithmic=True)
    y_axis = Axis(0, 1, 250, 14, nice_ticks(0, 1))
    points = tuple(
        Point(
            x_axis.at(row.reference_volume_ml),
            y_axis.at(row.dice),
            f"{case}, {row.label}: {row.reference_volume_ml:.3g} ml, Dice {row.dice:.3f}",
            colours.get(row.label, 0),
            row.presence == "missed",
        )
        for case, row in rows
    )
    return Scatter(x_axis, y_axis, points)


def answers_by_reference(name: str, cases: Sequence[CaseReport]) -> Scatter | None:
    """Answers of a target against the references, both on one scale; None without a reference."""
    rows = [
        (case.case, one, one.reference)
        for case in cases
        for one in case.values
        if one.name == name and one.reference is not None
    ]
    if not rows:
        return None
    numbers = [number for _, one, reference in rows for number in (one.value, reference)]
    margin = 0.05 * (max(numbers) - min(numbers)) or 1.0
    low, high = min(numbers) - margin, max(numbers) + margin
    ticks = nice_ticks(low, high, count=4)
    x_axis, y_axis = Axis(low, high, 44, 284, ticks), Axis(low, high, 254, 14, ticks)
    points = tuple(
        Point(x_axis.at(reference), y_axis.at(one.value), f"{case}: {one.words}, reference {reference:.4g}")
        for case, one, reference in rows
    )
    return Scatter(x_axis, y_axis, points)


UNIT_X = Axis(0, 1, 44, 284, (0.0, 0.5, 1.0))
UNIT_Y = Axis(0, 1, 254, 14, (0.0, 0.5, 1.0))


def roc_curves(summary: ClassSummary) -> list[Curve]:
    """One class against the rest, for every class that the areas are about."""
    return [
        Curve(
            curve.name,
            summary.classes.index(curve.name),
            "M"
            + "L".join(
                f"{UNIT_X.at(x)} {UNIT_Y.at(y)}"
                for x, y in zip(curve.false_positive_rate, curve.true_positive_rate, strict=True)
            ),
            f"area {float(np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)):.3f}",
        )
        for curve in summary.roc
    ]


def reliability(summary: ClassSummary) -> Reliability | None:
    """Share of right answers by the probability of the answer given, in the bins of the calibration error."""
    if not summary.reliability:
        return None
    most = max(one.num_cases for one in summary.reliability)
    points = tuple(
        Point(
            UNIT_X.at(one.confidence),
            UNIT_Y.at(one.accuracy),
            f"{one.num_cases} answers with mean confidence {one.confidence:.3f}: {one.accuracy:.3f} right",
            size=round(0.6 + math.sqrt(one.num_cases / most), 2),
        )
        for one in summary.reliability
    )
    return Reliability(points, "M" + "L".join(f"{point.x} {point.y}" for point in points))
