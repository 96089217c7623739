"""Choosing among configurations and cleanings by paired differences over patients, and judging the choosing itself.

The simpler stands until a more complex one is better beyond chance: the 95 % interval of the paired gain, by patient,
lies above zero. What is reported of the choice is measured on folds that had no part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medseg.core.answering import Cleanup
from medseg.core.choice import Choice, Step
from medseg.core.estimate import Estimate
from medseg.ops.statistics import estimate

Bounds = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Scores:
    """Everything that was measured.

    Attributes:
        tables: Candidate, in the order in which they must prove themselves, to (cases, labels, rules); NaN where a
            label was not annotated.
        labels: Names of the second axis.
        rules: Of the third axis, from simple to complex; the first leaves the mask as it is.
        patients: (cases,) who the case is of.
        folds: (cases,) that the case was held back by.
        bounds: What a score cannot leave.
        better: 1 when higher is better, -1 when lower is.
    """

    tables: dict[str, NDArray[np.float64]]
    labels: tuple[str, ...]
    rules: tuple[Cleanup, ...]
    patients: tuple[str, ...]
    folds: NDArray[np.int64]
    bounds: Bounds
    better: int = 1

    def of(self, cases: NDArray[np.bool_]) -> Scores:
        """Those of some cases."""
        tables = {name: table[cases] for name, table in self.tables.items()}
        patients = tuple(np.asarray(self.patients)[cases].tolist())
        return replace(self, tables=tables, patients=patients, folds=self.folds[cases])

    def by_case(self, choice: Choice) -> NDArray[np.float64]:
        """(cases,) mean over the annotated labels under a choice."""
        rules = [self.rules.index(choice.cleanup.get(label, Cleanup())) for label in self.labels]
        table = self.tables[choice.candidate][:, np.arange(len(self.labels)), rules]
        return np.asarray(np.nanmean(table, axis=1), dtype=np.float64)

    def estimate_of(self, values: NDArray[np.float64]) -> Estimate:
        return estimate(values, self.patients, bounds=self.bounds)


def choose(scores: Scores) -> tuple[Choice, tuple[Step, ...]]:
    """The configuration first, masks as they are; then, label by label, how its masks are cleaned."""
    names, steps = list(scores.tables), []
    chosen = names[0]
    for name in names[1:]:
        gain = scores.by_case(Choice(candidate=name)) - scores.by_case(Choice(candidate=chosen))
        step = _step("configuration", name, f"instead of {chosen}", scores.better * gain, scores.patients)
        chosen = name if step.taken else chosen
        steps.append(step)
    cleanup: dict[str, Cleanup] = {}
    for index, label in enumerate(scores.labels):
        table = scores.tables[chosen][:, index]
        judged = ~np.isnan(table[:, 0])
        if not judged.any():
            continue
        table, patients, current = table[judged], np.asarray(scores.patients)[judged].tolist(), 0
        for rule in range(1, len(scores.rules)):
            gain = scores.better * (table[:, rule] - table[:, current])
            step = _step("cleanup", label, str(scores.rules[rule]), gain, patients)
            current = rule if step.taken else current
            steps.append(step)
        if current:
            cleanup[label] = scores.rules[current]
    return Choice(candidate=chosen, cleanup=cleanup), tuple(steps)


def judge_choosing(scores: Scores) -> tuple[NDArray[np.float64], tuple[Choice, ...]]:
    """Every case under what is chosen without its fold, and these choices, fold by fold.

    Returns:
        (cases,) scores and one choice per fold.
    """
    values, choices = np.empty(len(scores.patients)), []
    for fold in np.unique(scores.folds):
        here = scores.folds == fold
        choice, _ = choose(scores.of(~here))
        values[here] = scores.of(here).by_case(choice)
        choices.append(choice)
    return values, tuple(choices)


def _step(kind: str, subject: str, change: str, gain: NDArray[np.float64], patients: Sequence[str]) -> Step:
    found = estimate(gain, patients)
    taken = found.low is not None and found.low > 0
    return Step.parse({"kind": kind, "subject": subject, "change": change, "gain": found, "taken": taken})
