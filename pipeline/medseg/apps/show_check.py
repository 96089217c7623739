"""What `medseg check` found and mended, as tables or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.errors import BatchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.apps.terminal import Terminal
    from medseg.core.doctor import CheckReport, Finding
    from medseg.workflows.doctor import Healed


def refuse_together(first: str, second: str, given: object, remedy: str) -> None:
    """Raises: UsageError: E-OPTION when the second option was given beside the first."""
    if given is not None:
        raise UsageError(f"{first} and {second} do not go together", code="E-OPTION", remedy=remedy)


def checked(terminal: Terminal, report: CheckReport, *, as_json: bool) -> None:
    if as_json:
        terminal.json(report.to_json())
        return
    findings(terminal, report.findings)
    shared = sum(not one.case and one.severity != "note" for one in report.findings)
    more = f", {shared} remark(s) on many or all of them" if shared else ""
    terminal.result(
        f"{report.dataset}: {report.num_cases} cases read, {report.num_ok} without a remark of their own{more}"
    )


def healed(terminal: Terminal, made: Healed, *, as_json: bool) -> None:
    """What was mended and what was not.

    Raises:
        BatchError: E-BATCH when cases were left out, or errors between cases remain.
    """
    report = made.report
    left_out = report.with_outcome("left out")
    errors = [finding for finding in report.remaining if finding.severity == "error"]
    if as_json:
        terminal.json(report.to_json())
    else:
        rows = [
            (case.case, file.kind, change.code or "-", change.was, change.now, _millimetres(change.max_displacement_mm))
            for case in report.cases
            for file in case.files
            for change in file.changes
        ]
        if rows:
            columns = ("case", "file", "code", "was", "is now", "moves at most")
            terminal.table(columns, rows, title="repaired", whole={"file", "code"})
        findings(terminal, [reason for case in left_out for reason in case.reasons], title="left out")
        findings(terminal, [one for one in report.remaining if one.severity != "note"], title="still to be looked at")
        counts = [(outcome, len(report.with_outcome(outcome))) for outcome in ("repaired", "kept", "left out")]
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts)
        where = "nothing written (dry run)" if made.out is None else f"see {(made.out / 'doctor.html').resolve()}"
        terminal.result(f"{report.dataset}: {told}; {where}")
    if left_out or errors:
        raise BatchError(
            f"{len(left_out)} case(s) left out, {len(errors)} error(s) in what remains",
            code="E-BATCH",
            remedy="Mend these by hand, then run it again.",
        )


def _millimetres(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} mm"


def findings(terminal: Terminal, found: Sequence[Finding], *, title: str | None = None) -> None:
    if found:
        columns = ("case, file", "code", "finding", "what to do", "fixable")
        rows = [
            (
                f"{one.case or '(all)'}\n{Path(one.file).name}".rstrip(),
                f"{one.code}\n{one.severity}",
                one.message,
                one.remedy,
                one.fixable,
            )
            for one in found
        ]
        terminal.table(columns, rows, title=title, whole={"code", "fixable"})
