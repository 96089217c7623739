"""Values of an image inside a structure, and the SUV peak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.measurements import Intensity
from medseg.ops.peak import ball_means

if TYPE_CHECKING:
    from medseg.core.geometry import Geometry


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

    IBSI, global intensity peak, code 0F91; Zwanenburg et al., Radiology 2020.
    """
    return float(ball_means(image, mask, axes_mm=geometry.affine[:3, :3]).max())
