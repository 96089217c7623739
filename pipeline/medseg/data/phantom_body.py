"""One synthetic abdomen: CT-like numbers on an oblique grid, with the truth beside them.

Everything is drawn at about half the size of an adult, so that a case is small while lesions of 12 to 30 mm keep their
shape on voxels of 2 x 2 x 3 mm. Body coordinates run left, anterior, superior, in mm from the body's centre, as a slice
is looked at; the organ lies on the patient's right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.data.phantom_shapes import Field, draw_star, ellipsoid, join, tube, warp

CLASS_NAMES = ("benign", "malignant")

_FIELD_OF_VIEW_MM = (196.0, 158.0, 146.0)
_RAS_TO_BODY = (-1.0, 1.0, 1.0)
_AXIS_CODES = ("LPS", "RAS", "LAS", "RPS", "LPI")
_REACH = 1.75  # of a spiculated lesion, in radii of the sphere of equal volume
_NEIGHBOURS = (  # solids near the organ: centre, radii (mm), HU relative to the organ
    ((58, -22, 14), (16, 25, 30), 4),  # spleen
    ((34, 24, 10), (27, 20, 25), 2),  # stomach wall
    ((34, 24, 10), (22, 15, 20), -38),  # its content, as dark as a lesion
    ((4, 20, 64), (30, 27, 24), 14),  # heart
    ((-36, -36, -34), (15, 13, 24), 62),  # right kidney
    ((36, -36, -28), (15, 13, 24), 62),  # left kidney
    ((-16, 26, -16), (9, 9, 13), -75),  # gall bladder
    ((10, 36, -42), (26, 15, 14), -58),  # bowel
    ((-30, 32, -52), (20, 16, 16), -52),
    ((38, 14, -46), (17, 20, 20), -55),
    ((4, 12, -40), (20, 12, 22), -40),
)
_GAS = (((34, 38, 12), (13, 5, 12)), ((14, 45, -42), (16, 5, 8)), ((-30, 42, -52), (10, 5, 8)))


@dataclass(frozen=True)
class _Look:
    """Numbers shared by both cases of a pair, so that only the shape of a lesion tells its class."""

    organ_hu: float
    contrast_hu: float
    noise_hu: float
    radii_mm: tuple[float, ...]


def phantom_case(seed: int, index: int) -> tuple[Volume, LabelMap, str]:
    """Make one case; the same arguments always give the same voxels.

    Cases 2n (benign) and 2n + 1 (malignant) share organ brightness, lesion sizes, contrast and noise.

    Args:
        seed: Of the cohort.
        index: Of the case, from 0.

    Returns:
        Image (1, I, J, K) int16 HU; labels (I, J, K) uint8, 1 organ, 2 lesion; the class of the lesions.
    """
    look = _draw_look(np.random.default_rng([seed, index // 2, 1]))
    rng = np.random.default_rng([seed, index, 2])
    kind = CLASS_NAMES[index % 2]
    geometry, centre_mm = _draw_grid(rng)
    voxels = np.moveaxis(np.indices(geometry.shape, dtype=np.float32), 0, -1)
    points = np.moveaxis((geometry.to_world(voxels) - centre_mm) * _RAS_TO_BODY, -1, 0).astype(np.float32)
    body = _Body(warp(points, rng, amplitude_mm=5.0, wavelength_mm=90.0), max(geometry.spacing_mm))
    _paint_wall(body, rng)
    organ = _paint_organs(body, rng, look)
    lesion = _paint_lesions(body, points, organ, rng, look, spiculated=kind == "malignant")
    labels = np.where(lesion > 0.5, 2, organ < 0).astype(np.uint8)
    image = _scan(body.hu, geometry, rng, look.noise_hu)
    return Volume(image[None], geometry), LabelMap(labels, geometry), kind


class _Body:
    """The picture being painted: HU without noise, and where its voxels lie."""

    def __init__(self, points: Field, softness_mm: float) -> None:
        self.points = points
        self.softness_mm = np.float32(softness_mm)
        self.hu: Field = np.full(points.shape[1:], -1000, dtype=np.float32)

    def paint(self, distance: Field, value: float) -> None:
        """Blend `value` into what lies inside, with partial volume over one voxel at the border."""
        self.hu += self.coverage(distance) * (np.float32(value) - self.hu)

    def coverage(self, distance: Field) -> Field:
        return np.asarray(np.clip(np.float32(0.5) - distance / self.softness_mm, 0, 1))


def _draw_look(rng: np.random.Generator) -> _Look:
    num_more = int(rng.integers(0, 3))
    radii = (rng.uniform(9.5, 13.0), *rng.uniform(6.0, 8.0, size=num_more))
    return _Look(
        organ_hu=rng.uniform(90, 120),
        contrast_hu=rng.uniform(25, 50),
        noise_hu=rng.uniform(9, 15),
        radii_mm=tuple(float(radius) for radius in radii),
    )


def _draw_grid(rng: np.random.Generator) -> tuple[Geometry, NDArray[np.float64]]:
    """An oblique, anisotropic grid off the origin, and the body's centre in it (RAS mm)."""
    codes = _AXIS_CODES[int(rng.integers(len(_AXIS_CODES)))]
    in_plane = rng.uniform(1.8, 2.2)
    spacing = np.array([in_plane, in_plane, rng.uniform(2.6, 4.0)])
    size_i, size_j, size_k = (int(size) for size in np.round(np.asarray(_FIELD_OF_VIEW_MM) / spacing))
    signs = np.array([1.0 if code in "RAS" else -1.0 for code in codes])
    direction = _small_rotation(rng) @ np.diag(signs)
    centre_mm = np.array([rng.uniform(-10, 10), rng.uniform(-120, 120), rng.uniform(-400, 200)])
    middle = (np.array([size_i, size_j, size_k]) - 1) / 2
    origin_mm = centre_mm + rng.uniform(-3, 3, size=3) - direction @ (spacing * middle)
    return Geometry.from_parts((size_i, size_j, size_k), spacing, direction, origin_mm), centre_mm


