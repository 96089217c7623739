"""Signed distances, negative inside, of the solids that a synthetic abdomen is built of.

Shapes: points are (3, ...) float32, mm; every function returns the distance in mm with shape (...).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Field = NDArray[np.float32]

_SPHERE_POINTS = 2000


def ellipsoid(points: Field, centre_mm: ArrayLike, radii_mm: ArrayLike) -> Field:
    """First-order distance: exact on the surface, close near it; one radius may be infinite (a cylinder)."""
    inverse = (1.0 / np.asarray(radii_mm, dtype=np.float32)).reshape(3, *[1] * (points.ndim - 1))
    scaled = (points - np.asarray(centre_mm, dtype=np.float32).reshape(inverse.shape)) * inverse
    norm = _length(scaled) + np.float32(1e-6)
    slope = _length(scaled * inverse) + np.float32(1e-6 * inverse.max())
    return np.asarray(norm * (norm - 1) / slope)


def tube(points: Field, start_mm: ArrayLike, stop_mm: ArrayLike, radius_mm: float) -> Field:
    """A straight vessel with round ends."""
    shape = (3, *[1] * (points.ndim - 1))
    start = np.asarray(start_mm, dtype=np.float32).reshape(shape)
    axis = np.asarray(stop_mm, dtype=np.float32).reshape(shape) - start
    along = np.clip(((points - start) * axis).sum(axis=0) / (axis * axis).sum(), 0, 1)
    return _length(points - start - along * axis) - np.float32(radius_mm)


def join(first: Field, second: Field, blend_mm: float) -> Field:
    """Union with a rounded seam."""
    overlap = np.maximum(np.float32(blend_mm) - np.abs(first - second), 0)
    return np.asarray(np.minimum(first, second) - overlap * overlap / np.float32(4 * blend_mm))


def warp(points: Field, rng: np.random.Generator, *, amplitude_mm: float, wavelength_mm: float) -> Field:
    """Points moved along a smooth random field, so that no two bodies are alike."""
    moved = points.copy()
    for axis in range(3):
        for _ in range(2):
            wave = rng.normal(size=3)
            wave *= 2 * np.pi / (wavelength_mm * rng.uniform(0.8, 1.6) * np.linalg.norm(wave))
            phase = np.tensordot(wave.astype(np.float32), points, axes=1) + np.float32(rng.uniform(0, 2 * np.pi))
            moved[axis] += np.float32(amplitude_mm / 2) * np.sin(phase)
    return moved


@dataclass(frozen=True)
class Star:
    """A lesion around a centre: an ellipsoid, with spicules when it has `tips`.

    Attributes:
        scale_mm: Size that gives the lesion its volume.
        axes: (3, 3) unit columns times the relative radii of the core.
        tips: (N, 3) unit directions of the spicules; N = 0 is a smooth ellipsoid.
        heights: (N,) length of each spicule relative to the core's radius.
        sharpness: Concentration of a spicule on the sphere; its angular half-width is about sharpness^-1/2.
    """

    scale_mm: float
    axes: NDArray[np.float64]
    tips: NDArray[np.float64]
    heights: NDArray[np.float64]
    sharpness: float

    def distance(self, offsets: Field) -> Field:
        """Distance to the surface at offsets (3, ...) mm from the centre, along the ray through the centre."""
        length = _length(offsets) + np.float32(1e-6)
        return length - self._radius(offsets / length)

    def _radius(self, directions: NDArray[np.floating]) -> Field:
        core = 1 / np.maximum(_length(np.tensordot(np.linalg.inv(self.axes), directions, axes=1)), 1e-3)
        bumps = sum(
            height * np.exp(self.sharpness * (np.tensordot(tip, directions, axes=1) - 1))
            for tip, height in zip(self.tips, self.heights, strict=True)
        )
        return np.asarray(self.scale_mm * (core + bumps), dtype=np.float32)


def draw_star(rng: np.random.Generator, radius_mm: float, *, spiculated: bool) -> Star:
    """A lesion with the volume of a sphere of `radius_mm`, whatever its kind."""
    basis, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    axes = basis * rng.uniform(0.82, 1.22, size=3)
    num_tips = int(rng.integers(9, 13)) if spiculated else 0
    star = Star(1.0, axes, _spread(rng, num_tips), rng.uniform(0.9, 1.5, size=num_tips), 18.0)
    cubed = star._radius(sphere_directions(_SPHERE_POINTS)) ** 3
    scale = radius_mm / float(cubed.mean()) ** (1 / 3)
    return Star(scale, star.axes, star.tips, star.heights, star.sharpness)


def sphere_directions(count: int) -> NDArray[np.float64]:
    """(3, count) unit vectors, evenly spread by the golden angle."""
    z = 1 - (2 * np.arange(count) + 1) / count
    angle = np.arange(count) * np.pi * (3 - np.sqrt(5))
    flat = np.sqrt(1 - z * z)
    return np.stack([flat * np.cos(angle), flat * np.sin(angle), z])


def _spread(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """(count, 3) directions, even but turned and shaken, so that spicules do not merge."""
    if count == 0:
        return np.zeros((0, 3))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    shaken = (turn @ sphere_directions(count)).T + rng.normal(scale=0.12, size=(count, 3))
    return np.asarray(shaken / np.linalg.norm(shaken, axis=1, keepdims=True))


def _length(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.asarray(np.sqrt(np.einsum("i...,i...->...", vectors, vectors)), dtype=np.float32)
