"""Several examinations in one plane: each is sampled where the baseline's slice lies in it, lesions outlined by id.

Only the slices that are shown are sampled. Outlines and ids stay vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.followup import TrackedLesion
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.ops.alignment import Alignment, Points
from medseg.report.outlines import UNITS_PER_VOXEL, Outline, outline_path
from medseg.report.pictures import Picture
from medseg.report.planes import PLANES, Plane, source_slice
from medseg.report.windows import Window, windows_for

_MARGIN_MM = 25.0
_NUM_SQUARES = 8
_MOST_ROWS = 8
_DULL = ("stable", "merged")


@dataclass(frozen=True, eq=False)
class Shown:
    """One examination as it is drawn.

    Attributes:
        title: Name and date.
        volume: The image; its first channel is shown.
        numbers: Each lesion's number, on the image's grid.
        alignment: From the baseline to here.
        unit: Of the image.
    """

    title: str
    volume: Volume
    numbers: LabelMap
    alignment: Alignment
    unit: str = ""

    def window(self) -> Window:
        inside = self.volume.array[0][self.numbers.array > 0]
        modality = "CT" if self.unit == "HU" else "other" if self.unit else None
        return windows_for(self.volume.array[0], inside, modality=modality)[0]


@dataclass(frozen=True)
class Mark:
    """Where a lesion's id is written, in units of the picture."""

    id: str
    x: float
    y: float


@dataclass(frozen=True)
class DatedPicture:
    """One examination in the plane of a row."""

    picture: Picture
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class PictureRow:
    """All examinations in one plane."""

    title: str
    pictures: tuple[DatedPicture, ...]


@dataclass(frozen=True)
class _View:
    """A rectangle of one canonical slice of the baseline: `low` and `high` bound its canonical indices."""

    plane: Plane
    low: tuple[int, int, int]
    high: tuple[int, int, int]

    def points_mm(self, canonical: Geometry) -> Points:
        """(rows, columns, 3) as displayed, row by row."""
        across, down = self.plane.across
        axes = [np.arange(low, high) for low, high in zip(self.low, self.high, strict=True)]
        rows, columns = axes[down][::-1], axes[across][::-1]
        index = np.empty((len(rows), len(columns), 3))
        index[..., self.plane.axis] = self.low[self.plane.axis]
        index[..., across] = columns[np.newaxis]
        index[..., down] = rows[:, np.newaxis]
        return canonical.to_world(index)


@dataclass(frozen=True)
class FollowUpPictures:
    """What the page shows.

    Attributes:
        overview: The slice that meets the most lesions.
        lesions: One row per lesion, those that changed first.
        left_out: Ids of lesions without a row.
        checks: Checkerboards of the baseline and each later examination, by its title.
    """

    overview: PictureRow
    lesions: tuple[PictureRow, ...]
    left_out: tuple[str, ...]
    checks: dict[str, tuple[Picture, ...]]


def followup_pictures(
    shown: Sequence[Shown], places: Mapping[int, Points], lesions: Sequence[TrackedLesion]
) -> FollowUpPictures:
    """Draw all examinations.

    Args:
        shown: Baseline first.
        places: Number of each lesion to its points in the baseline's space, over all examinations.
        lesions: As they are at the last examination.
    """
    names = {lesion.number: lesion.id for lesion in lesions}
    order = sorted(lesions, key=lambda one: (one.state in _DULL, -len(places[one.number]), one.number))
    wanted = [one.number for one in order[:_MOST_ROWS]]
    return FollowUpPictures(
        _overview(shown, places, names),
        _lesion_rows(shown, places, names, numbers=wanted),
        tuple(one.id for one in order[_MOST_ROWS:]),
        {one.title: _checkerboards(shown[0], one) for one in shown[1:]},
    )


def _overview(shown: Sequence[Shown], places: Mapping[int, Points], names: Mapping[int, str]) -> PictureRow:
    """The whole axial slice that meets the most lesions.

    Args:
        shown: Baseline first.
        places: Number of each lesion to its points in the baseline's space, at any examination.
        names: Number to id.
    """
    canonical = shown[0].volume.geometry.canonical()
    axial = PLANES[0]
    depth = canonical.shape[axial.axis]
    met = np.zeros(depth)
    for points in places.values():
        slices = np.rint(canonical.to_index(points)[:, axial.axis]).astype(int)
        counts = np.bincount(slices[(slices >= 0) & (slices < depth)], minlength=depth)
        met += counts / max(1, counts.max())
    at = int(np.median(np.flatnonzero(met == met.max()))) if met.any() else depth // 2
    i, j, _ = canonical.shape
    return _row("Whole slice", shown, _View(axial, (0, 0, at), (i, j, at + 1)), names)


