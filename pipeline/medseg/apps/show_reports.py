"""Comparisons and remade pages as text or JSON, and the words of their options as values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from medseg.apps.show import bound, facts, split_names
from medseg.core.errors import UsageError

if TYPE_CHECKING:
    from medseg.apps.terminal import Terminal
    from medseg.workflows.compare import Compared
    from medseg.workflows.report import Remade


def parse_pair(text: str | None) -> tuple[str, str] | None:
    """`baseline,new`."""
    if text is None:
        return None
    match split_names(text):
        case (first, second) if first != second:
            return first, second
        case _:
            raise UsageError(
                f"cannot read --names {text!r}", code="E-OPTION", remedy="Write two different names: baseline,new."
            )


def parse_paper(text: str) -> Literal["A4", "Letter"]:
    match text.lower():
        case "a4":
            return "A4"
        case "letter":
            return "Letter"
        case _:
            raise UsageError(f"unknown --paper {text!r}", code="E-OPTION", remedy="Choose A4 or Letter.")


def compared(terminal: Terminal, made: Compared, *, as_json: bool) -> None:
    report = made.report
    if as_json:
        terminal.json(report.to_json())
        return
    rows = [
        (
            one.subject,
            one.metric,
            f"{one.first:.3f}",
            f"{one.second:.3f}",
            f"{one.difference:+.3f} ({bound(one.low)} to {bound(one.high)})",
            f"{one.p_holm:.3f}",
            one.verdict.replace("first", report.first.name).replace("second", report.second.name).replace("_", " "),
        )
        for one in report.contrasts
        if one.metric in {"dice", "accuracy", "auroc"}
    ]
    columns = ("of", "metric", report.first.name, report.second.name, "difference (95 % interval)", "p", "verdict")
    terminal.table(columns, rows, title=f"{report.name}: {len(report.cases)} cases under both")
    for line in report.headline:
        terminal.result(line)
    for line in report.notes:
        terminal.warning(line)
    for side in (report.first, report.second):
        if side.only_here:
            terminal.warning(f"left out, only in {side.name}: {', '.join(side.only_here)}")
    terminal.result(f"comparison: {made.page.resolve()}")


def remade(terminal: Terminal, made: Remade, *, as_json: bool) -> None:
    if as_json:
        values = {name: getattr(made, name) for name in ("made", "kept", "printed")}
        failures = [failure.model_dump() for failure in made.failures]
        terminal.json(json.dumps({"folder": str(made.folder), **values, "failures": failures}, indent=2))
        return
    kept = f"{len(made.kept)} pages of cases kept with their pictures" if made.kept else ""
    bare = [name for name in made.made if name.startswith("cases/")]
    rows = [
        ("made again", ", ".join(name for name in made.made if name not in bare)),
        ("kept", kept),
        ("made without pictures", ", ".join(bare)),
        ("printed", f"{len(made.printed)} PDF files beside their pages" if made.printed else ""),
        ("folder", str(made.folder.resolve())),
    ]
    facts(terminal, [(what, value) for what, value in rows if value])
