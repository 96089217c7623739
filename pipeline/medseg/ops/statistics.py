"""From cases to cohorts: means with intervals that hold for new patients, and whether two models differ.

Definitions, formulas and the simulated coverage are printed in docs/metrics.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from medseg.core.errors import InputError
from medseg.core.estimate import Estimate
from medseg.core.findings import LabelMetrics, LabelSummary, PairedComparison
from medseg.ops.metrics import METRICS

_NUM_RESAMPLES = 2000
_FEW_PATIENTS = 8  # below, the resamples of a cohort are too alike to read a 2.5 % tail from
_SUMMARISED = ("dice", "iou", "hd_mm", "hd95_mm", "assd_mm", "nsd")
_CHUNK = 4_000_000  # resampling weights held at once: 32 MB

Bounds = tuple[float, float]


def estimate(
    values: ArrayLike, patients: Sequence[str], *, seed: int = 20, bounds: Bounds = (-np.inf, np.inf)
) -> Estimate:
    """Mean over the cases with a 95 % interval for new patients; median and quartiles.

    The interval is the studentised bootstrap (Efron and Tibshirani 1993, chapter 12) that draws whole patients, since
    the cases of one patient are alike; with fewer than 8 patients it is Student's t on the same standard error. A
    single patient says nothing of others: the interval then is `bounds`.

    Args:
        values: (n,) one finite number per case.
        patients: (n,) who the case is of.
        seed: Of the bootstrap.
        bounds: What the quantity cannot leave, (0, 1) for Dice; the interval is cut there.

    Raises:
        InputError: `E-STATISTICS-INPUT`, no case, a value that is not finite, lengths that differ.
    """
    table = np.asarray(values, dtype=np.float64)
    _require_cases(table, patients)
    return estimates(table[:, None], patients, seed=seed, bounds=[bounds])[0]


def summarise_labels(
    rows: Sequence[tuple[str, LabelMetrics]], *, seed: int = 20, longest_mm: float = np.inf
) -> tuple[LabelSummary, ...]:
    """Each label over the cohort, in the order of first appearance; missed and invented structures count in full.

    Args:
        rows: Patient and metrics, one pair per case and label.
        seed: Of the bootstrap.
        longest_mm: The longest diagonal of the images: no interval of a mean distance goes beyond it.
    """
    by_label: dict[str, list[tuple[str, LabelMetrics]]] = {}
    for patient, row in rows:
        by_label.setdefault(row.label, []).append((patient, row))
    return tuple(_summarise(label, group, seed=seed, longest_mm=longest_mm) for label, group in by_label.items())


def paired_comparison(
    first: ArrayLike,
    second: ArrayLike,
    patients: Sequence[str],
    *,
    seed: int = 20,
    bounds: Bounds = (-np.inf, np.inf),
) -> PairedComparison:
    """Whether `second` differs from `first` on the same cases.

    Args:
        first: (n,) a metric of the first model, one number per case.
        second: (n,) the same metric of the second model, the same cases in the same order.
        patients: (n,) who the case is of; the test takes each patient's mean difference once.
        seed: Of the bootstrap.
        bounds: What the difference cannot leave, (-1, 1) for Dice; the interval is cut there.

    Returns:
        The difference second - first as an `Estimate`, and the two-sided p of Wilcoxon's signed-rank test.

    Raises:
        InputError: `E-STATISTICS-INPUT`, no case, a value that is not finite, lengths that differ.
    """
    before, after = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    _require_cases(before, patients)
    from scipy.stats import wilcoxon  # half a second to load

    _require_cases(after, patients)
    differences = after - before
    _, owner, num_cases = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    by_patient = np.bincount(owner, weights=differences) / num_cases
    return PairedComparison(
        difference=estimate(differences, patients, seed=seed, bounds=bounds),
        wilcoxon_p=float(wilcoxon(by_patient).pvalue) if by_patient.any() else 1.0,
        num_higher=int((differences > 0).sum()),
        num_lower=int((differences < 0).sum()),
        num_equal=int((differences == 0).sum()),
    )


def estimates(
    table: NDArray[np.float64], patients: Sequence[str], *, bounds: Sequence[Bounds], seed: int = 20
) -> list[Estimate]:
    """One `estimate` per column, all from the same resamples.

    Args:
        table: (cases, columns), finite.
        patients: (cases,) who the case is of.
        bounds: Of each column.
        seed: Of the bootstrap.
    """
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    sizes = np.bincount(owner).astype(np.float64)
    sums = np.zeros((sizes.size, table.shape[1]))
    np.add.at(sums, owner, table)
    low, high = _interval(sums, sizes, seed=seed)
    lower, upper = np.transpose(bounds)
    quartiles = np.percentile(table, [25, 50, 75], axis=0)
    return [
        Estimate(
            mean=mean,
            low=_bounded(lowest),
            high=_bounded(highest),
            median=quartile[1],
            quartile_1=quartile[0],
            quartile_3=quartile[2],
            n=len(table),
        )
        for mean, lowest, highest, quartile in zip(
            table.mean(axis=0), np.clip(low, lower, upper), np.clip(high, lower, upper), quartiles.T, strict=True
        )
    ]


def _summarise(label: str, group: list[tuple[str, LabelMetrics]], *, seed: int, longest_mm: float) -> LabelSummary:
    patients = [patient for patient, _ in group]
    further = list(group[0][1].percentiles_mm)
    columns = [[getattr(row, name) for name in _SUMMARISED] for _, row in group]
    table = np.array([[*cells, *row.percentiles_mm.values()] for cells, (_, row) in zip(columns, group, strict=True)])
    units = [METRICS[name].unit for name in _SUMMARISED] + ["mm"] * len(further)
    found = estimates(table, patients, seed=seed, bounds=[(0.0, longest_mm if unit else 1.0) for unit in units])
    errors = [(patient, row.relative_volume_error) for patient, row in group if row.relative_volume_error is not None]
    presence = Counter(row.presence for _, row in group)
    return LabelSummary(
        label=label,
        **dict(zip(_SUMMARISED, found, strict=False)),
        num_missed=presence["missed"],
        num_invented=presence["invented"],
        num_both_empty=presence["both_empty"],
        relative_volume_error=estimate([e for _, e in errors], [p for p, _ in errors], seed=seed, bounds=(-1.0, np.inf))
        if errors
        else None,
        percentiles_mm=dict(zip(further, found[len(_SUMMARISED) :], strict=True)),
    )


def _bounded(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], *, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % bounds of the mean over cases, from each patient's sums (patients, columns) and number of cases."""
    num_patients = len(sizes)
    one = np.ones((1, num_patients))
    mean, error = _mean_and_error(one, sums, sizes)
    if num_patients == 1:
        return np.full(mean.shape[1], -np.inf), np.full(mean.shape[1], np.inf)
    if num_patients < _FEW_PATIENTS:
        margin = float(stdtrit(num_patients - 1, 0.975)) * error[0]
        return mean[0] - margin, mean[0] + margin
    generator = np.random.default_rng(seed)
    shares = np.full(num_patients, 1 / num_patients)
    step = max(1, _CHUNK // num_patients)
    pivots = []
    for start in range(0, _NUM_RESAMPLES, step):
        weights = generator.multinomial(num_patients, shares, size=min(step, _NUM_RESAMPLES - start))
        drawn_mean, drawn_error = _mean_and_error(weights.astype(np.float64), sums, sizes)
        # A draw of patients that do not differ, such as one without the single failure, has no unit of its own to count
        # in: it is counted in that of the sample.
        unit = np.where(drawn_error > 0, drawn_error, error)
        pivots.append(np.divide(drawn_mean - mean, unit, out=np.zeros_like(drawn_mean), where=unit > 0))
    tails = np.quantile(np.concatenate(pivots), [0.975, 0.025], axis=0)
    return mean[0] - tails[0] * error[0], mean[0] - tails[1] * error[0]


def _mean_and_error(
    weights: NDArray[np.float64], sums: NDArray[np.float64], sizes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(resamples, columns) mean over cases and its standard error, patients being what is drawn (ratio estimator).

    The error is that of the patients' residuals sum - mean x size, linearised (Cochran 1977, 2.11).
    """
    num_patients = len(sizes)
    num_cases = (weights @ sizes)[:, None]
    centre = sums.sum(axis=0) / sizes.sum()
    sums = sums - centre * sizes[:, None]  # small numbers keep the squares below exact
    mean = weights @ sums / num_cases
    squares = (
        weights @ sums**2 - 2 * mean * (weights @ (sums * sizes[:, None])) + mean**2 * (weights @ sizes**2)[:, None]
    )
    squares[squares < 1e-12 * (sums**2).sum(axis=0)] = 0
    error = np.sqrt(num_patients / (num_patients - 1) * squares) / num_cases if num_patients > 1 else 0 * mean
    return centre + mean, error


def _require_cases(values: NDArray[np.float64], patients: Sequence[str]) -> None:
    if values.shape == (len(patients),) and values.size and np.isfinite(values).all():
        return
    wrong = int((~np.isfinite(values)).sum())
    message = f"one finite number per case expected, got {values.shape} for {len(patients)} cases, {wrong} not finite"
    raise InputError(message, code="E-STATISTICS-INPUT", remedy="Score the cases again; a failed one has no number.")
