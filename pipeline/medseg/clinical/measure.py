"""Every organ and every lesion of a mask, measured.

Definitions, formulas and conventions are printed in docs/clinical.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.clinical.diameters import axial_axis, axial_diameters, feret_diameter
from medseg.clinical.intensity import is_suv, measure_intensity
from medseg.clinical.normal_ranges import NormalTable, compare_with_normal
from medseg.clinical.position import Midline, contacts_mm2, find_midline
from medseg.core.document import suggest
from medseg.core.errors import UsageError
from medseg.core.measurements import Measurement, Side, SideBasis
from medseg.core.sides import named_side
from medseg.core.volume import LabelMap, Volume, require_same_grid
from medseg.ops.lesions import find_components
from medseg.ops.peak import peak_reach

if TYPE_CHECKING:
    from medseg.core.geometry import Geometry

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class _Case:
    """What all structures of a case share; arrays on the mask's grid."""

    array: NDArray[Any]
    geometry: Geometry
    names: Mapping[int, str]
    lesions: Collection[str]
    image: NDArray[Any] | None
    unit: str
    midline: Midline | None
    normal: NormalTable | None


@dataclass(frozen=True, eq=False)
class _Structure:
    """One structure to measure: where `part` holds inside `box` of the case's grid."""

    id: str
    label: str
    kind: Literal["organ", "lesion"]
    box: Box
    part: NDArray[np.bool_]


def measure_structures(
    label_map: LabelMap,
    *,
    labels: Mapping[str, int],
    lesions: Collection[str],
    image: Volume | None = None,
    unit: str = "",
    normal: NormalTable | None = None,
) -> tuple[Measurement, ...]:
    """Measure whole organs, then lesions: every 26-connected part of a lesion's label, largest first.

    Args:
        label_map: The mask. Values without a name are not measured and count as background.
        labels: Name to value. A label without any voxel has no measurement.
        lesions: Which of the labels are lesions; the others are organs, measured as a whole.
        image: On the mask's grid; its first channel is measured.
        unit: Of the image: `HU`, `SUVbw`, or empty.
        normal: What the volumes of organs are compared with; those that the image cuts off are not.

    Raises:
        UsageError: `E-LESION-NAME`, a lesion that is no label.
        GeometryError: `E-GRID-MISMATCH`, an image that is not on the mask's grid.
    """
    for name in lesions:
        if name not in labels:
            remedy = f"Name labels of the mask with --lesions: {suggest(name, list(labels))}"
            raise UsageError(f"the mask has no label {name!r}", code="E-LESION-NAME", remedy=remedy)
    if image is not None:
        require_same_grid(label_map, image)
    geometry, names = label_map.geometry, {value: name for name, value in labels.items()}
    kept = np.zeros(int(label_map.array.max(initial=0)) + 1, label_map.array.dtype)
    kept[[value for value in names if value < kept.size]] = [value for value in names if value < kept.size]
    array = kept[label_map.array]
    grey = None if image is None else image.array[0]
    boxes = {names[value]: box for value, box in _boxes(array)}
    centres = {name: _centre_mm(array[box] == labels[name], box, geometry) for name, box in boxes.items()}
    midline = find_midline(centres, grey, geometry)
    case = _Case(array, geometry, names, lesions, grey, unit, midline, normal)
    return tuple(_measure(structure, case) for structure in _structures(case, labels, boxes))


def _boxes(array: NDArray[Any]) -> Iterator[tuple[int, Box]]:
    """Every value of the mask but 0 with the smallest box around it."""
    found = cast("list[Box | None]", ndimage.find_objects(array.astype(np.int32, copy=False)))
    return ((value, box) for value, box in enumerate(found, start=1) if box is not None)


def _structures(case: _Case, labels: Mapping[str, int], boxes: Mapping[str, Box]) -> Iterator[_Structure]:
    for name in (name for name in labels if name in boxes and name not in case.lesions):
        yield _Structure(name, name, "organ", boxes[name], case.array[boxes[name]] == labels[name])
    for name in (name for name in labels if name in boxes and name in case.lesions):
        found = find_components(case.array[boxes[name]] == labels[name])
        inner = cast("list[Box]", ndimage.find_objects(found.array))
        for number, at in enumerate(np.argsort(-found.sizes, kind="stable"), start=1):
            box = _shifted(inner[at], boxes[name])
            yield _Structure(f"{name}-{number}", name, "lesion", box, found.array[inner[at]] == at + 1)


