"""DICOM segmentations and structure sets as masks: by name, on a grid of their own or on an image's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import Affine, Geometry, lps_to_ras
from medseg.core.terminology import words_of
from medseg.core.volume import LabelMap
from medseg.io.decoded import settle_geometry
from medseg.io.dicom_contours import fill_contours, read_structures
from medseg.io.dicom_headers import read_object
from medseg.io.dicom_segments import SegmentFrame, SegmentFrames, is_segmentation, read_frames
from medseg.io.dicom_source import look_up

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_SAME_PLACE_MM = 0.01
_OFF_LINE_MM = 0.1
_OFF_STEP = 0.1
_TURNED = 1e-3
_NUMBERS = 1 << 16
_LEFT_OUT = "W-SEGMENTS-LEFT"
_LESION_NUMBER = re.compile(r"-\d+$")


def read_dicom_labels(path: Path, *, onto: Geometry | None, names: dict[str, int] | None) -> LabelMap | None:
    """Read a SEG or an RTSTRUCT; None for any other DICOM object.

    Args:
        path: One file.
        onto: Grid of the mask, its image's; None takes the frames' own, which only a segmentation has.
        names: Label names to values: only these structures are read. None takes all, each with its own number.

    Raises:
        InputError: `E-SEGMENT-NAME`, `E-SEG-OVERLAP`, `E-STRUCTURES-GRID`, or as `read_frames` and `read_structures`.
        GeometryError: `E-SERIES-IOP`, `E-SERIES-SPACING` for frames on no grid, or as `settle_geometry`.
    """
    header = read_object(path, is_whole=False)
    if is_segmentation(header):
        return _from_segmentation(read_frames(path), onto, names)
    if str(header.get("SOPClassUID", "")) != STRUCTURE_SET:
        return None
    if onto is None:
        message = "a structure set has contours and no voxels: the grid of its image is needed"
        remedy = "Read it together with its image, as a case of a manifest."
        raise InputError(message, code="E-STRUCTURES-GRID", file=path, remedy=remedy)
    structures = read_structures(path)
    values, flags = _values(((item.number, item.name) for item in structures), names, path)
    array = np.zeros(onto.shape, np.min_scalar_type(max(values.values())))
    for item in structures:
        if item.number in values:
            _merge(array, fill_contours(item, onto, path), values[item.number], path)
    return LabelMap(array, onto, path, flags)


def names_in(path: Path) -> dict[str, int]:
    """The segments or regions of a SEG or RTSTRUCT with their numbers; nothing for any other DICOM object.

    Lesions that are followed one by one, `tumour-1` and `tumour-2` with a tracking UID each, are one label.
    """
    header = read_object(path, is_whole=False)
    if is_segmentation(header):
        names: dict[str, int] = {}
        for fact in read_frames(path).segments:
            if not fact.is_background:
                names.setdefault(_LESION_NUMBER.sub("", fact.label) if fact.tracking_uid else fact.label, fact.number)
        return names
    if str(header.get("SOPClassUID", "")) == STRUCTURE_SET:
        return {item.name: item.number for item in read_structures(path)}
    return {}


def _values(
    numbered: Iterable[tuple[int, str]], names: dict[str, int] | None, path: Path
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Value in the mask by number of the structure, and a flag when some are left out."""
    structures = list(numbered)
    if names is None:
        return {number: number for number, _ in structures}, ()
    by_words = {words_of(name): value for name, value in names.items()}
    values = {}
    for number, label in structures:
        words, side = words_of(label)
        unnumbered = tuple(word for word in words if not word.isdigit())
        value = by_words.get((words, side), by_words.get((unnumbered, side)))
        if value is not None:
            values[number] = value
    if not values:
        message = f"none of its {len(structures)} structures has the name of a label ({', '.join(names)})"
        raise InputError(
            message, code="E-SEGMENT-NAME", file=path, remedy="Name the labels of the dataset as the file does."
        )
    return values, (_LEFT_OUT,) if len(values) < len(structures) else ()