def _small_rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """(3, 3) by Rodrigues' formula: up to 12 degrees about a random axis."""
    x, y, z = (axis := rng.normal(size=3)) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(rng.uniform(2, 12))
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _paint_wall(body: _Body, rng: np.random.Generator) -> None:
    """Skin, fat, muscle, ribs, spine and lung bases."""
    fat_mm = rng.uniform(5, 10)
    half = np.array([88.0, 68.0, np.inf])
    skin = ellipsoid(body.points, (0, 0, 0), half)
    muscle = ellipsoid(body.points, (0, 2, 0), half - fat_mm)
    cavity = muscle + np.float32(7)
    body.paint(skin, 10)
    body.paint(skin + np.float32(2), -105)
    body.paint(muscle, 55)
    height = body.points[2] + np.float32(0.35) * body.points[1]
    between = np.abs(np.mod(height + np.float32(rng.uniform(0, 24)), 24) - 12) - np.float32(3.5)
    front = body.points[1] - np.float32(38)
    body.paint(np.maximum.reduce([np.abs(muscle + np.float32(3)) - np.float32(2.5), between, front]), 420)
    body.paint(cavity, -95)
    for side in (-1, 1):
        body.paint(ellipsoid(body.points, (side * 24, -46, 0), (19, 14, np.inf)), 58)
        lung = ellipsoid(body.points, (side * 44, -6, 76), (36, 48, 40))
        body.paint(np.maximum(lung, cavity), -840)
    _paint_spine(body, rng)


def _paint_spine(body: _Body, rng: np.random.Generator) -> None:
    vertebra = ellipsoid(body.points, (0, -34, 0), (15, 12, np.inf))
    disc = np.float32(3) - np.abs(np.mod(body.points[2] + np.float32(rng.uniform(0, 22)), 22) - 11)
    marrow = rng.uniform(150, 210)
    body.paint(tube(body.points, (-20, -48, 0), (20, -48, 0), 3.5), 330)
    body.paint(ellipsoid(body.points, (0, -56, 0), (4, 12, np.inf)), 380)
    body.paint(vertebra, 380)
    body.paint(np.maximum(vertebra + np.float32(3), np.float32(2) - disc), marrow)
    body.paint(np.maximum(vertebra, disc * np.float32(-1) + np.float32(0.5)), 95)
    body.paint(ellipsoid(body.points, (0, -49, 0), (6, 5, np.inf)), 30)


