"""The page of a repaired dataset: every change with its picture, and what was left out and why."""

from __future__ import annotations

from collections.abc import Sequence

from medseg.core.doctor import DoctorReport
from medseg.report.before_after import Comparison
from medseg.report.html import render
from medseg.report.outlines import UNITS_PER_VOXEL


def render_doctor(report: DoctorReport, comparisons: Sequence[Comparison] = ()) -> str:
    """One self-contained HTML page.

    Args:
        report: What was found, changed and left out.
        comparisons: Pictures of repaired cases; a case without them is only listed.
    """
    return render(
        "doctor.html",
        {
            "title": f"{report.dataset} · geometry doctor",
            "report": report,
            "repaired": report.with_outcome("repaired"),
            "kept": report.with_outcome("kept"),
            "left_out": report.with_outcome("left out"),
            "remaining": [finding for finding in report.remaining if finding.severity != "note"],
            "allowed": [name for name, value in report.reading.model_dump(exclude_defaults=True).items() if value],
            "comparisons": {comparison.case: comparison for comparison in comparisons},
            "units": UNITS_PER_VOXEL,
        },
    )
