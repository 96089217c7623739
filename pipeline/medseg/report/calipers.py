"""Pictures of lesions with their calipers: the axial slice of the long axis, whole and close."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry
from medseg.core.measurements import Caliper, Measurement
from medseg.core.volume import LabelMap, Volume
from medseg.report.outlines import UNITS_PER_VOXEL, Outline, outline_path
from medseg.report.pictures import Picture
from medseg.report.planes import PLANES, WHOLE, Box, canonical_view, closer_box, cut, source_slice, tilt_degrees
from medseg.report.windows import Window, windows_for

_AXIAL = PLANES[0]
_MOST_LESIONS = 24
_TICK_SHARE = 0.02
_TILT_WORTH_SAYING_DEGREES = 3.0
_BLANK = Window("no image", 0.0, 1.0)


@dataclass(frozen=True)
class DrawnLesion:
    """One lesion: the slice in which its long axis lies.

    Attributes:
        overview: The whole slice.
        closer: The lesion and its surroundings.
        calipers: SVG path data of the long and the short axis, in the units of the outlines, for both pictures.
    """

    overview: Picture
    closer: Picture
    calipers: dict[str, tuple[str, str]]


@dataclass(frozen=True, eq=False)
class _Scene:
    """Arrays in canonical order; `image` is black where there is none."""

    geometry: Geometry
    canonical: Geometry
    labels: Mapping[str, int]
    mask: NDArray[Any]
    image: NDArray[Any]
    modality: str | None


def draw_lesions(
    measurements: Sequence[Measurement],
    mask: LabelMap,
    *,
    labels: Mapping[str, int],
    image: Volume | None = None,
    unit: str = "",
) -> dict[str, DrawnLesion]:
    """Draw the first 24 lesions by id; organs have no calipers to draw.

    Args:
        measurements: Of the mask.
        mask: On whose grid all is drawn.
        labels: Name to value.
        image: On the mask's grid; outlines are drawn on black without one.
        unit: Of the image; HU chooses a CT window.
    """
    grey = np.zeros(mask.geometry.shape, np.uint8) if image is None else image.array[0]
    scene = _Scene(
        mask.geometry,
        mask.geometry.canonical(),
        labels,
        canonical_view(mask.array, mask.geometry),
        canonical_view(grey, mask.geometry),
        None if image is None else "CT" if unit == "HU" else "other",
    )
    measured = [one for one in measurements if one.long_axis is not None and one.short_axis is not None]
    return {one.id: _drawn(scene, one) for one in measured[:_MOST_LESIONS]}


def _drawn(scene: _Scene, lesion: Measurement) -> DrawnLesion:
    calipers = [axis for axis in (lesion.long_axis, lesion.short_axis) if axis is not None]
    ends = scene.canonical.to_index([axis.ends_mm for axis in calipers])
    index = round(float(ends[0, 0, 2]))
    low = np.clip(np.floor(ends.min(axis=(0, 1))).astype(int), 0, None)
    high = np.minimum(np.ceil(ends.max(axis=(0, 1))).astype(int) + 1, scene.mask.shape)
    i, j, k = (slice(int(start), max(int(stop), int(start) + 1)) for start, stop in zip(low, high, strict=True))
    closer = closer_box((i, j, k), scene.mask.shape, scene.canonical.spacing_mm)
    # The surroundings choose, so that a nodule is shown in the lung window in which its border is seen.
    window = (
        _BLANK if scene.modality is None else windows_for(scene.image, scene.image[closer], modality=scene.modality)[0]
    )
    pictures = {
        name: _picture(scene, lesion, index, box, window) for name, box in (("overview", WHOLE), ("closer", closer))
    }
    paths = {
        name: (_line(scene, calipers[0], box), _line(scene, calipers[1], box))
        for name, box in (("overview", WHOLE), ("closer", closer))
    }
    return DrawnLesion(pictures["overview"], pictures["closer"], paths)


def _picture(scene: _Scene, lesion: Measurement, index: int, box: Box, window: Window) -> Picture:
    grey, mask = cut(scene.image, _AXIAL, index, box), cut(scene.mask, _AXIAL, index, box)
    rows, columns = mask.shape
    column_mm, row_mm, _ = scene.canonical.spacing_mm
    size_mm = (columns * column_mm, rows * row_mm)
    tilt = tilt_degrees(scene.geometry, _AXIAL)
    tilted = f", tilted {tilt:.0f}°" if tilt >= _TILT_WORTH_SAYING_DEGREES else ""
    title = f"Axial{tilted}, slice {source_slice(scene.geometry, _AXIAL, index)}"
    png = window.png(grey, size_mm)
    shown = [name for name in (lesion.label, lesion.organ) if name is not None]
    paths = (outline_path(mask == scene.labels[name], voxels=True) for name in shown)
    outlines = (Outline(name, colour, path) for colour, (name, path) in enumerate(zip(shown, paths, strict=True)))
    return Picture(
        title=title,
        alt=f"{title}: outline of {lesion.id} with its long and short axis. R is at the left edge, L right, A top.",
        png=png,
        purpose="extent",
        edges=_AXIAL.edges,
        size_mm=size_mm,
        size_voxels=(columns, rows),
        windows=((window, png),),
        prediction=tuple(outlines),
    )


def _line(scene: _Scene, caliper: Caliper, box: Box) -> str:
    """The line with a tick across either end, as displayed: rows and columns run against R and A."""
    stops = [scene.mask.shape[axis] if box[axis].stop is None else box[axis].stop for axis in _AXIAL.across]
    starts = [box[axis].start or 0 for axis in _AXIAL.across]
    spacing = np.array(scene.canonical.spacing_mm)[list(_AXIAL.across)]
    ends = scene.canonical.to_index(caliper.ends_mm)[:, list(_AXIAL.across)]
    points = np.array(stops) - 0.5 - ends
    along = (points[1] - points[0]) * spacing / caliper.length_mm
    longest_mm = float(max((np.array(stops) - starts) * spacing))
    tick = np.array([-along[1], along[0]]) * longest_mm * _TICK_SHARE / spacing
    pieces = [points, *([point - tick, point + tick] for point in points)]
    return "".join(
        f"M{start[0]:.2f} {start[1]:.2f}L{stop[0]:.2f} {stop[1]:.2f}"
        for start, stop in np.array(pieces) * UNITS_PER_VOXEL
    )
