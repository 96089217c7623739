"""What the voxels of a file say: values of a mask, kind of an image, where a label lies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.case import Case, Dataset
from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.core.reading import AS_IT_IS, Reading
from medseg.core.volume import LabelMap
from medseg.io.volumes import read_labels

AIR_HU = -200
_SAMPLE = 100_000
_PIECE = 65536
NAME_THEM = "Add them to 'labels' of the manifest, or correct the mask."


def values_in(labels: LabelMap) -> dict[int, int]:
    """How many voxels hold each value, background included."""
    voxels = np.ravel(labels.array, order="K")
    counts = np.zeros(np.iinfo(np.uint16).max + 1, dtype=np.int64)
    # In pieces that stay in the cache: numpy counts a copy of eight bytes a voxel, 12 times slower for a whole scan.
    for start in range(0, voxels.size, _PIECE):
        part = np.bincount(voxels[start : start + _PIECE])
        counts[: part.size] += part
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def unknown_values(counts: dict[int, int], dataset: Dataset) -> str:
    """The values that no label of the dataset has, in words; empty when there are none."""
    known = {0, *dataset.labels.values(), dataset.ignore_value}
    strange = [f"{value} ({count} voxels)" for value, count in counts.items() if value not in known]
    return f"values that no label has: {', '.join(strange[:8])}; known: {dataset.labels}" if strange else ""


def read_reference(case: Case, dataset: Dataset, reading: Reading = AS_IT_IS, *, onto: Geometry) -> LabelMap | None:
    """Read a case's mask; None when it has none.

    Args:
        case: Whose.
        dataset: Names the labels, by which the structures of a DICOM SEG or RTSTRUCT are found.
        reading: How to read it.
        onto: The image's grid.

    Raises:
        InputError: E-LABEL-UNKNOWN for a value that no label has, or as `read_labels`.
    """
    if case.label is None:
        return None
    labels = read_labels(case.label, reading.over(dataset.reading_of(case)), onto=onto, names=dataset.labels)
    if strange := unknown_values(values_in(labels), dataset):
        raise InputError(strange, code="E-LABEL-UNKNOWN", file=case.label, remedy=NAME_THEM)
    return labels


def holds_air(channel: NDArray[Any]) -> bool:
    """Whether voxels fall below -200, as they do in HU wherever there is air."""
    return bool(channel.min() <= AIR_HU)


def content_hash(arrays: Sequence[NDArray[Any]]) -> str:
    """Equal for equal voxels of equal type, whatever the file, the grid or the order in memory."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ravel(array, order="F").view(np.uint8).data)
    return digest.hexdigest()


def num_values(channel: NDArray[Any]) -> int:
    """How many different values an image holds, as far as about 100,000 evenly spread voxels tell."""
    step = max(1, int((channel.size / _SAMPLE) ** (1 / 3)))
    return int(np.unique(channel[::step, ::step, ::step]).size)


def centroid_mm(labels: LabelMap, value: int) -> NDArray[np.float64]:
    """(3,) RAS mm of the centre of a label that is present."""
    inside = labels.array == value
    total = np.count_nonzero(inside)
    others = ((1, 2), (0, 2), (0, 1))
    profiles = [np.count_nonzero(inside, axis=axes) for axes in others]
    index = [float(profile @ np.arange(profile.size)) / total for profile in profiles]
    return labels.geometry.to_world(index)
