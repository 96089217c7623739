"""Coordinates of the plots that set two models against each other; the template only draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medseg.core.comparison import Contrast, PairedCase, PairedScore
from medseg.report.plots import Axis, nice_ticks

_LIMITS_OF_AGREEMENT = 1.96
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 284.0, 14.0, 254.0
Change = Literal["gain", "loss", "same"]


@dataclass(frozen=True)
class PairedPoint:
    """One case: what happened from the first model to the second, and where it lies in units."""

    x: float
    y: float
    change: Change
    text: str
    absent: bool


@dataclass(frozen=True)
class PairedPlot:
    """A cloud of cases.

    Attributes:
        contrast: What is plotted, and its numbers.
        x_axis, y_axis: A scatter has the same scale on both; a difference plot has 0 in the middle of y.
        points: Structures that a model missed or invented lie at the edge when their number lies beyond it.
        band: Of a difference plot: mean, ends of its interval, limits of agreement (mean ± 1.96 standard deviations).
    """

    contrast: Contrast
    x_axis: Axis
    y_axis: Axis
    points: tuple[PairedPoint, ...]
    band: tuple[float, float | None, float | None, float, float] | None = None

    @property
    def num_absent(self) -> int:
        return sum(point.absent for point in self.points)


def paired_plots(contrast: Contrast, cases: Sequence[PairedCase]) -> tuple[PairedPlot, PairedPlot] | None:
    """Scatter of the second against the first model, and differences against means (Bland and Altman, Lancet 1986).

    Scales end at the structures that both models found: the diagonal of the image, which stands for the others, would
    squeeze these together. None when no case has the numbers.
    """
    rows = [(case, score) for case in cases if (score := _score(case, contrast)) is not None]
    if not rows:
        return None
    values = np.array([score.values[contrast.metric] for _, score in rows])
    found = np.array([not score.absent for _, score in rows])
    shown = values[found] if found.any() else values
    texts = [_text(case, score, contrast) for case, score in rows]
    changes = [_change(before, after, contrast) for before, after in values]
    marks = list(zip(changes, texts, (~found).tolist(), strict=True))
    both = _across(shown, contrast.unit)
    scatter = PairedPlot(
        contrast,
        _axis(both, _LEFT, _RIGHT),
        _axis(both, _BOTTOM, _TOP),
        _points(values, marks, _axis(both, _LEFT, _RIGHT), _axis(both, _BOTTOM, _TOP)),
    )
    means, differences = values.mean(axis=1), values[:, 1] - values[:, 0]
    reach = 1.08 * max(float(np.abs(shown[:, 1] - shown[:, 0]).max()), 1e-3)
    x_axis, y_axis = _axis(_across(shown.mean(axis=1), contrast.unit), _LEFT, _RIGHT), _axis((-reach, reach), 254, 14)
    spread = _LIMITS_OF_AGREEMENT * float(differences.std(ddof=1)) if len(rows) > 1 else 0.0
    middle = contrast.difference
    band = (middle, contrast.low, contrast.high, middle - spread, middle + spread)
    points = _points(np.stack([means, differences], axis=1), marks, x_axis, y_axis)
    return scatter, PairedPlot(contrast, x_axis, y_axis, points, band)


def _score(case: PairedCase, contrast: Contrast) -> PairedScore | None:
    return next(
        (
            score
            for score in case.scores
            if (score.kind, score.subject) == (contrast.kind, contrast.subject) and contrast.metric in score.values
        ),
        None,
    )


def _change(before: float, after: float, contrast: Contrast) -> Change:
    if before == after:
        return "same"
    return "gain" if (after > before) == (contrast.better == "higher") else "loss"


def _text(case: PairedCase, score: PairedScore, contrast: Contrast) -> str:
    before, after = score.values[contrast.metric]
    unit = f" {contrast.unit}" if contrast.unit else ""
    seen = "" if score.presence is None or not score.absent else f" ({score.presence[0]}, then {score.presence[1]})"
    return f"{case.case}: {before:.3g}, then {after:.3g}{unit}{seen}".replace("both,", "found,").replace(
        "both)", "found)"
    )


def _across(values: np.ndarray, unit: str) -> tuple[float, float]:
    """A little more than the values span; within 0..1 for shares, from 0 on for lengths."""
    low, high = float(values.min()), float(values.max())
    room = max(0.05 * (high - low), 0.01 * max(abs(high), 0.1))
    return max(0.0, low - room), high + room if unit else min(1.0, high + room)


def _axis(ends: tuple[float, float], start: float, stop: float) -> Axis:
    low, high = ends
    return Axis(low, high, start, stop, nice_ticks(low, high, count=4))


def _points(
    places: np.ndarray, marks: Sequence[tuple[Change, str, bool]], x_axis: Axis, y_axis: Axis
) -> tuple[PairedPoint, ...]:
    return tuple(
        PairedPoint(x_axis.at(float(x)), y_axis.at(float(y)), change, text, absent)
        for (x, y), (change, text, absent) in zip(places, marks, strict=True)
    )
