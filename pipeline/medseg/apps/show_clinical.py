"""Measurements and categories as text or JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from medseg.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from medseg.apps.terminal import Terminal
    from medseg.clinical.rule_tables import RuleTable
    from medseg.core.document import Document
    from medseg.core.findings import CaseFailure
    from medseg.core.measurements import CaseMeasurements, Measurement
    from medseg.workflows.mask_inputs import MaskCase
    from medseg.workflows.measure import Measured
    from medseg.workflows.stage import Staged

_MOST_ROWS = 20


def planned(terminal: Terminal, cases: Sequence[MaskCase], out: Path, *, as_json: bool) -> None:
    """What would be measured and written."""
    rows = [
        (one.id, str(one.mask), str(one.image or "none"), ", ".join(one.labels or ()) or "unnamed") for one in cases
    ]
    if as_json:
        keys = ("case", "mask", "image", "labels")
        terminal.json(
            json.dumps({"out": str(out), "cases": [dict(zip(keys, row, strict=True)) for row in rows]}, indent=2)
        )
        return
    terminal.table(("case", "mask", "image", "labels"), rows[:_MOST_ROWS])
    terminal.result(f"{len(rows)} case(s) would be measured into {out}; nothing was written (dry run)")


def outcome(terminal: Terminal, out: Path, failures: Sequence[CaseFailure], **documents: Sequence[Document]) -> None:
    """JSON: where everything is, the documents by their name, and what failed."""
    told = {name: [json.loads(one.model_dump_json()) for one in several] for name, several in documents.items()}
    failed = [failure.model_dump() for failure in failures]
    terminal.json(json.dumps({"out": str(out), **told, "failures": failed}, indent=2))


def measured(terminal: Terminal, made: Measured, *, as_json: bool) -> None:
    if as_json:
        outcome(terminal, made.out, made.failures, cases=made.cases)
        return
    for case in made.cases[:_MOST_ROWS]:
        for flag in case.flags:
            terminal.say(f"{case.case}: {flag}")
        _tables(terminal, case)
        terminal.result(f"{case.case}: {case.summary}")
    rest = len(made.cases) - _MOST_ROWS
    terminal.result(f"{f'... and {rest} more; ' if rest > 0 else ''}pages, JSON and measurements.csv in {made.out}")


def staged(terminal: Terminal, made: Staged, *, as_json: bool) -> None:
    if as_json:
        outcome(terminal, made.out, made.failures, cases=made.cases)
        return
    for case in made.cases[:_MOST_ROWS]:
        rows = [
            (", ".join(one.lesions) or "-", one.category or "none", " or ".join(one.borderline) or "-", one.title)
            for one in case.results
        ]
        terminal.table(("lesion", "category", "borderline", "by"), rows[:_MOST_ROWS], title=case.case)
        for one in case.results[:_MOST_ROWS]:
            terminal.result(f"{one.statement} [{one.rule or one.table}, {one.edition}]")
    terminal.result(f"size components only, research use only; JSON and pages in {made.out}")


def tables(terminal: Terminal, known: Sequence[RuleTable], *, as_json: bool) -> None:
    """The rule tables and what they ask."""
    if as_json:
        terminal.json(json.dumps([json.loads(table.model_dump_json()) for table in known], indent=2))
        return
    rows = [
        (
            table.id,
            f"{table.title}; {table.component}",
            table.edition,
            "; ".join(f"{name} ({', '.join(one.answers) or 'a number'})" for name, one in table.inputs.items()) or "-",
        )
        for table in known
    ]
    terminal.table(("table", "what it says", "edition", "what it asks (--given)"), rows)


def answers(given: Sequence[str]) -> dict[str, str]:
    """`nodule_type=solid` and the like.

    Raises:
        UsageError: `E-OPTION`.
    """
    found = {}
    for text in given:
        name, _, answer = text.partition("=")
        if not (name.strip() and answer.strip()):
            remedy = "Write --given name=answer, as nodule_type=solid."
            raise UsageError(f"cannot read --given {text!r}", code="E-OPTION", remedy=remedy)
        found[name.strip()] = answer.strip()
    return found


def _tables(terminal: Terminal, case: CaseMeasurements) -> None:
    lesions = [one for one in case.measurements if one.kind == "lesion"]
    organs = [one for one in case.measurements if one.kind == "organ"]
    if lesions:
        columns = ("lesion", "long x short, mm", "volume, ml", "slice", "in", "side", "mean")
        terminal.table(columns, [_lesion_row(one) for one in lesions[:_MOST_ROWS]], title=case.case)
    if organs:
        headings = ("organ", "volume, ml", "side", "beside the customary range")
        terminal.table(headings, [_organ_row(one) for one in organs[:_MOST_ROWS]], title=case.case)
    rest = sum(max(0, len(kind) - _MOST_ROWS) for kind in (lesions, organs))
    if rest:
        terminal.result(f"... and {rest} more structures on the page")


def _lesion_row(one: Measurement) -> tuple[str, ...]:
    long, short = one.long_axis, one.short_axis
    size = (
        "-"
        if long is None or short is None
        else f"{long.length_mm:.1f} x {short.length_mm:.1f} ± {long.uncertainty_mm:.1f}"
    )
    values = one.intensity
    return (
        _name(one),
        size,
        _volume(one),
        _slice(one),
        one.organ or "-",
        one.side or "unknown",
        "-" if values is None else f"{values.mean:.1f} {values.unit}".strip(),
    )


def _slice(one: Measurement) -> str:
    """As the file counts, and the InstanceNumber that a DICOM viewer shows."""
    if one.slice_number is None:
        return "-"
    return f"{one.slice_number}" if one.instance_number is None else f"{one.slice_number} (image {one.instance_number})"


def _organ_row(one: Measurement) -> tuple[str, ...]:
    known = one.normal_range
    beside = "-" if known is None else f"{known.comparison} {known.low_ml:g} to {known.high_ml:g} ml"
    return _name(one), _volume(one), one.side or "unknown", beside


def _name(one: Measurement) -> str:
    return f"{one.id} (cut off)" if one.is_cut_off else one.id


def _volume(one: Measurement) -> str:
    return f"{one.volume_ml:.2f} ± {one.volume_uncertainty_ml:.2f}"
