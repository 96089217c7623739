"""One examination by itself: its lesions measured on their own grid, and where they lie in the baseline's space."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.clinical.matching import LesionShape
from medseg.clinical.measure import measure_structures
from medseg.core.geometry import Geometry
from medseg.core.measurements import Measurement
from medseg.core.volume import LabelMap, Volume
from medseg.ops.alignment import Alignment
from medseg.ops.lesions import find_components


@dataclass(frozen=True, eq=False)
class FoundLesion:
    """One lesion of one examination by itself.

    Attributes:
        shape: Where it lies in the baseline's space.
        voxels: (N, 3) its voxels on its own grid.
        measurement: With the id it has in its own examination: label and number, largest first.
    """

    shape: LesionShape
    voxels: NDArray[np.int64]
    measurement: Measurement


@dataclass(frozen=True, eq=False)
class Examination:
    """One time point, measured by itself and aligned with the baseline.

    Attributes:
        case: Its name.
        day: When; None where unknown.
        study: What makes tracking UIDs of lesions first seen here unique: the StudyInstanceUID, or a hash of the mask.
        geometry: Of its mask.
        alignment: From the baseline to here.
        lesions: Largest first within each label.
        organs: Measured as a whole.
    """

    case: str
    day: date | None
    study: str
    geometry: Geometry
    alignment: Alignment
    lesions: tuple[FoundLesion, ...]
    organs: tuple[Measurement, ...] = ()


def find_lesions(
    mask: LabelMap,
    *,
    labels: Mapping[str, int],
    lesions: Collection[str],
    alignment: Alignment,
    image: Volume | None = None,
    unit: str = "",
) -> tuple[tuple[FoundLesion, ...], tuple[Measurement, ...]]:
    """Every 26-connected part of the lesions' labels, measured on its own grid; and the organs.

    Args:
        mask: Of one examination.
        labels: Name to value.
        lesions: Which of the labels are lesions.
        alignment: From the baseline to this examination.
        image: On the mask's grid.
        unit: Of the image.
    """
    numbered, origins = _numbered(mask, labels, lesions)
    organs = {name: number for number, name in enumerate((n for n in labels if n not in lesions), len(origins) + 1)}
    for name, number in organs.items():
        numbered[mask.array == labels[name]] = number
    values = {own: number for number, (own, _) in enumerate(origins, start=1)}
    measured = measure_structures(
        LabelMap(numbered, mask.geometry, mask.source),
        labels={**values, **organs},
        lesions=list(values),
        image=image,
        unit=unit,
    )
    by_label = {measurement.label: measurement for measurement in measured}
    boxes = cast("list[tuple[slice, slice, slice]]", ndimage.find_objects(numbered)[: len(origins)])
    found = []
    for number, ((own, label), box) in enumerate(zip(origins, boxes, strict=True), start=1):
        voxels = np.argwhere(numbered[box] == number) + [side.start for side in box]
        measurement = by_label[own].model_copy(update={"id": own, "label": label})
        points_mm = alignment.to_fixed(mask.geometry.to_world(voxels))
        shape = LesionShape(label, points_mm, measurement.volume_ml, max(mask.geometry.spacing_mm))
        found.append(FoundLesion(shape, voxels, measurement))
    return tuple(found), tuple(by_label[name] for name in organs if name in by_label)


def _numbered(
    mask: LabelMap, labels: Mapping[str, int], lesions: Collection[str]
) -> tuple[NDArray[np.int32], list[tuple[str, str]]]:
    """(I, J, K) each lesion's number from 1, and the id and label of each number."""
    numbered = np.zeros(mask.array.shape, np.int32)
    origins: list[tuple[str, str]] = []
    for label in (name for name in labels if name in lesions):
        parts = find_components(mask.array == labels[label])
        order = np.argsort(-parts.sizes, kind="stable")
        numbers = np.zeros(len(order) + 1, np.int32)
        numbers[order + 1] = np.arange(1, len(order) + 1) + len(origins)
        np.maximum(numbered, numbers[parts.array], out=numbered)
        origins += [(f"{label}-{rank}", label) for rank in range(1, len(order) + 1)]
    return numbered, origins