def _measure(structure: _Structure, case: _Case) -> Measurement:
    box, part = _widened(structure, case)
    start = [side.start for side in box]
    geometry = case.geometry.cropped(start, [side.stop for side in box])
    axis, is_lesion = axial_axis(case.geometry), structure.kind == "lesion"
    drawn = axial_diameters(part, geometry) if is_lesion else None
    touched = [case.names[value] for value in contacts_mm2(case.array[box], part, geometry)]
    organ = next((name for name in touched if name not in case.lesions), None) if is_lesion else None
    volume_ml = float(np.count_nonzero(part)) * geometry.voxel_volume_mm3 / 1000
    uncertainty_ml = _num_faces(part) * geometry.voxel_volume_mm3 / 2000
    is_cut_off = _reaches_border(structure.box, case.geometry)
    centre_x, centre_y, centre_z = _centre_mm(structure.part, structure.box, case.geometry).tolist()
    side, basis = _side(structure, organ, geometry.to_world(np.argwhere(part)), case.midline)
    return Measurement(
        id=structure.id,
        label=structure.label,
        kind=structure.kind,
        volume_ml=volume_ml,
        volume_uncertainty_ml=uncertainty_ml,
        centre_mm=(centre_x, centre_y, centre_z),
        is_cut_off=is_cut_off,
        long_axis=None if drawn is None else drawn.long_axis,
        short_axis=None if drawn is None else drawn.short_axis,
        feret=feret_diameter(part, geometry),
        slice_number=None if drawn is None else drawn.slice_index + start[axis] + 1,
        intensity=None
        if case.image is None
        else measure_intensity(case.image[box], part, geometry, unit=case.unit, peak=is_lesion),
        organ=organ,
        side=side,
        side_basis=basis,
        touching=tuple(touched),
        normal_range=None
        if case.normal is None or is_lesion or is_cut_off
        else compare_with_normal(structure.label, volume_ml, uncertainty_ml, table=case.normal),
    )


def _widened(structure: _Structure, case: _Case) -> tuple[Box, NDArray[np.bool_]]:
    """The structure with the surroundings that its neighbours and the SUV peak need."""
    reach = peak_reach(case.geometry.affine[:3, :3]) if is_suv(case.unit) and structure.kind == "lesion" else (1, 1, 1)
    inside = [
        (max(0, side.start - pad), min(size, side.stop + pad))
        for side, pad, size in zip(structure.box, reach, case.geometry.shape, strict=True)
    ]
    pads = [(side.start - low, high - side.stop) for side, (low, high) in zip(structure.box, inside, strict=True)]
    i, j, k = (slice(low, high) for low, high in inside)
    return (i, j, k), np.pad(structure.part, pads)


def _side(
    structure: _Structure, organ: str | None, points_mm: NDArray[np.float64], midline: Midline | None
) -> tuple[Side | None, SideBasis | None]:
    """What its own name states, else its organ's, else on which side of the midline it lies."""
    own, held = named_side(structure.label), None if organ is None else named_side(organ)
    if own is not None:
        return own, "name"
    if held is not None:
        return held, "organ"
    return (None, None) if midline is None else (midline.side_of(points_mm), midline.basis)


def _num_faces(part: NDArray[np.bool_]) -> int:
    """Voxel faces between inside and outside."""
    padded = np.pad(part, 1)
    return sum(int(np.count_nonzero(np.diff(padded, axis=axis))) for axis in range(3))


def _reaches_border(box: Box, geometry: Geometry) -> bool:
    return any(side.start == 0 or side.stop == size for side, size in zip(box, geometry.shape, strict=True))


def _centre_mm(part: NDArray[np.bool_], box: Box, geometry: Geometry) -> NDArray[np.float64]:
    return geometry.to_world(np.argwhere(part).mean(axis=0) + [side.start for side in box])


def _shifted(inner: Box, outer: Box) -> Box:
    """A box counted inside another one to a box of the whole."""
    i, j, k = (slice(one.start + other.start, one.stop + other.start) for one, other in zip(inner, outer, strict=True))
    return i, j, k
