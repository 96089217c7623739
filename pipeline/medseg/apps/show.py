"""Results as text or JSON, and command-line words as values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import BatchError, UsageError, told, told_at_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.apps.terminal import Terminal
    from medseg.core.case import Dataset
    from medseg.core.estimate import Estimate
    from medseg.core.findings import CaseFailure
    from medseg.core.forecast import Forecast
    from medseg.core.plan import Plan
    from medseg.core.reading import Reading
    from medseg.core.settings import Settings
    from medseg.core.transfer import Transfer
    from medseg.data.store import Store
    from medseg.io.bundle import BundleManifest
    from medseg.workflows.evaluate import Evaluated
    from medseg.workflows.train import Trained


def resolve(settings: Settings, section: str, **given: Any) -> Settings:
    """Defaults < config file < command line."""
    from medseg.core.settings import merge

    return merge(settings, section, given)


def reading(**given: Any) -> Reading:
    """What was said on the command line of how images are read."""
    from medseg.core.reading import Reading

    return Reading.parse({name: value for name, value in given.items() if value is not None})


def split_names(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def parse_labels(text: str | None) -> dict[str, int] | None:
    """`liver=1,tumour=2`."""
    if text is None:
        return None
    labels = {}
    for part in split_names(text):
        name, _, value = part.partition("=")
        if not (name and value.isdigit()):
            raise UsageError(
                f"cannot read --labels {part!r}", code="E-OPTION", remedy="Write name=value pairs: liver=1,tumour=2."
            )
        labels[name.strip()] = int(value)
    return labels


def parse_attributes(pairs: Sequence[str]) -> dict[str, str]:
    """`age=63`, `sex=F`."""
    parts = [(name.strip(), found, value.strip()) for name, found, value in (pair.partition("=") for pair in pairs)]
    for (name, found, _), pair in zip(parts, pairs, strict=True):
        if not (name and found):
            message = f"cannot read --attribute {pair!r}"
            raise UsageError(message, code="E-OPTION", remedy="Write name=value: --attribute age=63.")
    return {name: value for name, _, value in parts}


def parse_units(text: str | None) -> dict[str, str]:
    """`age=years,grade`: a number without a unit has none."""
    pairs = (part.partition("=") for part in split_names(text))
    return {name.strip(): unit.strip() for name, _, unit in pairs}


def dataset(terminal: Terminal, made: Dataset, out: Path | None, *, as_json: bool) -> None:
    if as_json:
        terminal.json(made.to_json())
        return
    marked = [case.split for case in made.cases if case.split]
    splits = ", ".join(f"{marked.count(part)} {part}" for part in ("train", "val", "test") if part in marked)
    facts(
        terminal,
        [
            ("dataset", made.name),
            ("cases", f"{len(made.cases)}{f' ({splits})' if splits else ''}"),
            ("with a reference", str(sum(case.label is not None for case in made.cases))),
            ("channels", ", ".join(made.channels)),
            ("labels", ", ".join(f"{name} = {value}" for name, value in made.labels.items()) or "none"),
            *((f"classes of {head}", ", ".join(names)) for head, names in made.heads.items()),
            *((f"target {name}", unit or "no unit") for name, unit in made.targets.items()),
            ("manifest", str(out) if out else "not written (dry run)"),
        ],
    )


def bundle(terminal: Terminal, made: BundleManifest, out: Path, *, as_json: bool) -> None:
    if as_json:
        terminal.json(made.to_json())
        return
    members = sum(name.endswith(".safetensors") for name in made.sha256)
    facts(
        terminal,
        [
            ("model", made.name),
            ("channels", ", ".join(made.channels)),
            ("labels", ", ".join(f"{name} = {value}" for name, value in made.labels.items()) or "none"),
            ("members", str(members)),
            *((f"validation {name}", f"{value:.4f}") for name, value in made.validation.items()),
            ("bundle", str(out)),
        ],
    )


def plan(terminal: Terminal, made: Plan, *, as_json: bool) -> None:
    if as_json:
        terminal.json(made.to_json())
        return
    terminal.table(("decision", "value", "reason"), [(d.what, d.value, d.reason) for d in made.decisions])


def forecast(terminal: Terminal, made: Forecast, *, as_json: bool) -> None:
    if not as_json:
        facts(terminal, made.rows)
        return
    rows: dict[str, str] = {}
    for what, value in made.rows:  # there may be several warnings
        rows[what] = f"{rows[what]}\n{value}" if what in rows else value
    terminal.json(json.dumps(rows, indent=2))


def stored(terminal: Terminal, store: Store, *, as_json: bool) -> None:
    if as_json:
        terminal.json(store.index.to_json())
        return
    plan(terminal, store.plan, as_json=False)
    terminal.result(f"{len(store.index.cases)} cases in {store.folder}; the plan is {store.folder / 'plan.json'}")


def trained(terminal: Terminal, made: Trained, *, as_json: bool) -> None:
    if as_json:
        values = {"bundle": str(made.bundle), "finished": made.finished, "validation": made.validation}
        if made.transfer is not None:
            values["transfer"] = made.transfer.model_dump(mode="json")
        values["warnings"] = made.warnings
        terminal.json(json.dumps(values, indent=2))
        return
    if made.transfer is not None:
        _transfer(terminal, made.transfer)
    for warning in made.warnings:
        terminal.warning(warning)
    if not made.finished:
        terminal.result("stopped; the same command goes on from here")
        return
    if made.was_done:
        choices = "a longer --budget or --epochs goes on, --restart trains anew, --name trains beside it"
        terminal.result(f"this training had already finished; {choices}")
    facts(
        terminal,
        [
            *((f"validation {name}", f"{value:.4f}") for name, value in made.validation.items()),
            ("model", str(made.bundle)),
        ],
    )


def _transfer(terminal: Terminal, made: Transfer) -> None:
    counts = ", ".join(f"{number} {state}" for state, number in made.counts().items())
    terminal.result(f"weights of {made.bundle}: {counts}; {len(made.left)} of its own had no place")
    rows = [(layer.name, layer.state, layer.why) for layer in made.layers if layer.state != "loaded"]
    if rows:
        terminal.table(("layer", "", "why"), rows)
    for difference in made.differences:
        terminal.warning(f"the weights were trained otherwise: {difference}")


def evaluated(terminal: Terminal, made: Evaluated, *, as_json: bool) -> None:
    report = made.report
    if as_json:
        terminal.json(report.to_json())
        return
    rows = [
        (row.label, _interval(row.dice), _mm(row.hd_mm), _mm(row.hd95_mm), f"{row.num_missed} / {row.num_invented}")
        for row in report.labels
    ]
    if rows:
        columns = ("label", "Dice (95 % interval)", "HD mm", "HD95 mm", "missed / invented")
        terminal.table(columns, rows, title=f"{report.name}: {len(report.cases)} cases scored")
    for head in report.classes:
        area = "" if head.auroc is None else f", AUROC {head.auroc:.3f}"
        alarm = "  COLLAPSED: nearly every answer is one class" if head.collapsed else ""
        steps = "" if head.ordinal is None else f", {head.ordinal.mae_steps:.2f} steps off"
        if head.ordinal is not None and head.ordinal.kappa is not None:
            steps += f", weighted kappa {head.ordinal.kappa:.3f}"
        terminal.result(
            f"{head.head}: accuracy {head.accuracy:.3f}, balanced accuracy {head.balanced_accuracy:.3f}{area}{steps}, "
            f"n = {head.n}{alarm}"
        )
    for one in report.values:
        error = f"{one.mae.mean:.3g} ({bound(one.mae.low)} to {bound(one.mae.high)}) {one.unit}".rstrip()
        fit = "" if one.r2 is None else f", R2 {one.r2.value:.3f}"
        terminal.result(f"{one.name}: mean absolute error {error}, RMSE {one.rmse.value:.3g}{fit}, n = {one.n}")
    terminal.result(f"report: {made.page.resolve()}")


def fail_for(terminal: Terminal, failures: Sequence[CaseFailure], num_done: int) -> None:
    """Name each failed case and end with exit code 7.

    Raises:
        BatchError: E-BATCH when there is any.
    """
    if not failures:
        return
    for failure in failures:
        place = f"case {failure.case}{f', {failure.file}' if failure.file else ''}"
        terminal.warning(f"[{failure.code}] {place}: {failure.message}. {failure.remedy or ''}")
    raise BatchError(f"{len(failures)} case(s) failed, {num_done} done", code="E-BATCH")


def unexpected(terminal: Terminal, error: Exception, *, debug: bool) -> int:
    """Usage errors of the command line explain themselves; anything else is our fault."""
    if callable(getattr(error, "show", None)) and isinstance(getattr(error, "exit_code", None), int):
        error.show()  # type: ignore[attr-defined]
        return int(error.exit_code)  # type: ignore[attr-defined]
    if debug:
        terminal.error(told_at_length(error))
        return 1
    notes = "; ".join(getattr(error, "__notes__", ()))
    terminal.error(
        f"[E-INTERNAL] {told(error)}{f' ({notes})' if notes else ''}. "
        "This is a fault of medseg: run again with --debug and report what it prints."
    )
    return 1


def facts(terminal: Terminal, rows: Any) -> None:
    width = max((len(what) for what, _ in rows), default=0)
    for what, value in rows:
        terminal.result(f"{what:<{width}}  {value}")


def _interval(value: Estimate) -> str:
    return f"{value.mean:.3f} ({bound(value.low)} to {bound(value.high)})"


def bound(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _mm(value: Estimate) -> str:
    return f"{value.mean:.1f}"
