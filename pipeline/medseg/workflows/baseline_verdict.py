"""The network against the best baseline on the same cases, in numbers and in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.baseline import BaselineModel, NetworkContrast, Outcome
from medseg.ops.paired import AreaDifference, auroc_difference, balanced_accuracy_difference
from medseg.ops.scores import classification_summary

if TYPE_CHECKING:
    from medseg.core.findings import ClassSummary

Probabilities = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Judges:
    """The judged cases of one head.

    Attributes:
        classes: Names, in the order of the probabilities' columns.
        reference: (n,) index of the right class.
        patients: (n,) who the case is of.
    """

    head: str
    classes: tuple[str, ...]
    reference: NDArray[np.int64]
    patients: Sequence[str]

    def summary(self, probabilities: Probabilities) -> ClassSummary:
        return classification_summary(self.head, self.classes, probabilities, self.reference)


def contrast_with(
    network: Probabilities, best: BaselineModel, baseline: Probabilities, judges: Judges
) -> NetworkContrast:
    """Compare the network with the best baseline, which the judged cases themselves have shown to be it.

    Args:
        network: (n, classes) probabilities.
        best: The baseline.
        baseline: (n, classes) its probabilities.
        judges: The cases.
    """
    area = auroc_difference(baseline, network, judges.reference, judges.patients)
    accuracy, low, high = balanced_accuracy_difference(
        baseline.argmax(axis=1), network.argmax(axis=1), judges.reference, judges.patients
    )
    outcome = _outcome(area)
    return NetworkContrast(
        baseline=best.title,
        auroc_difference=None if area is None else area.second - area.first,
        auroc_low=None if area is None else area.low,
        auroc_high=None if area is None else area.high,
        balanced_accuracy_difference=accuracy,
        balanced_accuracy_low=low,
        balanced_accuracy_high=high,
        outcome=outcome,
        sentence=_sentence(outcome, area, best, judges),
    )


def _outcome(area: AreaDifference | None) -> Outcome:
    if area is None or area.low is None or area.high is None:
        return "undecided"
    if area.low > 0:
        return "network_better"
    return "baseline_better" if area.high < 0 else "not_distinguishable"


def _sentence(outcome: Outcome, area: AreaDifference | None, best: BaselineModel, judges: Judges) -> str:
    name = best.title[0].lower() + best.title[1:]
    many = f"{len(judges.reference)} cases of {len(set(judges.patients))} patients"
    if area is None:
        return f"{judges.head}: only one class occurs among the {many}: nothing can be told apart."
    areas = f"AUROC {area.second:.3f} against {area.first:.3f}"
    if area.low is None or area.high is None:
        return f"{judges.head}: {areas} for the best baseline, {name}; {many} are too few to compare them."
    interval = f"difference {area.second - area.first:+.3f}, 95 % interval {area.low:+.3f} to {area.high:+.3f}, {many}"
    match outcome:
        case "network_better":
            return f"{judges.head}: the network beats the best baseline, {name}: {areas} ({interval})."
        case "baseline_better":
            return (
                f"{judges.head}: the network is WORSE than the best baseline, {name}: {areas} ({interval}). "
                "Use the baseline, or find out why."
            )
        case _:
            return (
                f"{judges.head}: the network does NOT beat the best baseline, {name}: {areas} ({interval}). "
                "On these cases it has not earned its place for this diagnosis."
            )
