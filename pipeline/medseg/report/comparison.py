"""The page of a comparison, and the same numbers as CSV."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from medseg.core.comparison import ComparisonReport, Contrast, PairedCase, PairedScore
from medseg.report.html import data_uri, render
from medseg.report.paired_plots import PairedPlot, paired_plots
from medseg.report.spreadsheet import csv_text

METRIC_TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "nsd": "NSD",
    "hd95_mm": "HD95",
    "hd_mm": "HD",
    "assd_mm": "ASSD",
    "accuracy": "Accuracy",
    "brier": "Brier score",
    "auroc": "AUROC",
}
VERDICT_WORDS = {
    "second_better": "better",
    "first_better": "worse",
    "not_distinguishable": "not distinguishable",
    "undecided": "undecided",
    "identical": "identical",
    "too_few": "too few patients",
}
_PLOTTED = ("dice", "nsd", "hd95_mm", "brier")
_MAX_LABEL_COLUMNS = 4
_OPEN_SUBJECTS = 3


@dataclass(frozen=True)
class _Changed:
    """One case, and how the number that orders the cases changed."""

    case: PairedCase
    before: float
    after: float
    details: dict[str, PairedScore]

    @property
    def change(self) -> float:
        return self.after - self.before


def render_comparison(report: ComparisonReport) -> str:
    """One self-contained HTML page; the tables of cases can be sorted where scripts run."""
    changed = [row for case in report.cases if (row := _changed(case)) is not None]
    labels = list(dict.fromkeys(one.subject for one in report.contrasts if one.kind == "label"))
    return render(
        "comparison.html",
        {
            "title": f"{report.first.name} against {report.second.name} · comparison",
            "report": report,
            "subjects": _subjects(report),
            "metric_titles": METRIC_TITLES,
            "verdict_words": VERDICT_WORDS,
            "ordered_by": _ordered_by(report),
            "groups": (
                ("worse", sorted((row for row in changed if row.change < 0), key=lambda row: row.change)),
                ("better", sorted((row for row in changed if row.change > 0), key=lambda row: -row.change)),
                ("unchanged", [row for row in changed if row.change == 0]),
            ),
            "columns": labels if 1 < len(labels) <= _MAX_LABEL_COLUMNS else [],
            "heads": list(dict.fromkeys(one.subject for one in report.contrasts if one.kind == "head")),
            "csv": data_uri(contrasts_csv(report).encode(), "text/csv;charset=utf-8"),
        },
        script="sort.js",
    )


def contrasts_csv(report: ComparisonReport) -> str:
    """One row per number that was compared; an empty cell for what does not apply."""
    fields = list(Contrast.model_fields)
    rows = [tuple("" if (cell := getattr(one, name)) is None else cell for name in fields) for one in report.contrasts]
    return csv_text([tuple(fields), *rows])


def cases_csv(report: ComparisonReport) -> str:
    """One row per case, label or head, and metric."""
    header = ("case", "patient", "kind", "subject", "metric", report.first.name, report.second.name, "difference")
    rows = (
        (case.case, case.patient, score.kind, score.subject, metric, before, after, after - before)
        for case in report.cases
        for score in case.scores
        for metric, (before, after) in score.values.items()
    )
    return csv_text([header, *rows])


def _subjects(report: ComparisonReport) -> list[tuple[str, str, list[tuple[PairedPlot, PairedPlot]], bool]]:
    """Name, kind, plots and whether shown at once, for each label and head that has plots."""
    found: dict[tuple[str, str], list[tuple[PairedPlot, PairedPlot]]] = {}
    for contrast in report.contrasts:
        if contrast.metric in _PLOTTED:
            plots = paired_plots(contrast, report.cases)
            if plots is not None:
                found.setdefault((contrast.subject, contrast.kind), []).append(plots)
    return [(name, kind, plots, n < _OPEN_SUBJECTS) for n, ((name, kind), plots) in enumerate(found.items())]


def _ordered_by(report: ComparisonReport) -> str:
    """What `_changed` reads, in words."""
    kinds = {score.kind: score.subject for case in report.cases for score in case.scores}
    if "case" in kinds:
        return "mean Dice"
    return f"Dice of {kinds['label']}" if "label" in kinds else "probability of the right class"


def _changed(case: PairedCase) -> _Changed | None:
    """Mean Dice over the labels; with one label its Dice; without labels the probability of the right class."""
    details = {score.subject: score for score in case.scores if score.kind != "case"}
    for score in _by_kind(case.scores):
        metric = "probability" if score.kind == "head" else "dice"
        return _Changed(case, *score.values[metric], details)
    return None


def _by_kind(scores: Iterable[PairedScore]) -> list[PairedScore]:
    return sorted(scores, key=lambda score: ("case", "label", "head").index(score.kind))
