"""Ridge regression of a case-level number on features seen in several views.

Shape legend: N cases, V views of each, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Weights = tuple[NDArray[np.float64], float]  # (F,) and the constant

_LEAST_DEVIATION = 0.05


def ridge_path(
    features: NDArray[np.float64],
    wanted: NDArray[np.float64],
    penalties: Sequence[float],
    *,
    trust: NDArray[np.float64],
) -> list[Weights]:
    """The weights of the least mean squared error plus penalty, for each penalty.

    Hoerl and Kennard, Technometrics 1970, 12:55. Features count in their deviations; the penalty is the sum of trust
    times squared weight, and the constant is free.

    Args:
        features: (N, V, F); every view of a case is to give the case's number.
        wanted: (N,).
        penalties: Above 0.
        trust: (F,) how dear each feature is.
    """
    rows = features.reshape(-1, features.shape[2])
    shift, scale = rows.mean(0), np.maximum(rows.std(0), _LEAST_DEVIATION)
    rows = (rows - shift) / scale
    centre = float(wanted.mean())
    gram = rows.T @ rows / len(rows)
    moment = rows.T @ np.repeat(wanted - centre, features.shape[1]) / len(rows)
    found = []
    for penalty in penalties:
        weights = np.linalg.solve(gram + penalty * np.diag(trust), moment) / scale
        found.append((weights, centre - float(weights @ shift)))
    return found


def errors_left_out(
    features: NDArray[np.float64],
    wanted: NDArray[np.float64],
    penalties: Sequence[float],
    *,
    trust: NDArray[np.float64],
    folds: Iterable[NDArray[np.bool_]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared error of each case when it is left out, (penalties, N), and of answering the mean of the others, (N,).

    Args:
        features: (N, V, F).
        wanted: (N,).
        penalties: Above 0.
        trust: (F,) how dear each feature is.
        folds: (N,) each: who is learnt from; every case is left out once.
    """
    errors, constant = np.empty((len(penalties), len(wanted))), np.empty(len(wanted))
    for inside in folds:
        left_out, truth = features[~inside], wanted[~inside]
        path = ridge_path(features[inside], wanted[inside], penalties, trust=trust)
        answers = np.stack([left_out @ weights + bias for weights, bias in path])
        errors[:, ~inside] = ((answers - truth[:, None]) ** 2).mean(2)
        constant[~inside] = (wanted[inside].mean() - truth) ** 2
    return errors, constant
