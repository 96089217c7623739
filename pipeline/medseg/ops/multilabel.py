"""Findings that may occur together: several yes-or-no heads seen as one multi-label answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.core.findings import MultiLabelSummary
from medseg.ops.scores import auroc


def multilabel_summary(
    heads: Sequence[str], probabilities: NDArray[np.float64], reference: NDArray[np.bool_]
) -> MultiLabelSummary:
    """All heads together.

    A case is answered yes where the probability exceeds one half, as the answer of a two-class head. F1 without any
    yes in references and answers is 1.

    Args:
        heads: H names.
        probabilities: (n, H) of the second class of each head; n at least 1.
        reference: (n, H) whether the second class is right.
    """
    answers = probabilities > 0.5
    right = answers == reference
    f1 = [_f1(answers[:, n], reference[:, n]) for n in range(len(heads))]
    occurring = [n for n in range(len(heads)) if answers[:, n].any() or reference[:, n].any()]
    pairs = (np.stack([1 - probabilities[:, n], probabilities[:, n]], axis=1) for n in range(len(heads)))
    found = [auroc(pair, reference[:, n].astype(np.int64)) for n, pair in enumerate(pairs)]
    areas = [area.value for area in found if area is not None]
    return MultiLabelSummary(
        heads=tuple(heads),
        n=len(reference),
        exact_match=float(right.all(axis=1).mean()),
        hamming_accuracy=float(right.mean()),
        micro_f1=_f1(answers, reference),
        macro_f1=float(np.mean([f1[n] for n in occurring])) if occurring else 1.0,
        macro_auroc=float(np.mean(areas)) if areas else None,
    )


def _f1(answers: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    whole = np.count_nonzero(answers) + np.count_nonzero(reference)
    return 2 * np.count_nonzero(answers & reference) / whole if whole else 1.0
