"""Where the face of a head scan lies: the scan is laid over a head made of ellipsoids, or refused.

What is cut away is in front of a surface of that head, and never brain: not what the laid-over head calls brain with a
margin, and beside the frontal lobes only the skin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.errors import GeometryError
from medseg.core.followup import RegistrationQuality
from medseg.core.geometry import Affine, Geometry
from medseg.core.volume import Volume
from medseg.ops.alignment import covers
from medseg.ops.alignment_quality import Reduced, reduce
from medseg.ops.head import FRONTAL_BASE_MM, head_template, in_brain, in_face, in_head
from medseg.ops.register import register

Points = NDArray[np.float64]

_HEAD_AND_NECK_MM, _UPPER_HEAD_MM = 260.0, 100.0
_LEAST_SLICE_MM2 = 2000.0
_SCALES = (0.75, 1.3)
_SKIN_MM = 8.0
_BATCH = 1 << 20
# Real heads (FLAIR, T1) reach .27 to .37 and .75 to .84; trunks, necks and bare brains .01 to .12 and up to .65.
_LEAST_INFORMATION, _LEAST_BODY_DICE = 0.2, 0.65
_LEAST_BRAIN_SEEN = 0.6
_LEAST_FACE_SEEN = 0.05
_REMEDY = "Only scans that show brain and face can be defaced; leave --deface out for others, or use another tool."


@dataclass(frozen=True, eq=False)
class FaceCut:
    """The face of one head.

    Attributes:
        matrix: (4, 4), RAS+ mm of the scan to those of the head made of ellipsoids.
        depth_mm: How deep under the skin each voxel of `geometry` lies; 0 outside.
        air: What the scan's values are outside the patient.
        quality: Of the alignment.
        ears: Whether they are cut too.
    """

    matrix: Affine
    depth_mm: NDArray[np.float32]
    geometry: Geometry
    air: float
    quality: RegistrationQuality
    ears: bool

    def holds(self, points_mm: Points) -> NDArray[np.bool_]:
        """Whether each of (..., 3) RAS+ mm is to be cut away."""
        flat = points_mm.reshape(-1, 3)
        found = [self._holds(flat[start : start + _BATCH]) for start in range(0, len(flat), _BATCH)]
        return np.concatenate(found).reshape(points_mm.shape[:-1]) if found else np.zeros(0, np.bool_)

    def removed_from(self, volume: Volume) -> Volume:
        """The image without the face, on any grid in the same place; what was there is air."""
        mask = self.mask(volume.geometry)
        array = volume.array.copy()
        array[:, mask] = np.asarray(self.air).astype(array.dtype)
        return replace(volume, array=array)

    def mask(self, geometry: Geometry) -> NDArray[np.bool_]:
        """(I, J, K) what is cut away, slab by slab."""
        i, j, k = geometry.shape
        plane = np.stack(np.meshgrid(np.arange(j), np.arange(k), indexing="ij"), axis=-1)
        slabs = []
        for row in range(i):
            index = np.concatenate([np.full((j, k, 1), row), plane], axis=-1)
            slabs.append(self.holds(geometry.to_world(index)))
        return np.stack(slabs)

    def _holds(self, points_mm: Points) -> NDArray[np.bool_]:
        there = points_mm @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        found = in_face(there, ears=self.ears)
        beside_brain = np.flatnonzero(found & (there[:, 2] > FRONTAL_BASE_MM))
        index = self.geometry.to_index(points_mm[beside_brain]).T
        depth_mm = ndimage.map_coordinates(self.depth_mm, index, order=1, mode="nearest")
        found[beside_brain] = depth_mm < _SKIN_MM
        return found


def find_face(volume: Volume, *, ears: bool = False) -> FaceCut:
    """Lay a head scan over the head made of ellipsoids; its first channel is looked at.

    Raises:
        GeometryError: `E-DEFACE` when it cannot be told for sure where the face lies.
    """
    seen = reduce(_canonical(volume))
    crown = _crown(seen)
    if seen.body.all() or not crown:
        raise _refusal("no outline of a head can be seen in it", volume)
    head = _uppermost(seen, crown)
    placed = _over_template(head, volume)
    try:
        geometry = Geometry(head.geometry.shape, placed @ head.geometry.affine)
        found = register(Volume(head.array[np.newaxis], geometry), head_template())
    except GeometryError as error:
        raise _refusal(f"it cannot be laid over a head: {error.message}", volume) from None
    reached = found.quality.after
    if reached.mutual_information < _LEAST_INFORMATION or reached.body_dice < _LEAST_BODY_DICE:
        message = (
            f"it does not look like a head: mutual information {reached.mutual_information:.2f} and overlap "
            f"{reached.body_dice:.2f}, needed are {_LEAST_INFORMATION} and {_LEAST_BODY_DICE}"
        )
        raise _refusal(message, volume)
    depth_mm = ndimage.distance_transform_edt(seen.body, sampling=seen.geometry.spacing_mm).astype(np.float32)
    air = float(np.median(seen.array[~seen.body]))
    cut = FaceCut(found.alignment.matrix @ placed, depth_mm, seen.geometry, air, found.quality, ears)
    _require_whole(cut, seen, volume)
    return cut


def _canonical(volume: Volume) -> Volume:
    """The first channel in RAS+ order: the answer is the same in whatever order the voxels are stored."""
    order, flips = volume.geometry.canonical_axes()
    array = np.flip(volume.array[0].transpose(order), flips)
    return Volume(np.ascontiguousarray(array)[np.newaxis], volume.geometry.canonical(), volume.source)


def _crown(seen: Reduced) -> int:
    """The first slice above the head; 0 where there is no large slice at all."""
    step_mm = seen.geometry.spacing_mm
    area_mm2 = seen.body.sum(axis=(0, 1)) * step_mm[0] * step_mm[1]
    large = np.flatnonzero(area_mm2 > _LEAST_SLICE_MM2)
    return int(large[-1]) + 1 if large.size else 0


def _uppermost(seen: Reduced, crown: int) -> Reduced:
    """The patient from the crown down to 26 cm below it, and the air above."""
    low = max(0, crown - round(_HEAD_AND_NECK_MM / seen.geometry.spacing_mm[2]))
    geometry = seen.geometry.cropped((0, 0, low), seen.geometry.shape)
    return Reduced(seen.array[:, :, low:], seen.body[:, :, low:], geometry)


def _over_template(head: Reduced, volume: Volume) -> Affine:
    """(4, 4) that lays crown, width and length of a head over those of the one made of ellipsoids.

    Raises:
        GeometryError: `E-DEFACE` for what is much larger or smaller than a head.
    """
    mine, size = _outline(head)
    other, other_size = _outline(reduce(head_template()))
    scale = float(np.sqrt(np.prod(other_size) / np.prod(size)))
    if not _SCALES[0] < scale < _SCALES[1]:
        raise _refusal(f"what it shows is {size[0]:.0f} mm wide and {size[1]:.0f} mm long, which is no head", volume)
    matrix = np.diag([scale, scale, scale, 1.0])
    matrix[:3, 3] = other - scale * mine
    return matrix


def _outline(head: Reduced) -> tuple[Points, Points]:
    """(3,) where the crown is, and (2,) width and length, RAS+ mm, of the upper 10 cm."""
    crown = _crown(head)
    low = max(0, crown - round(_UPPER_HEAD_MM / head.geometry.spacing_mm[2]))
    upper = head.geometry.cropped((0, 0, low), head.geometry.shape)
    points = upper.to_world(np.argwhere(head.body[:, :, low:crown]))
    first, last = np.percentile(points, (1, 99), axis=0)  # a headrest is a small part of the points
    return np.array([*(first + last)[:2] / 2, points[:, 2].max()]), (last - first)[:2]


def _require_whole(cut: FaceCut, seen: Reduced, volume: Volume) -> None:
    """Brain and face must be in the scan, or the alignment hangs in the air.

    Raises:
        GeometryError: `E-DEFACE`.
    """
    template = head_template().geometry
    index = np.stack(np.meshgrid(*(np.arange(0, size, 4) for size in template.shape), indexing="ij"), axis=-1)
    points, back = template.to_world(index).reshape(-1, 3), np.linalg.inv(cut.matrix)
    for name, held, least in (
        ("brain", in_brain(points), _LEAST_BRAIN_SEEN),
        ("face", in_face(points) & in_head(points), _LEAST_FACE_SEEN),
    ):
        share = float(covers(seen.geometry, points[held] @ back[:3, :3].T + back[:3, 3]).mean())
        if share < least:
            raise _refusal(f"only {share:.0%} of the {name} lies in it", volume)


def _refusal(message: str, volume: Volume) -> GeometryError:
    return GeometryError(message, code="E-DEFACE", file=volume.source, remedy=_REMEDY)
