"""Coordinates of curves over time, in SVG units; the template only draws them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from medseg.core.followup import UNITS, CriterionSummary, FollowUp, TimePoint
from medseg.report.plots import Axis, Curve, Point, nice_ticks

_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 548.0, 14.0, 230.0
_MOST_LINES = 12
_QUANTITIES = {
    "long_axis_mm": "sum of the long axes",
    "short_axis_mm": "sum of the short axes",
    "product_mm2": "sum of the products",
    "volume_ml": "sum of the volumes",
}


@dataclass(frozen=True)
class Level:
    """A horizontal line that means something."""

    y: float
    text: str


@dataclass(frozen=True)
class Trend:
    """One quantity over time.

    Attributes:
        title: What is drawn.
        unit: Of the values.
        days: Whether the x axis counts days; otherwise examinations.
        marks: One per examination: where on the x axis, and its name.
        lines: Curves with their points' colours.
        points: Every value.
        levels: Cut-offs.
        num_left_out: Lesions that are not drawn.
    """

    title: str
    unit: str
    days: bool
    x_axis: Axis
    y_axis: Axis
    marks: tuple[Point, ...]
    lines: tuple[Curve, ...]
    points: tuple[Point, ...]
    levels: tuple[Level, ...] = ()
    num_left_out: int = 0


def sum_trend(report: FollowUp, criterion: CriterionSummary) -> Trend | None:
    """The sum over the targets of one criterion, with what it would take to respond or to progress; None without."""
    responses = [
        next((one for one in point.responses if one.criterion == criterion.id), None) for point in report.time_points
    ]
    later = [one for one in responses if one is not None]
    if not later or later[0].baseline_total is None:
        return None
    baseline = later[0].baseline_total
    values = [baseline, *(one.total for one in later)]
    last, unit = later[-1], UNITS[criterion.quantity]
    cuts = last.cut_offs
    fallen = baseline * (1 + cuts.partial_relative)
    nadir = baseline if last.nadir_total is None else last.nadir_total
    risen = max(nadir * (1 + cuts.progression_relative), nadir + cuts.progression_absolute)
    known = [value for value in values if value is not None]
    y_axis = _values_axis([*known, risen, fallen])
    words = ["baseline", *(one.category for one in later)]
    texts = [
        f"{point.case}: {value:.4g} {unit}, {word}" if value is not None else ""
        for point, value, word in zip(report.time_points, values, words, strict=True)
    ]
    x_axis, places = _time_axis(report.time_points)
    line, points = _line(criterion.name, 0, zip(places, values, texts, strict=True), x_axis, y_axis)
    return Trend(
        f"{criterion.name}: {_QUANTITIES[criterion.quantity]}",
        unit,
        _has_days(report.time_points),
        x_axis,
        y_axis,
        _marks(report.time_points, places, x_axis, words),
        (line,),
        points,
        (
            Level(y_axis.at(fallen), f"partial response at {fallen:.4g}"),
            Level(y_axis.at(risen), f"progression at {risen:.4g}"),
        ),
    )


def volume_trend(report: FollowUp) -> Trend | None:
    """The volume of each lesion, the twelve largest; None where there is no lesion at all."""
    names = [lesion.id for lesion in report.time_points[-1].lesions]
    volumes = {
        name: [next((one.volume_ml for one in p.lesions if one.id == name), None) for p in report.time_points]
        for name in names
    }
    known = {name: max((v for v in values if v is not None), default=0.0) for name, values in volumes.items()}
    shown = sorted((name for name in names if known[name] > 0), key=lambda name: -known[name])[:_MOST_LINES]
    if not shown:
        return None
    x_axis, places = _time_axis(report.time_points)
    y_axis = _values_axis(list(known.values()))
    lines: list[Curve] = []
    points: list[Point] = []
    for name in shown:
        texts = [
            f"{name}, {p.case}: {0 if v is None else v:.3g} ml"
            for p, v in zip(report.time_points, volumes[name], strict=True)
        ]
        line, dots = _line(name, names.index(name), zip(places, volumes[name], texts, strict=True), x_axis, y_axis)
        lines.append(line)
        points += dots
    return Trend(
        "Volume of each lesion",
        "ml",
        _has_days(report.time_points),
        x_axis,
        y_axis,
        _marks(report.time_points, places, x_axis, [""] * len(places)),
        tuple(lines),
        tuple(points),
        num_left_out=sum(value > 0 for value in known.values()) - len(shown),
    )


def _has_days(points: Sequence[TimePoint]) -> bool:
    days = [point.days for point in points]
    return None not in days and len(set(days)) == len(days)


def _time_axis(points: Sequence[TimePoint]) -> tuple[Axis, list[float]]:
    """Days since the baseline, or the number of the examination where a date is missing or occurs twice."""
    if _has_days(points):
        places = [float(point.days or 0) for point in points]
    else:
        places = [float(number) for number in range(1, len(points) + 1)]
    margin = 0.04 * (places[-1] - places[0])
    ticks = nice_ticks(places[0], places[-1]) if _has_days(points) else tuple(places)
    return Axis(places[0] - margin, places[-1] + margin, _LEFT, _RIGHT, ticks), places


def _values_axis(values: Sequence[float]) -> Axis:
    high = max(*values, 1e-6) * 1.08
    return Axis(0.0, high, _BOTTOM, _TOP, nice_ticks(0.0, high))


def _marks(points: Sequence[TimePoint], places: Sequence[float], axis: Axis, words: Sequence[str]) -> tuple[Point, ...]:
    return tuple(
        Point(axis.at(place), _BOTTOM, word or point.case)
        for point, place, word in zip(points, places, words, strict=True)
    )


def _line(
    name: str, colour: int, values: Iterable[tuple[float, float | None, str]], x_axis: Axis, y_axis: Axis
) -> tuple[Curve, tuple[Point, ...]]:
    """A curve that breaks where a value is missing."""
    path, points, pen = "", [], "M"
    for place, value, text in values:
        if value is None:
            pen = "M"
            continue
        point = Point(x_axis.at(place), y_axis.at(value), text, colour)
        path, pen = f"{path}{pen}{point.x} {point.y}", "L"
        points.append(point)
    return Curve(name, colour, path), tuple(points)
