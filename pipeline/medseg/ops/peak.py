"""Means in a ball of 1 cm^3 around voxels: what the local and global intensity peaks are made of.

Zwanenburg et al., Image biomarker standardisation initiative, reference manual (arXiv:1612.07003), chapter 3.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RADIUS_MM = (3 * 1000 / (4 * np.pi)) ** (1 / 3)


def peak_reach(axes_mm: NDArray[np.float64]) -> tuple[int, int, int]:
    """Voxels along each axis from the middle of the ball to the last one it can hold.

    Args:
        axes_mm: (3, 3); column n is the step from a voxel to its neighbour along axis n.
    """
    i, j, k = np.linalg.norm(np.linalg.inv(axes_mm), axis=1) * _RADIUS_MM
    return max(1, int(i)), max(1, int(j)), max(1, int(k))


def ball_means(
    image: NDArray[np.number], mask: NDArray[np.bool_], *, axes_mm: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N,) mean of the ball around each voxel of the mask, in the order of `image[mask]`.

    The ball takes the voxels whose centres it holds, also outside the mask, never outside the image.

    Args:
        image: (I, J, K), finite.
        mask: (I, J, K), at least one voxel set.
        axes_mm: As in `peak_reach`; sheared grids are taken as they lie.
    """
    from scipy.signal import fftconvolve  # half a second to load

    reach, inside = peak_reach(axes_mm), np.argwhere(mask)
    box = tuple(
        slice(max(0, low - n), high + n + 1)
        for low, high, n in zip(inside.min(axis=0), inside.max(axis=0), reach, strict=True)
    )
    near, chosen = image[box].astype(np.float64), mask[box]
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1)
    ball = (np.linalg.norm(steps @ axes_mm.T, axis=-1) <= _RADIUS_MM).astype(np.float64)
    level = near[chosen].mean()  # small numbers keep the transform exact
    padded = [np.pad(array, [(n, n) for n in reach]) for array in (near - level, np.ones_like(near))]
    sums, sizes = (fftconvolve(array, ball, mode="valid")[chosen] for array in padded)
    return np.asarray(sums / np.rint(sizes) + level, dtype=np.float64)
