"""A repaired case as it was found and as it is now, in the same slices and the same window."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from medseg.core.case import Dataset
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.data.treatment import Patient
from medseg.io.examine import Examined, other_transform
from medseg.report.pictures import Picture, slice_pictures
from medseg.report.planes import canonical_view, telling_slices
from medseg.report.windows import Window, windows_for

Slices = tuple[int, int, int]


@dataclass(frozen=True)
class Comparison:
    """One case's pictures in three planes.

    Attributes:
        case: Its id.
        labels: What is outlined, and its colour.
        before: Every voxel where the original file puts it; empty where that cannot be drawn.
        after: The repaired case.
        note: What to know about `before`.
    """

    case: str
    labels: dict[str, int]
    before: tuple[Picture, ...]
    after: tuple[Picture, ...]
    note: str


def compare(name: str, patient: Patient, dataset: Dataset) -> Comparison:
    """Draw a case that has been cured.

    Args:
        name: Its id.
        patient: Its files and their cures, none of them refused.
        dataset: Labels and modality.
    """
    found, cured = patient.images[0]
    image, label = cured.content, patient.label[1].content if patient.label else None
    if not isinstance(image, Volume):
        raise cured.refused[0]
    mask = label if isinstance(label, LabelMap) else None
    window = _window(image, mask, dataset.channels[0])
    sagittal, coronal, axial = image.geometry.canonical().shape
    middle = (sagittal - 1) // 2, (coronal - 1) // 2, (axial - 1) // 2
    if mask is not None:
        mask = replace(mask, geometry=image.geometry)
        middle = telling_slices([canonical_view(mask.array, image.geometry)])
    after = _drawn("As repaired", image, mask, dataset, window, middle)
    own = _own_grid(found)
    if own is None or own.shape != image.geometry.shape:
        return Comparison(name, _colours(after), (), after, "The original cannot be drawn as one volume.")
    before_mask, note = _mask_before(patient, own)
    index = _array_index(middle, image.geometry)
    before = _drawn("As found", Volume(image.array, own), before_mask, dataset, window, _canonical_index(index, own))
    return Comparison(name, _colours((*before, *after)), before, after, note)


def _drawn(
    title: str, image: Volume, mask: LabelMap | None, dataset: Dataset, window: Window, slices: Slices
) -> tuple[Picture, ...]:
    pictures = slice_pictures(image, mask, dataset.labels, slices=slices, window=window)
    return tuple(
        replace(picture, alt=f"{title}: {picture.title}, {_outlined(picture)}, {_edges(picture)}")
        for picture in pictures
    )


def _outlined(picture: Picture) -> str:
    names = ", ".join(outline.label for outline in picture.prediction)
    return f"{names} outlined" if names else "no label outlined"


def _edges(picture: Picture) -> str:
    left, right, top, bottom = tuple(picture.edges)
    return f"{left} at the left edge, {right} right, {top} top, {bottom} bottom"


def _colours(pictures: tuple[Picture, ...]) -> dict[str, int]:
    outlines = {outline.label: outline.colour for picture in pictures for outline in picture.prediction}
    return dict(sorted(outlines.items(), key=lambda item: item[1]))


def _window(image: Volume, mask: LabelMap | None, modality: str) -> Window:
    inside = image.array[0][mask.array > 0] if mask is not None else image.array[0][:0]
    return windows_for(image.array[0], inside, modality=modality)[0]


def _own_grid(found: Examined) -> Geometry | None:
    """Where the file itself puts its voxels, or where its other transform does; None after resampling."""
    if found.content is None or found.reading.fix_geometry:
        return None
    if {"W-GEOM-SFORM", "W-GEOM-QFORM"} & set(found.warnings):
        return other_transform(found)
    return found.content.geometry


def _mask_before(patient: Patient, grid: Geometry) -> tuple[LabelMap | None, str]:
    """The mask as it lies over the image voxel by voxel, whatever its own header says."""
    found = patient.label[0] if patient.label else None
    if found is None or found.content is None:
        return None, ""
    if found.content.geometry.shape != grid.shape:
        return None, "The mask had another shape than the image and could not be laid over it."
    mended = {change.code for change in patient.label[1].changes} if patient.label else set()
    note = "The mask is drawn voxel by voxel, as software does that does not compare grids."
    return (
        replace(found.labels(), geometry=grid),
        note if "E-GRID-MISMATCH" in mended else "",
    )


def _array_index(slices: Slices, geometry: Geometry) -> Slices:
    """Canonical slices to the index in the array's own axes."""
    order, flips = geometry.canonical_axes()
    index = [0, 0, 0]
    for axis, source in enumerate(order):
        index[source] = geometry.shape[source] - 1 - slices[axis] if axis in flips else slices[axis]
    return index[0], index[1], index[2]


def _canonical_index(index: Slices, geometry: Geometry) -> Slices:
    """The inverse of `_array_index`."""
    order, flips = geometry.canonical_axes()
    sizes = np.asarray(geometry.shape)[list(order)]
    i, j, k = (
        int(sizes[axis]) - 1 - index[source] if axis in flips else index[source] for axis, source in enumerate(order)
    )
    return i, j, k
