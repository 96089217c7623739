"""Two models on the same cases: areas under the ROC curve, several tests at once, and how many patients it takes.

Definitions and formulas are printed in docs/metrics.md; means are compared in statistics.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from medseg.core.errors import InputError
from medseg.ops.scores import auroc_influence

LEVEL = 0.05
POWER = 0.8
_NUM_RESAMPLES = 2000
# Six patients who all change the same way have a two-sided signed-rank p of 2 / 2^6 = .031; five cannot go below .0625.
LEAST_PATIENTS = 6


class AreaDifference(NamedTuple):
    """Areas of two models; the bounds are None, and p is 1, where the cases leave no spread to judge by."""

    first: float
    second: float
    low: float | None
    high: float | None
    p: float
    deviation: float


def auroc_difference(
    first: NDArray[np.floating[Any]],
    second: NDArray[np.floating[Any]],
    reference: NDArray[np.integer[Any]],
    patients: Sequence[str],
) -> AreaDifference | None:
    """Paired test of DeLong, DeLong and Clarke-Pearson (Biometrics 1988, 44:837), areas as in `scores.auroc`.

    The two models' influences of a case are subtracted before they are squared, so that their correlation counts, and
    summed within a patient, whose cases are alike (Obuchowski, Biometrics 1997, 53:567). With one case per patient the
    variance is DeLong's.

    Args:
        first: (n, C) probabilities of the first model.
        second: (n, C) of the second model, the same cases in the same order.
        reference: (n,) index of the right class.
        patients: (n,) who the case is of.

    Returns:
        None when only one class occurs.

    Raises:
        InputError: `E-SCORE-INPUT`, shapes that differ.
    """
    if not first.shape == second.shape == (len(patients), first.shape[1]):
        message = f"two tables of the same cases expected, got {first.shape} and {second.shape}, {len(patients)} cases"
        raise InputError(message, code="E-SCORE-INPUT", remedy="Compare the same cases with the same classes.")
    before, after = auroc_influence(first, reference), auroc_influence(second, reference)
    if before is None or after is None:
        return None
    (one, influence), (other, opposed) = before, after
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    deviation = float(np.linalg.norm(np.bincount(owner, weights=opposed - influence)))
    difference = other - one
    if not np.isfinite(deviation) or (deviation == 0 and difference != 0):
        return AreaDifference(one, other, None, None, 1.0, float("nan"))
    margin = float(ndtri(0.975)) * deviation
    p = 1.0 if deviation == 0 else float(2 * ndtr(-abs(difference) / deviation))
    return AreaDifference(one, other, max(-1.0, difference - margin), min(1.0, difference + margin), p, deviation)


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p corrected for all of them: the chance of any false alarm stays at the level (Holm, Scand J Stat 1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]


def spread_of_patients(differences: ArrayLike, patients: Sequence[str]) -> float:
    """Standard deviation of the patients' mean differences, n - 1 below; 0 for a single patient."""
    _, owner, num_cases = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    means = np.bincount(owner, weights=np.asarray(differences, dtype=np.float64)) / num_cases
    return float(means.std(ddof=1)) if means.size > 1 else 0.0


def detectable_difference(deviation: float, num_patients: int, *, num_tests: int = 1) -> float:
    """The true difference that so many patients would show with a power of 80 % at the 5 % level.

    Normal approximation (z(1 - level / 2) + z(power)) x deviation / sqrt(n), the level shared by `num_tests`.

    Args:
        deviation: Standard deviation between patients, as `spread_of_patients`.
        num_patients: n.
        num_tests: How many tests share the level (Bonferroni, the first step of Holm's procedure).
    """
    reach = float(ndtri(1 - LEVEL / num_tests / 2) + ndtri(POWER))
    return reach * deviation / float(np.sqrt(num_patients))


def patients_needed(deviation: float, difference: float, *, num_tests: int = 1) -> int:
    """How many patients would show a true `difference` other than 0; the formula of `detectable_difference` solved."""
    ratio = detectable_difference(deviation, 1, num_tests=num_tests) / abs(difference)
    return max(LEAST_PATIENTS, int(np.ceil(ratio**2)))


def balanced_accuracy_difference(
    first: NDArray[np.integer[Any]],
    second: NDArray[np.integer[Any]],
    reference: NDArray[np.integer[Any]],
    patients: Sequence[str],
    *,
    seed: int = 20,
) -> tuple[float, float, float]:
    """Second - first, with the 95 % percentile interval of a bootstrap that draws whole patients.

    The balanced accuracy is the mean recall of the classes that occur in the references; in a draw, of those drawn.

    Args:
        first: (n,) answered classes of the first model.
        second: (n,) of the second model, the same cases in the same order.
        reference: (n,) the right classes.
        patients: (n,) who the case is of.
        seed: Of the bootstrap.
    """
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    num_patients, num_classes = int(owner.max()) + 1, int(reference.max()) + 1
    cells = owner * num_classes + reference

    def table(weights: NDArray[Any]) -> NDArray[np.float64]:
        """(patients, classes) sums over the cases."""
        sums = np.bincount(cells, weights, minlength=num_patients * num_classes)
        return np.asarray(sums, dtype=np.float64).reshape(num_patients, num_classes)

    gained = table((second == reference).astype(float) - (first == reference).astype(float))
    counted = table(np.ones(reference.size))

    def difference(draws: NDArray[np.float64]) -> NDArray[np.float64]:
        gains, counts = draws @ gained, draws @ counted
        recalls = np.divide(gains, counts, out=np.zeros_like(gains), where=counts > 0)
        return np.asarray(recalls.sum(axis=1) / (counts > 0).sum(axis=1), dtype=np.float64)

    shares = np.full(num_patients, 1 / num_patients)
    draws = np.random.default_rng(seed).multinomial(num_patients, shares, size=_NUM_RESAMPLES).astype(np.float64)
    low, high = np.quantile(difference(draws), [0.025, 0.975])
    return float(difference(np.ones((1, num_patients)))[0]), float(low), float(high)
