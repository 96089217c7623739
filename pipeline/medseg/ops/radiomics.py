"""Radiomics of one region: the features of the IBSI that need no texture matrix, by name, as the baselines read them.

`shape.*` of the mask, `intensity.*`, `histogram.*` (32 bins), `volume_histogram.*` (1000 steps) and `peak.*` of the
image under it. Bins are counted between the least and the greatest intensity of the region, so that MRI in arbitrary
units gets the same treatment as CT.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Vector
from medseg.ops.radiomics_intensity import (
    discretise_by_count,
    histogram_features,
    intensity_statistics,
    peak_features,
    volume_histogram_features,
)
from medseg.ops.radiomics_shape import shape_features, weight_features

_NUM_BINS, _NUM_STEPS = 32, 1000


def region_shape(mask: NDArray[np.bool_], *, spacing_mm: Vector) -> dict[str, float]:
    """`shape.*` of a mask.

    Args:
        mask: (I, J, K), at least one voxel set.
        spacing_mm: Size of a voxel along I, J, K.
    """
    return _named("shape", shape_features(_cropped(mask), spacing_mm=spacing_mm))


def region_intensities(
    image: NDArray[np.number], mask: NDArray[np.bool_], *, spacing_mm: Vector, volume_mm3: float
) -> dict[str, float]:
    """Everything about the intensities of a region that they define.

    Args:
        image: (I, J, K), finite.
        mask: (I, J, K), at least one voxel set.
        spacing_mm: Size of a voxel along I, J, K.
        volume_mm3: Of the mask's mesh.
    """
    return (
        image_intensities(image[mask])
        | _named("peak", peak_features(image, mask, spacing_mm=spacing_mm))
        | _named("shape", weight_features(image, mask, spacing_mm=spacing_mm, volume_mm3=volume_mm3))
    )


def image_intensities(values: NDArray[np.number]) -> dict[str, float]:
    """`intensity.*`, `histogram.*` and `volume_histogram.*`, which do not ask where a voxel lies.

    Args:
        values: (n,), at least one, finite.
    """
    values = values.astype(np.float64)
    steps = np.linspace(values.min(), values.max(), _NUM_STEPS)
    return (
        _named("intensity", intensity_statistics(values))
        | _named("histogram", histogram_features(discretise_by_count(values, count=_NUM_BINS)))
        | _named("volume_histogram", volume_histogram_features(values, grid=steps))
    )


def _named(family: str, features: dict[str, float]) -> dict[str, float]:
    return {f"{family}.{name}": value for name, value in features.items()}


def _cropped(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    sides = [np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    return mask[tuple(slice(side[0], side[-1] + 1) for side in sides)]
