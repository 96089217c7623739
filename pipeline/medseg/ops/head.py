"""A head made of ellipsoids: where skin, skull, brain, eyes, nose, mouth and ears lie in an adult, in RAS+ mm.

The origin lies in the middle of the brain (about the anterior commissure); sizes are those of an average adult head.
Nothing in it comes from a scan of anybody.
"""

from __future__ import annotations

from functools import cache, reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume

Points = NDArray[np.float64]
Mask = NDArray[np.bool_]


class _Ellipsoid(NamedTuple):
    """Only what lies above `floor_mm` belongs to it."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    floor_mm: float = -np.inf

    def holds(self, points_mm: Points, *, more_mm: float = 0.0) -> Mask:
        x, y, z = np.moveaxis(points_mm, -1, 0)
        # axis by axis: a sum along an axis of three takes several times as long
        squares = (
            np.square((along - middle) / (radius + more_mm))
            for along, middle, radius in zip((x, y, z), self.centre, self.radii, strict=True)
        )
        return np.asarray((reduce(np.add, squares) <= 1) & (z > self.floor_mm - more_mm))


def _both(x: float, y: float, z: float, radii: tuple[float, float, float]) -> tuple[_Ellipsoid, _Ellipsoid]:
    return _Ellipsoid((-x, y, z), radii), _Ellipsoid((x, y, z), radii)


_NECK = _Ellipsoid((0, -28, -130), (62, 66, 120), -190)
_SKIN = (_Ellipsoid((0, -17, 10), (80, 103, 84)), _Ellipsoid((0, 25, -65), (62, 62, 70)))
_NOSE = _Ellipsoid((0, 88, -50), (14, 22, 22))
_EARS = _both(80, -20, -45, (8, 18, 30))
_SKULL = _Ellipsoid((0, -17, 10), (74, 96, 78))
_SPINE = _Ellipsoid((0, -45, -130), (20, 20, 70))
_BRAIN = (
    _Ellipsoid((0, -17, 12), (69, 88, 66), -28),
    *_both(42, -12, -28, (26, 36, 24)),
    _Ellipsoid((0, -60, -42), (52, 42, 28)),
    _Ellipsoid((0, -28, -60), (14, 14, 50)),
)
_EYES = _both(33, 58, -38, (13, 13, 13))
_AIRWAYS = (
    _Ellipsoid((0, 62, -58), (14, 26, 22)),
    *_both(28, 48, -64, (13, 16, 15)),
    _Ellipsoid((0, 5, -100), (12, 12, 45)),
)
# Grey values as in no modality: mutual information asks only that tissues differ.
_AIR, _SOFT, _BONE, _BRAIN_GREY, _EYE = 0.0, 60.0, 30.0, 100.0, 80.0

# The face lies in front of a surface that falls from the brow to behind the eyes, then straight down to below the chin.
_BROW_MM, _BEHIND_EYES_MM, _BELOW_CHIN_MM = (88.0, 5.0), (38.0, -50.0), -160.0
_EAR_X_MM, _EAR_Y_MM, _EAR_Z_MM = 76.0, (-50.0, 15.0), (-85.0, -8.0)
_BRAIN_MARGIN_MM = 8.0
# Above it the frontal lobes are behind the brow.
FRONTAL_BASE_MM = -32.0
_STEP_MM = 2.0
_LOW, _HIGH = (-112.0, -136.0, -190.0), (112.0, 128.0, 112.0)


def in_brain(points_mm: Points, *, margin_mm: float = 0.0) -> Mask:
    """Whether each of (..., 3) points lies in the brain, or nearer to it than a margin."""
    return np.asarray(np.logical_or.reduce([part.holds(points_mm, more_mm=margin_mm) for part in _BRAIN]))


def in_face(points_mm: Points, *, ears: bool = False) -> Mask:
    """Whether each of (..., 3) points lies in the face or in front of it; never within 8 mm of the brain."""
    x, y, z = np.moveaxis(points_mm, -1, 0)
    (top_y, top_z), (low_y, low_z) = _BROW_MM, _BEHIND_EYES_MM
    surface = low_y + np.clip((z - low_z) / (top_z - low_z), 0, 1) * (top_y - low_y)
    found = (y > surface) & (z < top_z) & (z > _BELOW_CHIN_MM)
    if ears:
        found |= (
            (np.abs(x) > _EAR_X_MM) & (y > _EAR_Y_MM[0]) & (y < _EAR_Y_MM[1]) & (z > _EAR_Z_MM[0]) & (z < _EAR_Z_MM[1])
        )
    return np.asarray(found & ~in_brain(points_mm, margin_mm=_BRAIN_MARGIN_MM))


def in_head(points_mm: Points) -> Mask:
    """Whether each of (..., 3) points lies within the skin."""
    return np.asarray(np.logical_or.reduce([part.holds(points_mm) for part in (_NECK, *_SKIN, _NOSE, *_EARS)]))


def grey_values(points_mm: Points) -> NDArray[np.float32]:
    """What an image of this head shows at each of (..., 3) points."""
    values = np.where(in_head(points_mm), _SOFT, _AIR).astype(np.float32)
    for parts, value in (((_SKULL, _SPINE), _BONE), (_BRAIN, _BRAIN_GREY), (_EYES, _EYE), (_AIRWAYS, _AIR)):
        values[np.logical_or.reduce([part.holds(points_mm) for part in parts])] = value
    return values


@cache
def head_template() -> Volume:
    """The head on a grid of 2 mm."""
    shape = tuple(round((high - low) / _STEP_MM) for low, high in zip(_LOW, _HIGH, strict=True))
    affine = np.diag([_STEP_MM, _STEP_MM, _STEP_MM, 1.0])
    affine[:3, 3] = np.array(_LOW) + _STEP_MM / 2
    geometry = Geometry((shape[0], shape[1], shape[2]), affine)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return Volume(grey_values(geometry.to_world(index))[np.newaxis], geometry)
