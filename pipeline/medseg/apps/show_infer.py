"""The outcome of `medseg infer` as a table or JSON."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.apps.terminal import Terminal
    from medseg.core.findings import CasePrediction
    from medseg.workflows.infer import Inferred

_MOST_ROWS = 20
_MOST_NAMES = 3


def inferred(terminal: Terminal, made: Inferred, *, as_json: bool) -> None:
    if as_json:
        cases = [json.loads(prediction.model_dump_json()) for prediction in made.predictions]
        failures = [failure.model_dump() for failure in made.failures]
        kept = {"skipped": list(made.skipped), "redone": made.redone}
        places = {"out": str(made.out), "bundle": str(made.bundle)}
        terminal.json(json.dumps({**places, "cases": cases, "failures": failures, **kept}, indent=2))
        return
    rows = [
        (prediction.case, _volumes(prediction), _answers(prediction), ", ".join(_codes(prediction.flags)))
        for prediction in made.predictions[:_MOST_ROWS]
    ]
    terminal.table(("case", "found", "diagnosis", "flags"), rows)
    _explain_flags(terminal, made.predictions)
    if searched := [(case, case.region) for case in made.predictions if case.region]:
        close, coarse = sum(case.windows for case, _ in searched), sum(region.coarse_windows for _, region in searched)
        spared = sum(region.left_out_windows for _, region in searched)
        terminal.say(f"region of interest: {close} of {close + spared} windows, after a first pass of {coarse}")
    if blank := sum(case.skipped_windows for case in made.predictions):
        terminal.say(f"left out {blank} of {sum(case.windows for case in made.predictions)} windows: they hold nothing")
    if made.skipped:
        terminal.say(f"skipped {len(made.skipped)}: done before and verified (--overwrite redoes them)")
    for reason, count in Counter(made.redone.values()).items():
        terminal.say(f"redone {count}: {reason}")
    rest = len(made.predictions) - len(rows)
    more = f"... and {rest} more; " if rest > 0 else ""
    terminal.result(f"{more}masks and findings in {made.out}, made by the model {made.bundle}")


def _codes(flags: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(flag.partition(":")[0] for flag in flags))


def _explain_flags(terminal: Terminal, predictions: Sequence[CasePrediction]) -> None:
    """Every flag in full once, with the cases that have it."""
    cases: dict[str, list[str]] = {}
    for prediction in predictions:
        for flag in dict.fromkeys(prediction.flags):
            cases.setdefault(flag, []).append(prediction.case)
    told = list(cases.items())
    for flag, names in told[:_MOST_ROWS]:
        named = ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if (rest := len(names) - _MOST_NAMES) > 0 else "")
        terminal.result(f"{flag}{'' if len(predictions) == 1 else f' ({named})'}")
    if len(told) > _MOST_ROWS:
        terminal.result(f"... and {len(told) - _MOST_ROWS} more flags, in the JSON of each case")


def _volumes(prediction: CasePrediction) -> str:
    return ", ".join(f"{name} {value:.1f} ml" for name, value in prediction.volumes_ml.items()) or "-"


def _answers(prediction: CasePrediction) -> str:
    classes = [f"{one.head}: {one.answer} ({one.probabilities[one.answer]:.0%})" for one in prediction.classes]
    return "; ".join([*classes, *(f"{one.name}: {one.words}" for one in prediction.values)]) or "-"
