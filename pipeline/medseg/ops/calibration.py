"""Temperature: making a classification head as sure as it is right, without changing any answer.

Guo et al., On calibration of modern neural networks (ICML 2017). Works on probabilities: dividing logits by T is
raising their softmax to the power 1/T and making it sum to 1 again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from medseg.core.crossvalidation import Calibration
from medseg.ops.scores import brier_score, expected_calibration_error, reliability_points

_LEAST = 1e-12  # of a probability: its logarithm stays finite
_LOG_RANGE = (-float(np.log(10)), float(np.log(10)))
_LEAST_GAIN = 1e-4  # of the negative log-likelihood, that a temperature must bring


def tempered(probabilities: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float64]:
    """(n, C) probabilities at a temperature above 0: above 1 less sure, below 1 surer; the order stays."""
    logs = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), _LEAST)) / temperature
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float64)


def at_temperatures(
    classes: Mapping[str, dict[str, float]], temperatures: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Class probabilities by head, those of heads with a temperature `tempered`."""
    made = dict(classes)
    for head in classes.keys() & temperatures.keys():
        found = classes[head]
        values = tempered(np.array([[*found.values()]]), temperatures[head])[0]
        made[head] = dict(zip(found, values.tolist(), strict=True))
    return made


def negative_log_likelihood(probabilities: NDArray[np.floating[Any]], reference: NDArray[np.integer[Any]]) -> float:
    """Mean of -log of the probability given to the right class."""
    right = probabilities[np.arange(reference.size), reference]
    return float(-np.log(np.maximum(right, _LEAST)).mean())


def fit_temperature(probabilities: NDArray[np.floating[Any]], reference: NDArray[np.integer[Any]]) -> float:
    """The temperature of the least negative log-likelihood, from 0.1 to 10.

    The targets are Platt's (1999): n cases never prove a probability of 1, only (n + 1) / (n + 2), the rest going to
    the other classes alike. Without it a few cases that are all right would ask for boundless confidence.

    Args:
        probabilities: (n, C) at temperature 1.
        reference: (n,) index of the right class.
    """
    num_cases, num_classes = probabilities.shape
    rest = 1 / (num_cases + 2)
    targets = np.full((num_cases, num_classes), rest / (num_classes - 1))
    targets[np.arange(num_cases), reference] = 1 - rest

    def loss(log_temperature: float) -> float:
        logs = np.log(np.maximum(tempered(probabilities, float(np.exp(log_temperature))), _LEAST))
        return float(-(targets * logs).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=_LOG_RANGE, method="bounded", options={"xatol": 1e-5})
    return float(np.exp(found.x))


def calibrate(
    head: str,
    probabilities: NDArray[np.floating[Any]],
    reference: NDArray[np.integer[Any]],
    folds: Sequence[int],
) -> Calibration:
    """Fit a temperature to out-of-fold answers, and judge it on folds that had no part in it.

    It is kept when the cases of folds that it was not fitted to become likelier by it; else 1 is.

    Args:
        head: Its name.
        probabilities: (n, C) of the fold that did not see the case.
        reference: (n,) index of the right class.
        folds: (n,) that each case was held back by; at least two different ones.
    """
    owner, after = np.asarray(folds), np.empty(probabilities.shape)
    for fold in np.unique(owner):
        here = owner == fold
        after[here] = tempered(probabilities[here], fit_temperature(probabilities[~here], reference[~here]))
    fitted = fit_temperature(probabilities, reference)
    pair = (probabilities, after)
    before_nll, after_nll = (negative_log_likelihood(one, reference) for one in pair)
    return Calibration(
        head=head,
        n=reference.size,
        temperature=fitted if after_nll < before_nll - _LEAST_GAIN else 1.0,
        fitted=fitted,
        nll=(before_nll, after_nll),
        brier=(brier_score(pair[0], reference), brier_score(pair[1], reference)),
        ece=(expected_calibration_error(pair[0], reference), expected_calibration_error(pair[1], reference)),
        reliability=(reliability_points(pair[0], reference), reliability_points(pair[1], reference)),
    )
