"""Three-plane pictures of a case: the image in grey, and over it outlines and errors as vector paths.

Outlines and error regions stay vectors, so they are crisp at every zoom and on paper; only the image is a bitmap.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry, Vector
from medseg.core.volume import LabelMap, Volume, require_same_grid
from medseg.report.outlines import Outline, Region, RegionKind, outline_path
from medseg.report.planes import (
    PLANES,
    WHOLE,
    Box,
    Plane,
    canonical_view,
    closer_box,
    cut,
    differing_slices,
    foreground_box,
    source_slice,
    telling_slices,
    tilt_degrees,
)
from medseg.report.windows import Window, windows_for

_TILT_WORTH_SAYING_DEGREES = 3.0
Purpose = Literal["extent", "difference"]


@dataclass(frozen=True)
class Picture:
    """One slice in one plane.

    Attributes:
        title: Plane and slice.
        alt: What can be seen, in words.
        png: The image in grey as displayed, in the first of `windows`; outlines are not part of it.
        purpose: Why this slice: it shows most of every label, or most voxels that differ.
        edges: Anatomical letters at the left, right, top and bottom.
        size_mm: Width and height.
        size_voxels: Columns and rows.
        windows: The image as PNG in every window.
    """

    title: str
    alt: str
    png: bytes
    purpose: Purpose
    edges: str
    size_mm: tuple[float, float]
    size_voxels: tuple[int, int]
    windows: tuple[tuple[Window, bytes], ...]
    prediction: tuple[Outline, ...] = ()
    reference: tuple[Outline, ...] = ()
    errors: tuple[Region, ...] = ()

    @property
    def scale_bar_mm(self) -> float:
        """The longest of 1, 2, 5, 10, ... mm that takes at most a quarter of the longer side."""
        room = max(self.size_mm) / 4
        decade = 10.0 ** math.floor(math.log10(room))
        return decade * max(step for step in (1, 2, 5) if decade * step <= room)


@dataclass(frozen=True)
class _Scene:
    """What all pictures of a case share; arrays in canonical order.

    `judged` are the labels among `labels` that the reference was annotated for.
    """

    geometry: Geometry
    spacing_mm: Vector
    labels: dict[str, int]
    judged: dict[str, int]
    image: NDArray[Any]
    prediction: NDArray[Any] | None
    reference: NDArray[Any] | None

    def masks(self, box: Box) -> list[NDArray[Any]]:
        """What is known of the structures inside the box."""
        found = [(self.prediction, self.labels), (self.reference, self.judged)]
        return [_only(mask[box], labels.values()) for mask, labels in found if mask is not None]

    def scored(self, prediction: NDArray[Any], reference: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """A part of both masks without what the reference cannot judge: other labels, and voxels it ignores."""
        ignored = (reference != 0) & (_only(reference, self.labels.values()) == 0)
        judged = self.judged.values()
        return np.where(ignored, 0, _only(prediction, judged)), _only(reference, judged)


def case_pictures(
    image: Volume,
    *,
    prediction: LabelMap | None,
    reference: LabelMap | None,
    labels: dict[str, int],
    window: tuple[float, float] | None = None,
    modality: str | None = None,
    annotated: Collection[str] | None = None,
) -> tuple[Picture, ...]:
    """Axial, coronal and sagittal pictures at the most telling slices, in radiological display.

    Three pictures of the whole field at the slices that show most of every label; with both masks three more, closer,
    at the slices where most voxels differ (none when nothing differs). Planes one voxel thick are left out.

    Args:
        image: Its first channel is shown.
        prediction: On the grid of `image`.
        reference: On the grid of `image`. Where it holds a value that is not in `labels` nothing counts as an error.
        labels: Name to value in both masks; other values are not drawn.
        window: Grey values shown as black and white; chosen from the data when None.
        modality: `CT`, `MRI`, ...; guessed from the values when None.
        annotated: Labels the reference was annotated for; the others cannot be errors. None: all.

    Raises:
        GeometryError: `E-GRID-MISMATCH` when a mask does not lie on the image's grid.
    """
    for mask in (prediction, reference):
        if mask is not None:
            require_same_grid(image, mask)
    scene = _scene(image, prediction, reference, labels, annotated)
    found = [mask for mask in (scene.prediction, scene.reference) if mask is not None]
    box = foreground_box(found, labels.values())
    if box is None:
        windows = _windows(scene, scene.image[:0, 0, 0], window, modality)
        return _pictures(scene, tuple((size - 1) // 2 for size in scene.image.shape), windows=windows)
    masks = scene.masks(box)
    inside = scene.image[box][np.logical_or.reduce([mask != 0 for mask in masks])]
    windows = _windows(scene, inside, window, modality)
    pictures = _pictures(scene, _moved(telling_slices(masks), box), windows=windows)
    if scene.prediction is not None and scene.reference is not None:
        most = differing_slices(*scene.scored(scene.prediction[box], scene.reference[box]))
        if most is not None:
            closer = closer_box(box, scene.image.shape, scene.spacing_mm)
            pictures += _pictures(scene, _moved(most, box), windows=windows, closer=closer)
    return pictures


def slice_pictures(
    image: Volume, mask: LabelMap | None, labels: dict[str, int], *, slices: tuple[int, int, int], window: Window
) -> tuple[Picture, ...]:
    """The whole field in three planes, at given slices in canonical order and in a given window.

    Raises:
        GeometryError: `E-GRID-MISMATCH` when the mask does not lie on the image's grid.
    """
    if mask is not None:
        require_same_grid(image, mask)
    return _pictures(_scene(image, mask, None, labels, None), slices, windows=[window])


def _scene(
    image: Volume,
    prediction: LabelMap | None,
    reference: LabelMap | None,
    labels: dict[str, int],
    annotated: Collection[str] | None,
) -> _Scene:
    known = dict(sorted(labels.items(), key=lambda item: item[1]))
    return _Scene(
        geometry=image.geometry,
        spacing_mm=image.geometry.canonical().spacing_mm,
        labels=known,
        judged={name: value for name, value in known.items() if annotated is None or name in annotated},
        image=canonical_view(image.array[0], image.geometry),
        prediction=None if prediction is None else canonical_view(prediction.array, image.geometry),
        reference=None if reference is None else canonical_view(reference.array, image.geometry),
    )


def _windows(
    scene: _Scene, inside: NDArray[Any], window: tuple[float, float] | None, modality: str | None
) -> list[Window]:
    return [Window("chosen", *window)] if window else windows_for(scene.image, inside, modality=modality)


def _moved(slices: tuple[int, int, int], box: Box) -> tuple[int, ...]:
    """Slices counted inside the box to slices of the volume."""
    return tuple(index + side.start for index, side in zip(slices, box, strict=True))


def _pictures(
    scene: _Scene, slices: tuple[int, ...], *, windows: list[Window], closer: Box | None = None
) -> tuple[Picture, ...]:
    """One picture for every plane that is more than one voxel thick."""
    planes = (plane for plane in PLANES if min(scene.image.shape[axis] for axis in plane.across) > 1)
    return tuple(_picture(scene, plane, slices[plane.axis], windows=windows, closer=closer) for plane in planes)


def _only(mask: NDArray[Any], values: Collection[int]) -> NDArray[Any]:
    """The mask with every other value set to 0."""
    keep = np.zeros(max(int(mask.max(initial=0)), *values, 0) + 1, dtype=mask.dtype)
    keep[list(values)] = list(values)
    return np.asarray(keep[mask])


def _picture(scene: _Scene, plane: Plane, index: int, *, windows: list[Window], closer: Box | None) -> Picture:
    box = WHOLE if closer is None else closer
    grey = cut(scene.image, plane, index, box)
    mine = None if scene.prediction is None else cut(scene.prediction, plane, index, box)
    truth = None if scene.reference is None else cut(scene.reference, plane, index, box)
    rows, columns = grey.shape
    column_mm, row_mm = (scene.spacing_mm[axis] for axis in plane.across)
    size_mm = (columns * column_mm, rows * row_mm)
    rendered = tuple((window, window.png(grey, size_mm)) for window in windows)
    colours = {name: n for n, name in enumerate(scene.labels)}
    prediction = () if mine is None else tuple(_outlines(mine, scene.labels, colours))
    reference = () if truth is None else tuple(_outlines(truth, scene.judged, colours))
    errors: tuple[Region, ...] = ()
    if mine is not None and truth is not None and closer is not None:
        errors = tuple(_regions(*scene.scored(mine, truth), pixel_mm2=column_mm * row_mm))
    title = _title(scene.geometry, plane, index)
    return Picture(
        title=title,
        alt=_described(title, plane, prediction, reference, errors),
        png=rendered[0][1],
        purpose="extent" if closer is None else "difference",
        edges=plane.edges,
        size_mm=size_mm,
        size_voxels=(columns, rows),
        windows=rendered,
        prediction=prediction,
        reference=reference,
        errors=errors,
    )


def _title(geometry: Geometry, plane: Plane, index: int) -> str:
    tilt = tilt_degrees(geometry, plane)
    tilted = f", tilted {tilt:.0f}°" if tilt >= _TILT_WORTH_SAYING_DEGREES else ""
    return f"{plane.name.capitalize()}{tilted}, slice {source_slice(geometry, plane, index)}"


def _described(
    title: str,
    plane: Plane,
    prediction: tuple[Outline, ...],
    reference: tuple[Outline, ...],
    errors: tuple[Region, ...],
) -> str:
    """The picture in words."""
    seen = [
        f"{name} of {', '.join(outline.label for outline in outlines)} outlined"
        for name, outlines in (("prediction", prediction), ("reference", reference))
        if outlines
    ]
    seen += [f"{region.kind} {region.area_mm2:.4g} mm²" for region in errors]
    left, right, top, bottom = tuple(plane.edges)
    edges = f"{left} is at the left edge, {right} right, {top} top, {bottom} bottom"
    return f"{title}: {'; '.join(seen) or 'no structure in this slice'}. {edges}."


def _outlines(mask: NDArray[Any], labels: dict[str, int], colours: dict[str, int]) -> Iterator[Outline]:
    """What of each label lies in a displayed slice of a mask."""
    present = set(np.unique(mask).tolist())
    for name, value in labels.items():
        if value in present:
            yield Outline(name, colours[name], outline_path(mask == value))


def _regions(prediction: NDArray[Any], reference: NDArray[Any], *, pixel_mm2: float) -> Iterator[Region]:
    """What the two slices of masks have in common and not, empty kinds left out."""
    same = prediction == reference
    kinds: dict[RegionKind, NDArray[np.bool_]] = {
        "agreement": same & (reference != 0),
        "missed": ~same & (prediction == 0),
        "invented": ~same & (reference == 0),
        "mistaken": ~same & (prediction != 0) & (reference != 0),
    }
    for kind, mask in kinds.items():
        if mask.any():
            yield Region(kind, outline_path(mask, voxels=True), float(np.count_nonzero(mask)) * pixel_mm2)