def _paint_organs(body: _Body, rng: np.random.Generator, look: _Look) -> Field:
    """Everything soft; returns the distance to the labelled organ's surface."""
    enhanced = look.organ_hu + rng.uniform(25, 70)
    for centre, radii, relative_hu in _NEIGHBOURS:
        moved = np.asarray(centre) + rng.uniform(-4, 4, size=3)
        sized = np.asarray(radii) * rng.uniform(0.9, 1.12, size=3)
        body.paint(ellipsoid(body.points, moved, sized), look.organ_hu + relative_hu + rng.uniform(-7, 7))
    for centre, radii in _GAS:
        body.paint(ellipsoid(body.points, np.asarray(centre) + rng.uniform(-3, 3, size=3), radii), -900)
    body.paint(tube(body.points, (7, -17, -200), (7, -17, 200), 6), enhanced)
    body.paint(tube(body.points, (-9, -15, -200), (-9, -15, 200), 7), enhanced - 20)
    sizes = rng.uniform(0.92, 1.08, size=6)
    right = ellipsoid(body.points, (-42, 0, 6), np.array([36, 46, 46]) * sizes[:3])
    left = ellipsoid(body.points, (-4, 24, 20), np.array([36, 18, 24]) * sizes[3:])
    organ = np.maximum(join(right, left, 16), -ellipsoid(body.points, (-16, 27, -18), (11, 11, 16)))
    # Nothing of the organ may leave the muscle wall or cover the great vessels.
    organ = np.maximum(organ, ellipsoid(body.points, (0, 2, 0), (72, 53, np.inf)))
    organ = np.maximum(organ, -tube(body.points, (-9, -15, -200), (-9, -15, 200), 9))
    body.paint(organ, look.organ_hu)
    for _ in range(5):
        start = np.array([-20, 4, 2]) + rng.normal(scale=4, size=3)
        stop = np.array([-42, 4, 8]) + rng.uniform(-34, 34, size=3)
        branch = tube(body.points, start, stop, rng.uniform(1.6, 2.8))
        body.paint(np.maximum(branch, organ + np.float32(3)), look.organ_hu + (enhanced - look.organ_hu) * 0.6)
    return organ


def _paint_lesions(
    body: _Body, points: Field, organ: Field, rng: np.random.Generator, look: _Look, *, spiculated: bool
) -> Field:
    """Darken the lesions; returns how much of each voxel is lesion, 0 to 1."""
    covered = np.zeros_like(organ)
    nearest = np.full_like(organ, np.inf)
    for radius in look.radii_mm:
        room = np.minimum(-organ, nearest - np.float32(_REACH * look.radii_mm[0]))
        places = np.argwhere(room >= min(_REACH * radius, room.max()))
        centre = points[(slice(None), *places[rng.integers(len(places))])]
        star = draw_star(rng, radius, spiculated=spiculated)
        away = np.sqrt(((points - centre.reshape(3, 1, 1, 1)) ** 2).sum(axis=0))
        nearest = np.minimum(nearest, away)
        around = away < 3 * radius
        distance = star.distance(points[:, around] - centre.reshape(3, 1))
        covered[around] = np.maximum(covered[around], body.coverage(distance))
    covered *= body.coverage(organ)
    # Spicules lose more of their darkness to partial volume; depth makes up for it, so that brightness tells nothing.
    body.hu -= covered * np.float32(look.contrast_hu / covered[covered > 0.5].mean())
    return covered


def _scan(hu: Field, geometry: Geometry, rng: np.random.Generator, noise_hu: float) -> NDArray[np.int16]:
    """Correlated noise and a smooth bias, as int16."""
    grain = 1.1 / np.asarray(geometry.spacing_mm) + 0.15
    noise = ndimage.gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), grain)
    noise *= np.float32(noise_hu / noise.std())
    across = [np.linspace(-1, 1, size, dtype=np.float32) for size in hu.shape]
    i, j, k = np.meshgrid(*across, indexing="ij", sparse=True)
    tilt = rng.uniform(-5, 5, size=4).astype(np.float32)
    bias = tilt[0] * i + tilt[1] * j + tilt[2] * k + tilt[3] * (i * i + j * j)
    return np.asarray(np.clip(np.rint(hu + noise + bias), -1024, 3071), dtype=np.int16)
