"""A cross-validation as a table or JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from medseg.apps.show import bound

if TYPE_CHECKING:
    from medseg.apps.terminal import Terminal
    from medseg.core.crossvalidation import CrossValidation, ScoreTable
    from medseg.core.estimate import Estimate
    from medseg.workflows.cross_validate import CrossValidated
    from medseg.workflows.find_best import FoundBest


def cross_validated(terminal: Terminal, made: CrossValidated, *, as_json: bool) -> None:
    record = made.report
    if as_json:
        partly = json.dumps({"folder": str(made.folder), "finished": False, "missing": made.missing}, indent=2)
        terminal.json(partly if record is None else record.to_json())
        return
    if made.missing:
        numbers = ", ".join(map(str, made.missing))
        terminal.result(f"this fold is done; still to be trained: {numbers} (--fold K; without --fold, all of them)")
        return
    if record is None:
        terminal.result("stopped; the same command goes on from here and keeps what is done")
        return
    _scores(terminal, record)
    for one in record.calibration:
        used = (
            f"temperature {one.temperature:.2f} kept" if one.temperature != 1 else "no temperature: it would not help"
        )
        terminal.result(
            f"{one.head}: {used}; out of fold NLL {one.nll[0]:.3f} -> {one.nll[1]:.3f}, "
            f"Brier {one.brier[0]:.3f} -> {one.brier[1]:.3f}, ECE {one.ece[0]:.3f} -> {one.ece[1]:.3f}, n = {one.n}"
        )
    if record.not_judged:
        terminal.result(f"held back by no fold, and so not scored: {', '.join(record.not_judged)}")
    for failure in record.failures:
        terminal.error(f"[{failure.code}] case {failure.case}: {failure.message}")
    terminal.result(f"model of all folds: {made.folder / 'bundle'}")
    terminal.result(f"report: {(made.folder / 'reports' / 'index.html').resolve()}")


def _scores(terminal: Terminal, record: CrossValidation) -> None:
    tables = [(f"fold {one.fold}", one.scores) for one in record.folds] + [("all", record.pooled)]
    title = f"{record.name}: {record.dataset}, out of fold"
    if record.pooled.labels:
        rows = [(name, *_dice(table)) for name, table in tables]
        terminal.table(("", "cases", "mean Dice (95 %)", "HD95 mm"), rows, title=title)
        terminal.table(
            ("label", "Dice (95 %)", "HD95 mm (95 %)", "missed / invented"),
            [
                (
                    row.label,
                    _estimate(row.dice),
                    _estimate(row.hd95_mm, digits=2),
                    f"{row.num_missed} / {row.num_invented}",
                )
                for row in record.pooled.labels
            ],
        )
    for head in (row.head for row in record.pooled.classes):
        rows = [(name, *_answers(table, head)) for name, table in tables]
        terminal.table((head, "cases", "balanced accuracy", "AUROC (95 %)"), rows)


def _dice(table: ScoreTable | None) -> tuple[str, str, str]:
    if table is None or table.mean_dice is None:
        return "0", "-", "-"
    distance = sum(row.hd95_mm.mean for row in table.labels) / len(table.labels)
    return str(table.mean_dice.n), _estimate(table.mean_dice, digits=4), f"{distance:.2f}"


def _answers(table: ScoreTable | None, head: str) -> tuple[str, str, str]:
    found = None if table is None else next((row for row in table.classes if row.head == head), None)
    if found is None:
        return "0", "-", "-"
    area = "-"
    if found.auroc is not None:
        area = f"{found.auroc:.3f} ({bound(found.auroc_low)} to {bound(found.auroc_high)})"
    return str(found.n), f"{found.balanced_accuracy:.3f}", area


def _estimate(value: Estimate, *, digits: int = 3) -> str:
    low, high = ("-" if end is None else f"{end:.{digits}f}" for end in (value.low, value.high))
    return f"{value.mean:.{digits}f} ({low} to {high})"


def _gain(value: Estimate) -> str:
    """With as many digits as show on which side of zero the interval begins: a gain of 0.0000 is taken by nobody."""
    digits = next((digits for digits in range(4, 9) if not value.low or round(value.low, digits)), 9)
    return _estimate(value, digits=digits)


def best(terminal: Terminal, made: FoundBest, *, as_json: bool) -> None:
    report = made.report
    if as_json:
        terminal.json(report.to_json())
        return
    terminal.table(
        ("candidate", f"{report.metric} (95 %)"),
        [(one.name, _estimate(one.score, digits=4)) for one in report.candidates],
        title=f"{report.dataset}, out of fold, masks as they are",
    )
    terminal.table(
        ("considered", "", "gain (95 %)", "taken"),
        [(step.subject, step.change, _gain(step.gain), "yes" if step.taken else "no") for step in report.steps],
    )
    cleaning = "; ".join(f"{label}: {rule}" for label, rule in report.choice.cleanup.items())
    terminal.result(f"chosen: {report.choice.candidate}; masks: {cleaning or 'as they are'}")
    terminal.result(
        f"{report.metric}: {_estimate(report.plain, digits=4)} of {report.candidates[0].name} as it is, "
        f"{_estimate(report.honest, digits=4)} of choosing, measured on folds that had no part in it"
    )
    if report.left_out:
        terminal.result(f"not scored by every candidate, and so left out: {', '.join(report.left_out)}")
    if report.not_paired:
        differ = "their plans differ in more than the network"
        terminal.result(f"not tried together, since {differ}: {', '.join(report.not_paired)}")
    terminal.result(f"model: {made.bundle}")