def _merge(array: NDArray[Any], mask: NDArray[np.bool_], value: int, path: Path) -> None:
    """Lay one structure into the mask.

    Raises:
        InputError: `E-SEG-OVERLAP`.
    """
    covered = array[mask]
    others = covered[(covered != 0) & (covered != value)]
    if others.size:
        message = f"{others.size} voxels belong to two structures (values {int(others[0])} and {value})"
        remedy = "Name only structures that do not overlap in the dataset's labels."
        raise InputError(message, code="E-SEG-OVERLAP", file=path, remedy=remedy)
    array[mask] = value


def _from_segmentation(seg: SegmentFrames, onto: Geometry | None, names: dict[str, int] | None) -> LabelMap:
    named = ((fact.number, fact.label) for fact in seg.segments if not fact.is_background)
    values, flags = _values(named, names, seg.path)
    rows, columns = int(seg.data.Rows), int(seg.data.Columns)
    affine, places = _stack(seg.frames, seg.path)
    shape = (max(places) + 1, rows, columns)
    stack = np.zeros(shape, np.min_scalar_type(max(values.values())))
    numbers = np.zeros(_NUMBERS, stack.dtype)
    for number, value in values.items():
        numbers[number] = value
    for frame, place, pixels in zip(seg.frames, places, seg.pixels(), strict=True):
        if frame.number is None:
            stack[place] = numbers[pixels]
        elif frame.number in values:
            _merge(stack[place], pixels > 0, values[frame.number], seg.path)
    array = stack.transpose(2, 1, 0)
    if onto is None:
        return LabelMap(array, settle_geometry(affine, array.shape, seg.path), seg.path, flags)
    return LabelMap(_onto(array, affine, onto), onto, seg.path, flags)


def _onto(array: NDArray[Any], affine: Affine, onto: Geometry) -> NDArray[Any]:
    """The label of the voxel nearest to each voxel's place, 0 outside."""
    found = np.zeros(onto.shape, array.dtype)
    to_index = np.linalg.inv(affine) @ onto.affine
    for index in range(onto.shape[2]):
        step = np.eye(4)
        step[2, 3] = index
        look_up(array, to_index @ step, found[:, :, index].T)
    return found


def _stack(frames: Sequence[SegmentFrame], path: Path) -> tuple[Affine, list[int]]:
    """Index (column, row, slice) to RAS+ mm of the grid that holds all frames, and the slice of each."""
    first = frames[0]
    alike = all(
        np.abs(frame.orientation - first.orientation).max() < _TURNED
        and np.abs(np.subtract(frame.spacing_mm, first.spacing_mm)).max() < _TURNED
        for frame in frames
    )
    if not alike:
        message = "its frames differ in orientation or pixel spacing"
        raise GeometryError(message, code="E-SERIES-IOP", file=path, remedy="Export one segmentation per series.")
    normal = np.cross(first.orientation[0], first.orientation[1])
    positions = np.array([frame.position_mm for frame in frames])
    heights = positions @ normal
    step_mm = _step(heights, first.step_mm, path)
    places = np.rint((heights - heights.min()) / step_mm).astype(int)
    low, high = positions[heights.argmin()], positions[heights.argmax()]
    along = (high - low) / places.max() if places.max() else normal * step_mm
    if np.abs(low + places[:, np.newaxis] * along - positions).max() > _OFF_LINE_MM:
        message = "its frames do not lie on one line"
        raise GeometryError(message, code="E-SERIES-SPACING", file=path, remedy="Export the segmentation again.")
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[0] * first.spacing_mm[1]
    affine[:3, 1] = first.orientation[1] * first.spacing_mm[0]
    affine[:3, 2], affine[:3, 3] = along, low
    return lps_to_ras(affine), places.tolist()


def _step(heights: NDArray[np.float64], declared_mm: float | None, path: Path) -> float:
    """Distance of slices of which every frame lies on one: the declared one, or the least between two frames."""
    apart = np.diff(np.unique(heights))
    apart = apart[apart > _SAME_PLACE_MM]
    if not apart.size:
        return declared_mm or 1.0
    least = float(apart.min())
    for step in (declared_mm, least):
        if step is None or step > least * (1 + _OFF_STEP):
            continue
        counts = (heights - heights.min()) / step
        if np.abs(counts - np.rint(counts)).max() < _OFF_STEP:
            return step
    message = f"its frames lie {least:.3g} to {apart.max():.3g} mm apart, on no even grid"
    raise GeometryError(message, code="E-SERIES-SPACING", file=path, remedy="Export the segmentation again.")
