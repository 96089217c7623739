"""The page and the table of what was measured on a mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from medseg.core.measurements import Caliper, CaseMeasurements, Measurement
from medseg.core.staging import CaseStaging
from medseg.report.calipers import DrawnLesion
from medseg.report.html import render
from medseg.report.outlines import UNITS_PER_VOXEL
from medseg.report.spreadsheet import csv_text

_COLUMNS = (
    *("case", "id", "label", "kind", "volume_ml", "volume_uncertainty_ml", "is_cut_off"),
    *("long_axis_mm", "long_axis_uncertainty_mm", "short_axis_mm", "short_axis_uncertainty_mm"),
    *("feret_mm", "feret_uncertainty_mm", "slice_number", "instance_number", "organ", "side", "side_basis", "touching"),
    *("unit", "mean", "minimum", "maximum", "standard_deviation", "suv_peak", "total_lesion_glycolysis"),
    *("centre_right_mm", "centre_anterior_mm", "centre_superior_mm", "normal_range", "tracking_uid"),
)


def render_measurements(
    report: CaseMeasurements, drawn: Mapping[str, DrawnLesion], *, staging: CaseStaging | None = None
) -> str:
    """One self-contained HTML page.

    Args:
        report: All numbers on the page.
        drawn: From `draw_lesions`.
        staging: Categories by size, a section of the page.
    """
    lesions = [one for one in report.measurements if one.kind == "lesion"]
    return render(
        "measurements.html",
        {
            "title": f"{report.case} · measurements",
            "report": report,
            "lesions": lesions,
            "organs": [one for one in report.measurements if one.kind == "organ"],
            "drawn": drawn,
            "staged": () if staging is None else staging.results,
            "tables": {} if staging is None else {result.table: result for result in staging.results},
            "units": UNITS_PER_VOXEL,
            "unit": next((one.intensity.unit for one in report.measurements if one.intensity), None),
            "has_peak": any(one.intensity and one.intensity.suv_peak is not None for one in lesions),
            "has_image": any(one.intensity for one in report.measurements),
            "ranged": [one for one in report.measurements if one.normal_range],
        },
        script="zoom.js",
    )


def measurements_csv(reports: Sequence[CaseMeasurements]) -> str:
    """One row per structure; a case without any has a row that says so."""
    rows: list[tuple[str | float, ...]] = [_COLUMNS]
    for report in reports:
        rows += [tuple(_cells(report.case, one)) for one in report.measurements]
        if not report.measurements:
            rows.append((report.case, "", "", report.summary))
    return csv_text(rows)


def _cells(case: str, one: Measurement) -> Iterator[str | float]:
    yield from (case, one.id, one.label, one.kind, one.volume_ml, one.volume_uncertainty_ml)
    yield "yes" if one.is_cut_off else "no"
    for caliper in (one.long_axis, one.short_axis, one.feret):
        yield from _lengths(caliper)
    for value in (one.slice_number, one.instance_number, one.organ, one.side, one.side_basis):
        yield "" if value is None else value
    yield "; ".join(one.touching)
    values = one.intensity
    fields = ("unit", "mean", "minimum", "maximum", "standard_deviation", "suv_peak", "total_lesion_glycolysis")
    for field in fields:
        value = None if values is None else getattr(values, field)
        yield "" if value is None else value
    yield from one.centre_mm
    yield "" if one.normal_range is None else one.normal_range.comparison
    yield one.tracking_uid or ""


def _lengths(caliper: Caliper | None) -> tuple[str | float, str | float]:
    return ("", "") if caliper is None else (caliper.length_mm, caliper.uncertainty_mm)
