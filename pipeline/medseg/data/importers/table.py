"""CSV and TSV: one row per case."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from medseg.core.case import Case, case_id
from medseg.core.document import suggest
from medseg.core.errors import UsageError, case_context
from medseg.data.importers.draft import TARGET, Draft, not_understood, unique_ids, values_of
from medseg.io.files import require_file

_ID_NAMES = ("case_id", "case", "id")
_PATIENT_NAMES = ("patient_id", "patient", "subject", "subject_id")
_SPLITS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_IMAGE = re.compile(r"image(_\d+)?$")
_CLASS = re.compile(r"class(_.+)?$")
_FIELDS = {*_ID_NAMES, *_PATIENT_NAMES, "label", "labelled", "split", "fold"}

Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """Rows by lower-case column name, empty cells left out; commas, semicolons or tabs between.

    Raises:
        InputError: `E-IMPORT`, no header or no rows.
    """
    try:
        text = require_file(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_understood(path, f"not UTF-8 text: {error}", "Save the table as CSV in UTF-8.") from error
    header = text.partition("\n")[0]
    delimiter = max("\t;,", key=header.count)
    rows = [
        {
            str(key).strip().lower(): value.strip()
            for key, value in row.items()
            if isinstance(value, str) and value.strip()
        }
        for row in csv.DictReader(text.splitlines(), delimiter=delimiter)
    ]
    if not rows:
        raise not_understood(path, "the table has no rows", "Give a header line and one line per case.")
    return rows


def read_table(path: Path) -> Draft:
    """One case per row.

    Columns: case_id, patient_id, image, image_2 ..., label, labelled, class or class_<head>, target_<name>, split and
    fold. Every other column becomes an attribute of the case. Paths are relative to the table's folder.

    Raises:
        UsageError: `E-TABLE`, a column is missing or a cell does not fit.
    """
    rows = read_rows(path)
    columns = sorted({key for row in rows for key in row})
    if "image" not in columns:
        raise UsageError(
            "the table has no column 'image'",
            code="E-TABLE",
            file=path,
            remedy=f"Name the columns case_id, image, label, class ...; {suggest('image', columns)}",
        )
    ids = [cell_of(row, _ID_NAMES) for row in rows]
    if not all(ids):
        ids = unique_ids([_path(path, row.get("image", "")) for row in rows])
    cases = []
    for row, name in zip(rows, ids, strict=True):
        with case_context(case_id(name)):
            cases.append(_case(row, case_id(name), path))
    return Draft(name=path.stem, cases=tuple(cases))


def cell_of(row: Row, names: tuple[str, ...]) -> str:
    """The first filled cell among columns that mean the same."""
    return next((row[name] for name in names if name in row), "")


def case_of(row: Row) -> str:
    """Which case a row speaks of."""
    return case_id(cell_of(row, (*_ID_NAMES, *_PATIENT_NAMES)))


def classes_of(row: Row) -> dict[str, str]:
    """`class` is the head `class`, `class_stage` the head `stage`."""
    return {key.removeprefix("class_"): value for key, value in row.items() if _CLASS.match(key)}


def attributes_of(row: Row) -> dict[str, str]:
    """What no field of a case stands for."""
    return {
        key: value
        for key, value in row.items()
        if key not in _FIELDS and not _IMAGE.match(key) and not _CLASS.match(key) and not key.startswith(TARGET)
    }


def _case(row: Row, name: str, path: Path) -> Case:
    if "image" not in row:
        raise UsageError("the cell 'image' is empty", code="E-TABLE", file=path, remedy="Fill it or delete the row.")
    split = _SPLITS.get(row.get("split", "").lower(), row.get("split", "").lower())
    keys = sorted((key for key in row if _IMAGE.match(key)), key=lambda key: int(key.partition("_")[2] or 1))
    values = {
        "id": name,
        "patient": cell_of(row, _PATIENT_NAMES),
        "images": [_path(path, row[key]) for key in keys],
        "label": _path(path, row["label"]) if "label" in row else None,
        "labelled": re.split(r"[;,| ]+", row["labelled"]) if "labelled" in row else None,
        "classes": classes_of(row),
        "values": values_of(row),
        "split": split or None,
        "fold": row.get("fold"),
        "attributes": attributes_of(row),
    }
    return Case.parse(values, file=path)


def _path(table: Path, cell: str) -> Path:
    return table.parent / Path(cell).expanduser()
