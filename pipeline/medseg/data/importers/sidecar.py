"""A table of classes and attributes that lies beside a folder's images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medseg.core.case import Case
from medseg.data.importers.draft import Draft, values_of
from medseg.data.importers.table import Row, attributes_of, case_of, classes_of, read_rows

_MOST_CLASSES = 10


def add_table(draft: Draft, folder: Path) -> Draft:
    """Join the folder's only CSV by case or patient id; without one, or without a common id, nothing changes.

    Columns named `class` or `class_<head>` become classes, `target_<name>` values. The only other column of a table
    becomes a classification head of its name when it holds 2 to 10 different values; all else becomes attributes.
    """
    tables = sorted(folder.glob("*.csv"))
    if len(tables) != 1:
        return draft
    rows = {case_of(row): row for row in read_rows(tables[0])}
    if not any(case.id in rows for case in draft.cases):
        return draft
    head = _only_head(list(rows.values()))
    return replace(draft, cases=tuple(_joined(case, rows.get(case.id, {}), head) for case in draft.cases))


def _only_head(rows: list[Row]) -> str | None:
    columns = {key for row in rows for key in attributes_of(row)}
    if len(columns) != 1 or any(classes_of(row) or values_of(row) for row in rows):
        return None
    column = next(iter(columns))
    values = {row[column] for row in rows if column in row}
    return column if 2 <= len(values) <= _MOST_CLASSES else None


def _joined(case: Case, row: Row, head: str | None) -> Case:
    attributes = attributes_of(row)
    classes = classes_of(row)
    if head in attributes:
        classes[head] = attributes.pop(head)
    return case.model_copy(update={"classes": classes, "values": values_of(row), "attributes": attributes})
