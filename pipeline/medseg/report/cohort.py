"""The page of a cohort, and the same numbers as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from medseg.core.baseline import FEATURE_TITLES, TITLES, BaselineHead, BaselineReport
from medseg.core.estimate import Estimate
from medseg.core.findings import CaseReport, ClassSummary, CohortReport, LabelMetrics, SubgroupSummary
from medseg.report.case import PRESENCE_WORDS
from medseg.report.html import data_uri, render
from medseg.report.plots import (
    UNIT_X,
    UNIT_Y,
    Curve,
    Reliability,
    Strips,
    answers_by_reference,
    dice_by_volume,
    metric_strips,
    reliability,
    roc_curves,
)
from medseg.report.spreadsheet import csv_text

_MAX_LABEL_COLUMNS = 4
_METRIC_FIELDS = tuple(
    name for name in LabelMetrics.model_fields if name not in ("label", "presence", "percentiles_mm")
)


@dataclass(frozen=True)
class _Head:
    """One classification head: its summary, and the plots its cases allow."""

    summary: ClassSummary
    roc: list[Curve]
    reliability: Reliability | None


@dataclass(frozen=True)
class _SubgroupTable:
    """The groups of one attribute, and what is worth a column for any of them."""

    attribute: str
    columns: tuple[str, ...]
    rows: tuple[tuple[SubgroupSummary, tuple[Estimate | None, ...]], ...]


def render_cohort(
    report: CohortReport, *, case_pages: Mapping[str, str], baselines: BaselineReport | None = None
) -> str:
    """One self-contained HTML page; the table of cases can be sorted where scripts run.

    Args:
        report: All numbers on the page; its cases in the order to show, worst first.
        case_pages: Case id to the relative path of the case's page; cases without one are not linked.
        baselines: Classical models beside the network, where they were judged.
    """
    wide = 0 < len(report.labels) <= _MAX_LABEL_COLUMNS
    return render(
        "cohort.html",
        {
            "title": f"{report.name} · cohort report",
            "report": report,
            "case_pages": case_pages,
            "colours": {summary.label: n for n, summary in enumerate(report.labels)},
            "columns": [summary.label for summary in report.labels] if wide else [],
            "rows": [_row(case) for case in report.cases],
            "presence_words": PRESENCE_WORDS,
            "show_patients": any(case.patient not in ("", case.case) for case in report.cases),
            "strips": _strips(report) if report.labels else [],
            "scatter": dice_by_volume([summary.label for summary in report.labels], report.cases),
            "heads": [_Head(one, roc_curves(one), reliability(one)) for one in report.classes],
            "targets": [(one, answers_by_reference(one.name, report.cases)) for one in report.values],
            "percentiles": list(report.labels[0].percentiles_mm) if report.labels else [],
            "subgroups": list(_subgroup_tables(report.subgroups)),
            "baselines": baselines,
            "baseline_rows": [list(_baseline_rows(head)) for head in baselines.heads] if baselines else [],
            "models": {case.provenance.model for case in report.cases},
            "unit_x": UNIT_X,
            "unit_y": UNIT_Y,
            "csv": data_uri(cohort_csv(report).encode(), "text/csv;charset=utf-8"),
        },
        script="sort.js",
    )


def cohort_csv(report: CohortReport) -> str:
    """One row per case and label; a row without label for a case without any, and for one that failed."""
    heads = [(summary.head, summary.classes) for summary in report.classes]
    answers = [
        name
        for head, classes in heads
        for name in (head, f"{head} reference", *(f"{head} p({one})" for one in classes))
    ]
    answers += [name for one in report.values for name in (f"{one.name} ({one.unit})", f"{one.name} reference")]
    percentiles = list(dict.fromkeys(percent for one in report.labels for percent in one.percentiles_mm))
    further = [f"hd{percent}_mm" for percent in percentiles]
    names = ("case", "patient", "label", "presence", *_METRIC_FIELDS, *further, *answers)
    rows: list[tuple[str | float, ...]] = [names]
    for case in report.cases:
        classes = [cell for head, known in heads for cell in _answer_cells(case, head, known)]
        said = [cell for one in report.values for cell in _value_cells(case, one.name)]
        rows += [(case.case, case.patient, *cells, *classes, *said) for cells in _label_cells(case, percentiles)]
    rows += [(failure.case, "", "", f"failed: {failure.code}") for failure in report.failures]
    return csv_text(rows)


def _label_cells(case: CaseReport, percentiles: Sequence[str]) -> Iterator[tuple[str | float, ...]]:
    """Label, presence and the fields of `LabelMetrics` for everything that was found or scored in the case."""
    empty = dict.fromkeys((*_METRIC_FIELDS, *percentiles), "")
    scored = {row.label for row in case.metrics}
    for row in case.metrics:
        numbers = [getattr(row, name) for name in _METRIC_FIELDS]
        further = [row.percentiles_mm.get(percent, "") for percent in percentiles]
        yield (row.label, row.presence, *("" if one is None else _short(one) for one in (*numbers, *further)))
    for label, volume in case.volumes_ml.items():
        if label not in scored:
            yield (label, "not scored", *(empty | {"volume_ml": volume}).values())
    if not scored and not case.volumes_ml:
        yield ("", "", *empty.values())


def _answer_cells(case: CaseReport, head: str, classes: tuple[str, ...]) -> list[str | float]:
    answer = next((answer for answer in case.classes if answer.head == head), None)
    if answer is None:
        return [""] * (2 + len(classes))
    return [answer.answer, answer.reference or "", *(_short(answer.probabilities.get(name, "")) for name in classes)]


def _value_cells(case: CaseReport, name: str) -> list[str | float]:
    one = next((one for one in case.values if one.name == name), None)
    return ["", ""] if one is None else [_short(one.value), "" if one.reference is None else _short(one.reference)]


def _short(number: str | float) -> str | float:
    """Seven digits: the JSON has them all, and the page that carries the table stays half as large."""
    return number if isinstance(number, str) else float(f"{number:.7g}")


def _row(case: CaseReport) -> dict[str, object]:
    """What the table of cases shows of one case."""
    return {
        "case": case,
        "by_label": {row.label: row for row in case.metrics},
        "worst": min(case.metrics, key=lambda row: row.dice, default=None),
        "absent": [row for row in case.metrics if row.presence in ("missed", "invented")],
        "answers": {answer.head: answer for answer in case.classes},
        "numbers": {one.name: one for one in case.values},
    }


def _subgroup_tables(subgroups: Sequence[SubgroupSummary]) -> Iterator[_SubgroupTable]:
    """Per attribute: mean Dice, Dice of each label where they are few, accuracy of each head."""
    for attribute in dict.fromkeys(one.attribute for one in subgroups):
        rows = [one for one in subgroups if one.attribute == attribute]
        labels = list(dict.fromkeys(label for one in rows for label in one.dice))
        heads = list(dict.fromkeys(head for one in rows for head in one.accuracy))
        means = any(one.mean_dice is not None for one in rows) and len(labels) != 1
        shown = labels if len(labels) <= _MAX_LABEL_COLUMNS else []
        columns = (
            *(["mean Dice"] * means),
            *(f"{label}: Dice" for label in shown),
            *(f"{head}: accuracy" for head in heads),
        )
        cells = (
            ([one.mean_dice] if means else []) + [one.dice.get(n) for n in shown] + [one.accuracy.get(n) for n in heads]
            for one in rows
        )
        yield _SubgroupTable(
            attribute, tuple(columns), tuple((one, tuple(row)) for one, row in zip(rows, cells, strict=True))
        )


def _baseline_rows(head: BaselineHead) -> Iterator[tuple[str, str, ClassSummary, float | None]]:
    """Title, features, numbers, and what was scored in training; the network first."""
    if head.network is not None:
        yield "The network", "", head.network, None
    for one in head.models:
        yield TITLES[one.family], FEATURE_TITLES[one.features], one.summary, one.training_auroc


def _strips(report: CohortReport) -> list[Strips]:
    return [
        metric_strips(
            title,
            unit="mm" if name.endswith("_mm") else "",
            estimates={summary.label: getattr(summary, name) for summary in report.labels},
            cases=report.cases,
            value_of=attrgetter(name),
        )
        for title, name in (("Dice", "dice"), ("HD95", "hd95_mm"), ("NSD", "nsd"))
    ]
