"""The shape of a mask in numbers: the morphological features of the IBSI.

Definitions: Zwanenburg et al., Image biomarker standardisation initiative, reference manual (arXiv:1612.07003), chapter
3.1, without the features that have no reference values there (oriented box, minimum volume ellipsoid) and without
Moran's I and Geary's C. A feature that a mask does not define (the flatness of a single voxel) is left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from medseg.core.geometry import Vector
from medseg.ops.mesh import Mesh, mesh_of

_DEGREE = 20


def shape_features(mask: NDArray[np.bool_], *, spacing_mm: Vector) -> dict[str, float]:
    """Size, roundness and proportions.

    Args:
        mask: (I, J, K), at least one voxel set.
        spacing_mm: Size of a voxel along I, J, K.

    Returns:
        Up to 21 finite numbers by name.
    """
    points_mm = np.argwhere(mask) * np.asarray(spacing_mm)
    mesh = mesh_of(mask, spacing_mm=spacing_mm)
    with np.errstate(divide="ignore", invalid="ignore"):
        features = (
            {"voxel_volume_mm3": len(points_mm) * np.prod(spacing_mm)}
            | _roundness(mesh)
            | _proportions(mesh, points_mm)
            | _enclosures(mesh)
        )
    return finite(features)


def weight_features(
    image: NDArray[np.number], mask: NDArray[np.bool_], *, spacing_mm: Vector, volume_mm3: float
) -> dict[str, float]:
    """How the intensities lie in the shape: shift of their centre of mass, and mean intensity times volume.

    Args:
        image: (I, J, K) intensities.
        mask: (I, J, K), at least one voxel set.
        spacing_mm: Size of a voxel along I, J, K.
        volume_mm3: Of the mask's mesh.
    """
    points_mm, weights = np.argwhere(mask) * np.asarray(spacing_mm), image[mask].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre_mm = weights @ points_mm / weights.sum()
    return finite(
        {
            "centre_of_mass_shift_mm": np.linalg.norm(points_mm.mean(axis=0) - centre_mm),
            "integrated_intensity": weights.mean() * volume_mm3,
        }
    )


def finite(features: dict[str, np.floating | float]) -> dict[str, float]:
    """Without the features that are not defined here."""
    return {name: float(value) for name, value in features.items() if np.isfinite(value)}


def _roundness(mesh: Mesh) -> dict[str, np.floating | float]:
    volume, area = mesh.volume_mm3, mesh.area_mm2
    ratio = 36 * np.pi * volume**2 / area**3
    return {
        "volume_mm3": volume,
        "area_mm2": area,
        "area_per_volume": area / volume,
        "compactness_1": volume / (np.sqrt(np.pi) * area**1.5),
        "compactness_2": ratio,
        "spherical_disproportion": ratio ** (-1 / 3),
        "sphericity": ratio ** (1 / 3),
        "asphericity": ratio ** (-1 / 3) - 1,
    }


def _proportions(mesh: Mesh, points_mm: NDArray[np.float64]) -> dict[str, np.floating | float]:
    """Principal axes of the voxel centres, and the ellipsoid that has them."""
    moments = np.linalg.eigvalsh(np.cov(points_mm.T)) if len(points_mm) > 1 else np.zeros(3)
    least, minor, major = 4 * np.sqrt(np.where(moments > 1e-9 * moments[2], moments, 0))
    ellipsoid_mm3 = np.pi / 6 * major * minor * least
    return {
        "major_axis_mm": major,
        "minor_axis_mm": minor,
        "least_axis_mm": least,
        "elongation": minor / major,
        "flatness": least / major,
        "ellipsoid_volume_density": mesh.volume_mm3 / ellipsoid_mm3,
        "ellipsoid_area_density": mesh.area_mm2 / _ellipsoid_area(major / 2, minor / 2, least / 2),
    }


def _ellipsoid_area(a: np.floating, b: np.floating, c: np.floating) -> np.floating:
    """The series of the manual, to degree 20, in semi-axes a >= b >= c.

    4 pi a b sum of (s t)^n / (1 - 4 n^2) P_n((s^2 + t^2) / (2 s t)), s^2 = 1 - b^2 / a^2, t^2 = 1 - c^2 / a^2, where
    the products (s t)^n P_n follow the recurrence of the Legendre polynomials and stay finite for s = 0. The reference
    values hold for this series; it is a few per cent off the true area, whose eccentricities refer to c.
    """
    s, t = 1 - (b / a) ** 2, 1 - (c / a) ** 2  # squares
    terms = [np.float64(1.0), (s + t) / 2]
    for n in range(1, _DEGREE):
        terms.append(((2 * n + 1) * (s + t) / 2 * terms[n] - n * s * t * terms[n - 1]) / (n + 1))
    return 4 * np.pi * a * b * sum((term / (1 - 4 * n**2) for n, term in enumerate(terms)), np.float64(0.0))


def _enclosures(mesh: Mesh) -> dict[str, np.floating | float]:
    """The box along the grid and the convex hull around the mesh, and the longest distance on it."""
    hull = ConvexHull(mesh.corners_mm)
    sides = np.ptp(mesh.corners_mm, axis=0)
    return {
        "max_diameter_mm": pdist(mesh.corners_mm[hull.vertices]).max(),
        "box_volume_density": mesh.volume_mm3 / sides.prod(),
        "box_area_density": mesh.area_mm2 / (2 * (sides.prod() / sides).sum()),
        "hull_volume_density": mesh.volume_mm3 / hull.volume,
        "hull_area_density": mesh.area_mm2 / hull.area,
    }
