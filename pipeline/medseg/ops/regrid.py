"""Bringing an array onto another grid in the patient, by the nearest voxel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry


def nearest_on_grid(array: NDArray[Any], source: Geometry, target: Geometry, *, outside: int = 0) -> NDArray[Any]:
    """The value of the nearest voxel of `source` at every voxel of `target`, whatever the angle between the grids.

    A point exactly between two voxels takes the higher index. Slice by slice: the memory needed is that of the result.

    Args:
        array: (I, J, K) on `source`.
        source: Grid of the array.
        target: Grid of the result.
        outside: Value of voxels whose centre lies in no voxel of `source`.
    """
    to_source = np.linalg.inv(source.affine) @ target.affine
    size_i, size_j, size_k = target.shape
    plane = np.stack(np.meshgrid(np.arange(size_j), np.arange(size_k), indexing="ij"), axis=-1)
    across = plane @ to_source[:3, 1:3].T + to_source[:3, 3] + 0.5  # the half turns floor into rounding
    result = np.full(target.shape, outside, dtype=array.dtype)
    for i in range(size_i):
        # 1e-6 of a voxel: rounding must not push the points of equal grids to the neighbour.
        index = np.floor(across + i * to_source[:3, 0] + 1e-6).astype(np.int64)
        inside = ((index >= 0) & (index < source.shape)).all(axis=-1)
        result[i][inside] = array[tuple(index[inside].T)]
    return result
