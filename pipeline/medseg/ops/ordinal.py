"""How good the answers of an ordered head are: steps of one scale, where the next step is a smaller mistake.

Definitions and formulas are printed in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.findings import OrdinalSummary
from medseg.ops.scores import class_area


def ordinal_summary(
    classes: Sequence[str], probabilities: NDArray[np.floating[Any]], reference: NDArray[np.integer[Any]]
) -> OrdinalSummary:
    """Numbers of one ordered head.

    Args:
        classes: C names, lowest first.
        probabilities: (n, C), each row summing to 1; ties are answered with the lowest class.
        reference: (n,) index of the right class.
    """
    answers = probabilities.argmax(axis=1)
    return OrdinalSummary(
        kappa=weighted_kappa(answers, reference, num_classes=len(classes)),
        mae_steps=float(np.abs(answers - reference).mean()),
        cuts={
            name: class_area(probabilities[:, cut:].sum(axis=1), reference >= cut)
            for cut, name in enumerate(classes)
            if cut
        },
    )


def weighted_kappa(
    answers: NDArray[np.integer[Any]], reference: NDArray[np.integer[Any]], *, num_classes: int
) -> float | None:
    """Agreement beyond chance with quadratic weights (Cohen, Psychological Bulletin 1968, 70:213).

    Args:
        answers: (n,) class indices.
        reference: (n,) class indices.
        num_classes: C.

    Returns:
        1 for full agreement, 0 for that of chance; None where both sides know one and the same class only.
    """
    steps = np.arange(num_classes)
    weights = (steps[:, None] - steps[None]) ** 2
    counts = np.bincount(reference * num_classes + answers, minlength=num_classes**2)
    found = counts.reshape(num_classes, num_classes)
    expected = np.outer(found.sum(axis=1), found.sum(axis=0)) / reference.size
    by_chance = float((weights * expected).sum())
    return 1 - float((weights * found).sum()) / by_chance if by_chance else None
