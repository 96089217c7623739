"""The cohort cut by what the manifest says of the cases, and by the size of the structures.

Definitions are printed in docs/metrics.md.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from medseg.core.estimate import Estimate
from medseg.core.findings import CaseReport, SubgroupSummary
from medseg.ops.statistics import estimates

MISSING = "not given"
_MOST_GROUPS = 12
_MOST_NUMBERS = 6  # more different numbers than this are cut into quarters
_FEWEST_SIZED = 6

Columns = dict[tuple[str, str], dict[int, float]]


def subgroup_summaries(reports: Sequence[CaseReport]) -> tuple[tuple[SubgroupSummary, ...], dict[str, str]]:
    """A row per group of every attribute, and per third of each label's reference volume.

    Returns:
        The rows, and why an attribute has none.
    """
    rows, not_grouped = [], {}
    for attribute in dict.fromkeys(name for report in reports for name in report.attributes):
        groups, reason = attribute_groups([report.attributes.get(attribute, "") for report in reports])
        if reason:
            not_grouped[attribute] = reason
        rows += [_row(attribute, name, [reports[n] for n in cases]) for name, cases in groups.items()]
    for label in dict.fromkeys(row.label for report in reports for row in report.metrics):
        rows += _by_size(label, reports)
    return tuple(rows), not_grouped


def attribute_groups(values: Sequence[str]) -> tuple[dict[str, list[int]], str]:
    """Cases by value; numbers of many values by quarters of the cases; those without a value last.

    Args:
        values: One per case, empty where it is not given.

    Returns:
        Group to positions in `values`; and, when that makes no table, no groups and the reason.
    """
    given = {n: value.strip() for n, value in enumerate(values) if value.strip()}
    different = sorted(set(given.values()))
    missing = {MISSING: [n for n in range(len(values)) if n not in given]} if len(given) < len(values) else {}
    if len(different) + len(missing) < 2:
        return {}, "the same for all cases"
    numbers = {n: _number(value) for n, value in given.items()}
    if len(different) > _MOST_NUMBERS and not any(math.isnan(number) for number in numbers.values()):
        return _quarters(numbers) | missing, ""
    if len(different) > _MOST_GROUPS:
        return {}, f"{len(different)} different values, at most {_MOST_GROUPS} make a table"
    return {value: [n for n, own in given.items() if own == value] for value in different} | missing, ""


def _number(text: str) -> float:
    """A number, also as DICOM writes an age (`065Y`); NaN for anything else."""
    try:
        number = float(text.removesuffix("Y"))
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _quarters(numbers: Mapping[int, float]) -> dict[str, list[int]]:
    cuts = sorted({float(cut) for cut in np.percentile(list(numbers.values()), [25, 50, 75], method="higher")})
    edges = [-math.inf, *cuts, math.inf]
    groups = {}
    for low, high in pairwise(edges):
        upper = f"below {high:g}"
        name = upper if low == -math.inf else f"from {low:g}" if high == math.inf else f"from {low:g}, {upper}"
        groups[name] = [n for n, number in numbers.items() if low <= number < high]
    return {name: cases for name, cases in groups.items() if cases}


def _by_size(label: str, reports: Sequence[CaseReport]) -> list[SubgroupSummary]:
    """Thirds of the cases by the label's reference volume; none with fewer than six."""
    volumes = {
        n: row.reference_volume_ml
        for n, report in enumerate(reports)
        for row in report.metrics
        if row.label == label and row.reference_volume_ml > 0
    }
    if len(volumes) < _FEWEST_SIZED or len(set(volumes.values())) < 3:
        return []
    low, high = np.percentile(list(volumes.values()), [100 / 3, 200 / 3])
    thirds: dict[str, Callable[[float], bool]] = {
        f"small, up to {low:.3g} ml": lambda volume: volume <= low,
        f"medium, up to {high:.3g} ml": lambda volume: low < volume <= high,
        f"large, above {high:.3g} ml": lambda volume: volume > high,
    }
    only = {label}
    groups = {name: [reports[n] for n, volume in volumes.items() if fits(volume)] for name, fits in thirds.items()}
    return [_row(f"size of {label}", name, cases, only=only) for name, cases in groups.items() if cases]


def _row(attribute: str, group: str, cases: Sequence[CaseReport], *, only: set[str] | None = None) -> SubgroupSummary:
    """One group; with `only`, these labels and neither the mean over labels nor the classes."""
    columns: Columns = defaultdict(dict)
    presence: Counter[str] = Counter()
    for n, case in enumerate(cases):
        rows = [row for row in case.metrics if only is None or row.label in only]
        presence.update(row.presence for row in rows)
        columns |= {("dice", row.label): columns["dice", row.label] | {n: row.dice} for row in rows}
        if only is None and case.mean_dice is not None:
            columns["mean", ""][n] = case.mean_dice
        for answer in case.classes if only is None else ():
            if answer.reference is not None:
                columns["accuracy", answer.head][n] = float(answer.answer == answer.reference)
    found = _estimated(columns, [case.patient for case in cases])
    return SubgroupSummary(
        attribute=attribute,
        group=group,
        num_cases=len(cases),
        num_patients=len({case.patient for case in cases}),
        mean_dice=found.get(("mean", "")),
        dice={name: one for (kind, name), one in found.items() if kind == "dice"},
        accuracy={name: one for (kind, name), one in found.items() if kind == "accuracy"},
        num_missed=presence["missed"],
        num_invented=presence["invented"],
    )


def _estimated(columns: Columns, patients: Sequence[str]) -> dict[tuple[str, str], Estimate]:
    """Columns that the same cases have are resampled together, which is what takes the time."""
    together: dict[tuple[int, ...], list[tuple[str, str]]] = defaultdict(list)
    for key, values in columns.items():
        together[tuple(values)].append(key)
    found: dict[tuple[str, str], Estimate] = {}
    for where, keys in together.items():
        table = np.array([[columns[key][n] for key in keys] for n in where])
        rows = estimates(table, [patients[n] for n in where], bounds=[(0.0, 1.0)] * len(keys))
        found |= dict(zip(keys, rows, strict=True))
    return {key: found[key] for key in columns}