def _lesion_rows(
    shown: Sequence[Shown], places: Mapping[int, Points], names: Mapping[int, str], *, numbers: Sequence[int]
) -> tuple[PictureRow, ...]:
    """A closer row for each lesion of `numbers`, at the slice that holds most of it over all examinations."""
    canonical = shown[0].volume.geometry.canonical()
    rows = []
    for number in numbers:
        index = np.rint(canonical.to_index(places[number])).astype(int)
        axial = PLANES[0]
        at = int(np.clip(np.bincount(np.maximum(index[:, axial.axis], 0)).argmax(), 0, canonical.shape[axial.axis] - 1))
        pads = [int(np.ceil(_MARGIN_MM / spacing)) for spacing in canonical.spacing_mm]
        low = [int(np.clip(index[:, n].min() - pads[n], 0, canonical.shape[n] - 1)) for n in range(3)]
        high = [int(np.clip(index[:, n].max() + pads[n] + 1, 1, canonical.shape[n])) for n in range(3)]
        low[axial.axis], high[axial.axis] = at, at + 1
        view = _View(axial, (low[0], low[1], low[2]), (high[0], high[1], high[2]))
        rows.append(_row(names[number], shown, view, names))
    return tuple(rows)


def _checkerboards(baseline: Shown, later: Shown) -> tuple[Picture, ...]:
    """Squares of the baseline and of the aligned later examination in turn, in three planes through the middle."""
    geometry = baseline.volume.geometry
    canonical = geometry.canonical()
    windows = baseline.window(), later.window()
    pictures = []
    for plane in PLANES:
        if min(canonical.shape[axis] for axis in plane.across) < 2:
            continue
        at = canonical.shape[plane.axis] // 2
        low, high = [0, 0, 0], list(canonical.shape)
        low[plane.axis], high[plane.axis] = at, at + 1
        view = _View(plane, (low[0], low[1], low[2]), (high[0], high[1], high[2]))
        points = view.points_mm(canonical)
        greys = [
            (_sampled(one, points) - window.low) / max(window.high - window.low, 1e-9)
            for one, window in zip((baseline, later), windows, strict=True)
        ]
        size_mm = _size_mm(canonical, plane, points.shape)
        edge = max(size_mm) / _NUM_SQUARES
        steps = [np.arange(n) * mm // edge for n, mm in zip(points.shape[:2], _pixel_mm(canonical, plane), strict=True)]
        mixed = np.where((steps[0][:, np.newaxis] + steps[1]) % 2 == 0, *greys)
        window = Window("", 0.0, 1.0)
        title = f"{plane.name.capitalize()}, slice {source_slice(geometry, plane, at)} of the baseline"
        pictures.append(
            _picture(title, plane, mixed, window, size_mm, f"Squares of both examinations in turn. {title}")
        )
    return tuple(pictures)


def _row(title: str, shown: Sequence[Shown], view: _View, names: Mapping[int, str]) -> PictureRow:
    geometry = shown[0].volume.geometry
    canonical = geometry.canonical()
    points = view.points_mm(canonical)
    size_mm = _size_mm(canonical, view.plane, points.shape)
    place = f"{view.plane.name}, slice {source_slice(geometry, view.plane, view.low[view.plane.axis])} of the baseline"
    pictures = []
    for one in shown:
        mask = one.alignment.sample(one.numbers, points.reshape(-1, 3)).reshape(points.shape[:2])
        outlines, marks = [], []
        for number in (int(value) for value in np.unique(mask) if value):
            inside = mask == number
            outlines.append(Outline(names[number], number - 1, outline_path(inside)))
            row, column = ndimage.center_of_mass(inside)
            top = float(np.flatnonzero(inside.any(axis=1))[0])
            marks.append(
                Mark(names[number], (float(column) + 0.5) * UNITS_PER_VOXEL, min(top, float(row)) * UNITS_PER_VOXEL)
            )
        seen = ", ".join(mark.id for mark in marks) or "no lesion"
        grey = _sampled(one, points)
        alt = f"{one.title}, {place}: {seen} outlined"
        picture = _picture(one.title, view.plane, grey, one.window(), size_mm, alt, tuple(outlines))
        pictures.append(DatedPicture(picture, tuple(marks)))
    return PictureRow(f"{title}: {place}", tuple(pictures))


def _picture(
    title: str,
    plane: Plane,
    grey: NDArray[Any],
    window: Window,
    size_mm: tuple[float, float],
    alt: str,
    outlines: tuple[Outline, ...] = (),
) -> Picture:
    png = window.png(grey, size_mm)
    rows, columns = grey.shape
    return Picture(
        title=title,
        alt=alt,
        png=png,
        purpose="extent",
        edges=plane.edges,
        size_mm=size_mm,
        size_voxels=(columns, rows),
        windows=((window, png),),
        prediction=outlines,
    )


def _sampled(one: Shown, points: Points) -> NDArray[np.float64]:
    """Grey values at (rows, columns, 3); black where the examination shows nothing."""
    values = one.alignment.sample(one.volume, points.reshape(-1, 3), outside=float(one.volume.array[0].min()))
    return np.asarray(values.reshape(points.shape[:2]), dtype=np.float64)


def _pixel_mm(canonical: Geometry, plane: Plane) -> tuple[float, float]:
    """Height and width of a pixel."""
    across, down = plane.across
    return canonical.spacing_mm[down], canonical.spacing_mm[across]


def _size_mm(canonical: Geometry, plane: Plane, shape: tuple[int, ...]) -> tuple[float, float]:
    """Width and height of a picture."""
    high, wide = _pixel_mm(canonical, plane)
    return shape[1] * wide, shape[0] * high
