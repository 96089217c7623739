"""What is wrong with a file and can be put right without guessing; everything else stays refused.

Limits, so that no repair moves anything by more than the file itself leaves open:

- axes are straightened when no corner moves by more than half of the shortest voxel edge;
- a mask of the image's shape takes the image's grid when no corner lies more than 0.1 voxel from it;
- a mask of another shape is resampled (nearest neighbour) when all its labels lie inside the image and none vanishes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from medseg.core.doctor import Change
from medseg.core.errors import MedsegError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.data.regrid import onto_grid
from medseg.io.examine import Examined, other_transform

HALF_A_VOXEL = 0.5
_SPACING_SHARE = 0.01
_SERIES = {"E-SERIES-GAP", "E-SERIES-SPACING", "E-GEOM-SHEAR"}
_REWRITTEN: Mapping[str, tuple[str, str, float | None]] = {
    "W-UNITS": ("the header counts in metres or micrometres", "millimetres", 0.0),
    "W-EXT": ("the name says another format than the content", "named as what it is", 0.0),
    "W-HDR": ("a field of the header is wrong", "header written anew", 0.0),
    "W-EXTENSION": ("a header extension larger than its room", "header written anew", 0.0),
    "W-TRAILING": ("bytes after the voxels", "left out", 0.0),
    "W-SCALE": ("a scaling that is no number or zero", "values as stored, header written anew", 0.0),
    "W-LABEL-FLOAT": ("floating-point numbers", "whole numbers", 0.0),
    "W-ORIENTATION-ASSUMED": ("no orientation", "axes R, A, S from the first voxel, as allowed", None),
    "W-GAPS-FILLED": ("slices missing or at uneven places", "resampled onto an even grid, as allowed", None),
    "W-TILT-STRAIGHTENED": ("slices of a tilted gantry", "resampled onto a straight grid, as allowed", None),
}


@dataclass(frozen=True, eq=False)
class Cured:
    """A file as it should be.

    Attributes:
        content: What to use, and to write when there are `changes`; None when something was `refused`.
        changes: What differs from the file.
        refused: The faults that stay.
    """

    content: Volume | LabelMap | None
    changes: tuple[Change, ...]
    refused: tuple[MedsegError, ...]

    @property
    def mended(self) -> set[str]:
        return {change.code for change in self.changes}


def cure_image(found: Examined) -> Cured:
    """An image as far as it can be put right: the grid and the header, never a voxel's value."""
    changes, refused = _cure_file(found)
    if refused or found.content is None or found.geometry is None:
        return Cured(None, changes, refused)
    return Cured(replace(found.content, geometry=found.geometry, warnings=found.warnings), changes, refused)


def cure_label(found: Examined, image: Geometry | None) -> Cured:
    """A mask as far as it can be put right and onto the image's grid.

    Args:
        found: The mask.
        image: Grid of the image as cured; None when that is not known, and the mask's place cannot be judged.
    """
    changes, refused = _cure_file(found)
    if refused:
        return Cured(None, changes, refused)
    labels = found.labels()
    if image is None or image.agrees_with(labels.geometry):
        return Cured(labels, changes, ())
    if "W-ORIENTATION-ASSUMED" in found.warnings and _is_alike(labels.geometry, image):
        there = Change(code="W-ORIENTATION-ASSUMED", was="no orientation", now="the grid of its image, as allowed")
        others = tuple(change for change in changes if change.code != there.code)
        return Cured(replace(labels, geometry=image), (*others, there), ())
    try:
        fitted, change = onto_grid(labels, image)
    except MedsegError as error:
        return Cured(None, changes, (error,))
    return Cured(fitted, (*changes, change), ())


def _is_alike(grid: Geometry, other: Geometry) -> bool:
    """Whether nothing but its place tells two grids apart."""
    return grid.shape == other.shape and np.allclose(grid.spacing_mm, other.spacing_mm, rtol=_SPACING_SHARE)


def _cure_file(found: Examined) -> tuple[tuple[Change, ...], tuple[MedsegError, ...]]:
    changes, refused = [], []
    for fault in found.faults:
        change = _straightened(found, fault)
        if change is None:
            refused.append(fault)
        else:
            changes.append(change)
    for flag in found.warnings:
        if flag in {"W-GEOM-SFORM", "W-GEOM-QFORM"}:
            changes.append(_believed(found, flag))
        elif flag in _REWRITTEN:
            was, now, displacement_mm = _REWRITTEN[flag]
            changes.append(Change(code=flag, was=was, now=now, max_displacement_mm=displacement_mm))
    return tuple(changes), tuple(refused)


def _straightened(found: Examined, fault: MedsegError) -> Change | None:
    if fault.code not in _SERIES or found.geometry is None:
        return None
    if found.reading.fix_geometry and found.moved_mm == 0:
        return Change(code=fault.code, was=fault.message, now="resampled onto a straight, even grid")
    limit_mm = HALF_A_VOXEL * min(found.geometry.spacing_mm)
    if fault.code != "E-GEOM-SHEAR" or found.moved_mm > limit_mm:
        return None
    return Change(
        code=fault.code,
        was=fault.message,
        now=f"nearest right-angled grid (polar decomposition); a corner may move by up to {limit_mm:.2f} mm",
        max_displacement_mm=found.moved_mm,
    )


def _believed(found: Examined, flag: str) -> Change:
    name = flag.removeprefix("W-GEOM-").lower()
    other = other_transform(found)
    apart_mm = None if other is None or found.geometry is None else other.deviation_mm(found.geometry)
    return Change(
        code=flag,
        was="sform, qform and pixdim contradict each other",
        now=f"the {name} in all of them, as allowed",
        max_displacement_mm=apart_mm,
    )
