"""The intensities under a mask in numbers: statistics, histogram, intensity-volume histogram and local peaks.

Definitions: Zwanenburg et al., Image biomarker standardisation initiative, reference manual (arXiv:1612.07003),
chapters 2.7 (discretisation) and 3.2 to 3.5. A feature that the intensities do not define (the coefficient of variation
around a mean of 0) is left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Vector
from medseg.ops.peak import ball_means
from medseg.ops.radiomics_shape import finite

_NOT_OF_BINS = ("energy", "root_mean_square")


def intensity_statistics(values: NDArray[np.number]) -> dict[str, float]:
    """Chapter 3.3: up to 18 numbers of the intensities themselves.

    Args:
        values: (n,), at least one.
    """
    values = values.astype(np.float64)
    mean, variance, median = values.mean(), values.var(), np.median(values)
    p10, p25, p75, p90 = np.percentile(values, [10, 25, 75, 90])
    core = values[(values >= p10) & (values <= p90)]
    spread = np.sqrt(variance)
    is_flat = bool(values.min() == values.max())
    z = np.zeros(1) if is_flat else (values - mean) / spread
    with np.errstate(divide="ignore", invalid="ignore"):
        features = {
            "mean": mean,
            "variance": variance,
            "skewness": (z**3).mean(),
            "kurtosis": 0.0 if is_flat else (z**4).mean() - 3,
            "median": median,
            "minimum": values.min(),
            "p10": p10,
            "p90": p90,
            "maximum": values.max(),
            "interquartile_range": p75 - p25,
            "range": np.ptp(values),
            "mean_absolute_deviation": np.abs(values - mean).mean(),
            "robust_mean_absolute_deviation": np.abs(core - core.mean()).mean(),
            "median_absolute_deviation": np.abs(values - median).mean(),
            "coefficient_of_variation": spread / mean,
            "quartile_dispersion": (p75 - p25) / (p75 + p25),
            "energy": (values**2).sum(),
            "root_mean_square": np.sqrt((values**2).mean()),
        }
    return finite(features)


def discretise_by_count(values: NDArray[np.number], *, count: int) -> NDArray[np.int64]:
    """`count` bins between the least and the greatest value, numbered from 1: for intensities in arbitrary units."""
    lowest, reach = float(values.min()), float(np.ptp(values))
    if reach == 0:
        return np.ones(values.shape, dtype=np.int64)
    return np.minimum(np.asarray(np.floor(count * (values - lowest) / reach), dtype=np.int64) + 1, count)


def histogram_features(bins: NDArray[np.int64]) -> dict[str, float]:
    """Chapter 3.4: the statistics of the bin numbers, and how the counts change from bin to bin.

    Args:
        bins: (n,) numbers of the bins, from 1.
    """
    counts = np.bincount(bins)[1:].astype(np.float64)
    statistics = {name: value for name, value in intensity_statistics(bins).items() if name not in _NOT_OF_BINS}
    share = counts[counts > 0] / counts.sum()
    modes = np.flatnonzero(counts == counts.max()) + 1
    features = {
        "mode": modes[np.abs(modes - bins.mean()).argmin()],
        "entropy": np.abs(share @ np.log2(share)),
        "uniformity": (share**2).sum(),
    }
    if counts.size > 1:
        slope = np.gradient(counts)
        features |= {
            "maximum_gradient": slope.max(),
            "maximum_gradient_bin": slope.argmax() + 1,
            "minimum_gradient": slope.min(),
            "minimum_gradient_bin": slope.argmin() + 1,
        }
    return statistics | finite(features)


def volume_histogram_features(values: NDArray[np.number], *, grid: NDArray[np.number]) -> dict[str, float]:
    """Chapter 3.5: which share of the volume has at least an intensity, and which intensity a share has at least.

    Args:
        values: (n,).
        grid: Intensities at which the shares are taken, rising; its ends are 0 % and 100 % of the intensity.
    """
    ordered = np.sort(values)
    shares = 1 - np.searchsorted(ordered, grid, side="left") / values.size
    fractions = (grid - grid[0]) / max(float(grid[-1] - grid[0]), np.finfo(float).tiny)
    features = {}
    for percent in (10, 90):
        reached, rare = np.flatnonzero(fractions >= percent / 100), np.flatnonzero(shares <= percent / 100)
        features[f"volume_fraction_{percent}"] = shares[reached[0]] if reached.size else np.nan
        features[f"intensity_{percent}"] = grid[rare[0]] if rare.size else np.nan
    for kind in ("volume_fraction", "intensity"):
        features[f"{kind}_difference"] = features[f"{kind}_10"] - features[f"{kind}_90"]
    return finite(features)


def peak_features(image: NDArray[np.number], mask: NDArray[np.bool_], *, spacing_mm: Vector) -> dict[str, float]:
    """Chapter 3.2: the mean of a ball of 1 cm^3 around the brightest voxel, and the highest such mean in the mask.

    Args:
        image: (I, J, K); what it holds around the mask counts, what lies outside the array does not.
        mask: (I, J, K), at least one voxel set.
        spacing_mm: Size of a voxel along I, J, K.
    """
    means, values = ball_means(image, mask, axes_mm=np.diag(spacing_mm)), image[mask]
    return {"local_peak": float(means[values == values.max()].max()), "global_peak": float(means.max())}
