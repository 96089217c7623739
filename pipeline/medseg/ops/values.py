"""How good the answers of a target are: numbers with a unit against reference numbers.

Definitions and formulas are printed in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.core.values import Bounded, ValueAnswer, ValueSummary
from medseg.ops.statistics import estimate

_NUM_RESAMPLES = 2000
_FEW_PATIENTS = 8

Numbers = NDArray[np.float64]
Score = Callable[[Numbers, Numbers], float]


def value_summary(name: str, unit: str, answers: Sequence[tuple[str, ValueAnswer]], *, seed: int = 20) -> ValueSummary:
    """All numbers of one target.

    Args:
        name: Of the target.
        unit: Of answers and references.
        answers: Patient and answer, one pair per case; those without a reference are counted alone.
        seed: Of the bootstrap.

    Raises:
        InputError: `E-STATISTICS-INPUT`, no case with a reference, or a number that is not finite.
    """
    scored = [(patient, one, one.reference) for patient, one in answers if one.reference is not None]
    patients = [patient for patient, _, _ in scored]
    values = np.array([one.value for _, one, _ in scored], dtype=np.float64)
    references = np.array([reference for _, _, reference in scored], dtype=np.float64)
    errors = values - references
    mae, bias = estimate(np.abs(errors), patients, seed=seed, bounds=(0, np.inf)), estimate(errors, patients, seed=seed)
    drawn = _draws(patients, seed=seed)
    return ValueSummary(
        name=name,
        unit=unit,
        n=len(scored),
        num_without_reference=len(answers) - len(scored),
        num_outside=sum(not one.inside for _, one, _ in scored),
        mae=mae,
        bias=bias,
        rmse=_bounded(root_mean_square, values, references, drawn),
        r2=_bounded(r_squared, values, references, drawn) if np.ptp(references) else None,
        spearman=_bounded(spearman, values, references, drawn) if np.ptp(references) and np.ptp(values) else None,
    )


def root_mean_square(values: Numbers, references: Numbers) -> float:
    """Of the errors, in the unit of both (n,)."""
    return float(np.sqrt(np.mean((values - references) ** 2)))


def r_squared(values: Numbers, references: Numbers) -> float:
    """1 - sum of squared errors / sum of squared distances of the (n,) references from their mean.

    1 is perfect, 0 is no better than that mean, less is worse. NaN where all references are equal.
    """
    spread = float(((references - references.mean()) ** 2).sum())
    return 1 - float(((values - references) ** 2).sum()) / spread if spread else float("nan")


def spearman(values: Numbers, references: Numbers) -> float:
    """Correlation of the midranks (Spearman 1904); NaN where all of one side are equal."""
    from scipy.stats import rankdata  # half a second to load

    first, second = (rankdata(side) - (len(side) + 1) / 2 for side in (values, references))
    size = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size if size else float("nan")


def _draws(patients: Sequence[str], *, seed: int) -> list[NDArray[np.int64]]:
    """Rows of each resample, which draws whole patients; none where these are too few to say anything of others."""
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    if len(names) < _FEW_PATIENTS:
        return []
    rows = [np.flatnonzero(owner == number) for number in range(len(names))]
    chosen = np.random.default_rng(seed).integers(len(names), size=(_NUM_RESAMPLES, len(names)))
    return [np.concatenate([rows[number] for number in one]) for one in chosen]


def _bounded(score: Score, values: Numbers, references: Numbers, drawn: Sequence[NDArray[np.int64]]) -> Bounded:
    """A score and its bootstrap percentiles; resamples in which it does not exist are left out."""
    if not (np.isfinite(values).all() and np.isfinite(references).all()):
        message = "answers and references must be finite"
        raise InputError(message, code="E-STATISTICS-INPUT", remedy="Predict again; an answer is always finite.")
    scores = np.array([score(values[rows], references[rows]) for rows in drawn])
    scores = scores[np.isfinite(scores)]
    low, high = np.percentile(scores, [2.5, 97.5]).tolist() if scores.size else (None, None)
    return Bounded(value=score(values, references), low=low, high=high)
