"""Follow-ups as text or JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from medseg.apps.show_clinical import outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medseg.apps.terminal import Terminal
    from medseg.core.followup import FollowUp, TrackedLesion
    from medseg.workflows.follow_up import Followed
    from medseg.workflows.follow_up_studies import Patient

_MOST_ROWS = 20


def planned(terminal: Terminal, patients: Sequence[Patient], out: Path, *, as_json: bool) -> None:
    """What would be compared and written."""
    rows = [
        (patient.name, study.case, str(study.day or "unknown"), str(study.image), str(study.mask))
        for patient in patients
        for study in patient.studies
    ]
    columns = ("patient", "case", "date", "image", "mask")
    if as_json:
        studies = [dict(zip(columns, row, strict=True)) for row in rows]
        terminal.json(json.dumps({"out": str(out), "studies": studies}, indent=2))
        return
    terminal.table(columns, rows[:_MOST_ROWS])
    terminal.result(f"{len(patients)} patient(s) would be followed into {out}; nothing was written (dry run)")


def followed(terminal: Terminal, made: Followed, *, as_json: bool) -> None:
    if as_json:
        outcome(terminal, made.out, made.failures, patients=made.reports)
        return
    for report in made.reports[:_MOST_ROWS]:
        _patient(terminal, report)
        terminal.result(f"report: {(made.out / report.name / 'followup.html').resolve()}")
    rest = len(made.reports) - _MOST_ROWS
    if rest > 0:
        terminal.result(f"... and {rest} more in {made.out}")


def _patient(terminal: Terminal, report: FollowUp) -> None:
    for flag in [*report.flags, *(f"{point.case}: {flag}" for point in report.time_points for flag in point.flags)]:
        terminal.say(flag)
    last = report.time_points[-1]
    if last.lesions:
        columns = ("lesion", "state", "volume, ml", "long x short, mm", "since before", "since baseline", "doubles in")
        terminal.table(columns, [_row(one) for one in last.lesions[:_MOST_ROWS]], title=f"{report.name}: {last.case}")
    else:
        terminal.result(f"{report.name}: no lesion at any examination")
    for point in report.time_points[1:]:
        for response in point.responses:
            edge = ", borderline" if response.borderline else ""
            terminal.result(f"{point.case}: {response.criterion} {response.category}{edge}: {response.decided_by}")


def _row(lesion: TrackedLesion) -> tuple[str, ...]:
    measured = lesion.measurement
    axes = "-"
    if measured is not None and measured.long_axis is not None and measured.short_axis is not None:
        axes = f"{measured.long_axis.length_mm:.1f} x {measured.short_axis.length_mm:.1f}"
    return (
        lesion.id,
        f"{lesion.state} into {lesion.merged_into}" if lesion.merged_into else lesion.state,
        "-" if measured is None else f"{measured.volume_ml:.3g} ± {measured.volume_uncertainty_ml:.2g}",
        axes,
        _share(lesion.change_from_previous),
        _share(lesion.change_from_baseline),
        _doubling(lesion),
    )


def _doubling(lesion: TrackedLesion) -> str:
    """Of a grown lesion only, with what the uncertainty of its volumes leaves open, as on the page."""
    found = lesion.doubling
    if found is None or lesion.state != "grown":
        return "-"
    latest = "no growth" if found.high_days is None else f"{found.high_days:.0f}"
    return f"{found.days:.0f} days ({found.low_days:.0f} to {latest})"


def _share(change: float | None) -> str:
    return "-" if change is None else f"{change:+.0%}"
