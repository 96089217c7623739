"""Baselines and the network side by side, as text or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.apps.show import bound

if TYPE_CHECKING:
    from medseg.apps.terminal import Terminal
    from medseg.core.baseline import BaselineHead
    from medseg.core.findings import ClassSummary
    from medseg.workflows.baseline import Judged


def judged(terminal: Terminal, made: Judged, *, as_json: bool) -> None:
    report = made.report
    if as_json:
        terminal.json(report.to_json())
        return
    terminal.result(f"features: {report.region_words}")
    for one in report.missing:
        lost = f"{len(one.training)} training and {len(one.judged)} judged case(s)"
        terminal.warning(f"{one.label} has no mask in {lost}: its features are training medians there")
    for head in report.heads:
        _head(terminal, head)
    if made.unfinished is not None:
        terminal.result(
            f"no network took part: {made.unfinished.parent} is unfinished; `medseg train` goes on with it, "
            f"--bundle {made.unfinished} takes it as it is"
        )
    elif not report.model:
        terminal.result("no network took part: none is trained here, or it was left out")
    terminal.result(f"written: {made.file.resolve()}")
    if made.page is not None:
        terminal.result(f"report: {made.page.resolve()}")


def _head(terminal: Terminal, head: BaselineHead) -> None:
    rows = [(one.title, *_numbers(one.summary), f"{one.training_auroc:.3f}") for one in head.models]
    if head.network is not None:
        rows.insert(0, ("The network", *_numbers(head.network), "-"))
    title = (
        f"{head.head}: {head.num_judged_cases} judged cases of {head.num_judged_patients} patients, "
        f"taught by {head.num_training_cases} of {head.num_training_patients}"
    )
    columns = ("model", "AUROC (95 % interval)", "balanced accuracy", "macro F1", "AUROC in training, out of fold")
    terminal.table(columns, rows, title=title)
    if head.contrast is not None:
        terminal.result(head.contrast.sentence)


def _numbers(summary: ClassSummary) -> tuple[str, str, str]:
    area = f"{bound(summary.auroc)} ({bound(summary.auroc_low)} to {bound(summary.auroc_high)})"
    return area, f"{summary.balanced_accuracy:.3f}", f"{summary.macro_f1:.3f}"
