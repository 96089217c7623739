"""Values of an image inside a structure, and the SUV peak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.measurements import Intensity

if TYPE_CHECKING:
    from medseg.core.geometry import Geometry

_PEAK_RADIUS_MM = (3 * 1000 / (4 * np.pi)) ** (1 / 3)  # of a sphere of 1 ml


def measure_intensity(
    image: NDArray[Any], mask: NDArray[np.bool_], geometry: Geometry, *, unit: str = "", peak: bool = True
) -> Intensity:
    """Mean, extremes and population standard deviation; for SUV also the peak and the total lesion glycolysis.

    Args:
        image: (I, J, K), the surroundings of the structure included as far as the peak's sphere may reach.
        mask: The same shape, not empty.
        geometry: Their grid.
        unit: Of the image; one of SUV asks for the numbers of PET.
        peak: Whether to look for the SUV peak; it costs time on a whole organ.
    """
    values = image[mask].astype(np.float64)
    mean, volume_ml = float(values.mean()), values.size * geometry.voxel_volume_mm3 / 1000
    return Intensity(
        unit=unit,
        mean=mean,
        minimum=float(values.min()),
        maximum=float(values.max()),
        standard_deviation=float(values.std()),
        suv_peak=peak_mean(image, mask, geometry) if is_suv(unit) and peak else None,
        total_lesion_glycolysis=mean * volume_ml if is_suv(unit) else None,
    )


def is_suv(unit: str) -> bool:
    """`SUV` and its kinds by what the dose is divided: `SUVbw`, `SUVlbm`."""
    return unit.upper().startswith("SUV")


def peak_mean(image: NDArray[Any], mask: NDArray[np.bool_], geometry: Geometry) -> float:
    """The highest mean in a sphere of 1 ml centred on a voxel of the mask.

    The sphere takes the voxels whose centres it holds, also outside the mask, never outside the image (IBSI, global
    intensity peak, code 0F91; Zwanenburg et al., Radiology 2020).
    """
    sphere = _sphere(geometry)
    sums = ndimage.convolve(image.astype(np.float64), sphere, mode="constant")
    counts = ndimage.convolve(np.ones(image.shape), sphere, mode="constant")
    return float((sums / counts)[mask].max())


def peak_reach(geometry: Geometry) -> tuple[int, int, int]:
    """Voxels along each axis from the middle of the peak's sphere to the last one it can hold."""
    i, j, k = np.linalg.norm(np.linalg.inv(geometry.affine[:3, :3]), axis=1) * _PEAK_RADIUS_MM
    return max(1, int(i)), max(1, int(j)), max(1, int(k))


def _sphere(geometry: Geometry) -> NDArray[np.float64]:
    """1 where a voxel's centre lies within the sphere around the middle voxel; sheared grids are taken as they lie."""
    steps = [np.arange(-reach, reach + 1) for reach in peak_reach(geometry)]
    offsets = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1) @ geometry.affine[:3, :3].T
    return np.asarray(np.linalg.norm(offsets, axis=-1) <= _PEAK_RADIUS_MM, dtype=np.float64)
