"""What the voxels of a file say: values of a mask, kind of an image, where a label lies."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.volume import LabelMap, Volume

AIR_HU = -200


def values_in(labels: LabelMap) -> dict[int, int]:
    """How many voxels hold each value, background included."""
    counts = np.bincount(np.ravel(labels.array, order="K"))
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def holds_air(channel: NDArray[Any]) -> bool:
    """Whether voxels fall below -200, as they do in HU wherever there is air."""
    return bool(channel.min() <= AIR_HU)


def content_hash(volume: Volume) -> str:
    """Equal for equal voxels of equal type, whatever the file or the grid."""
    voxels = np.ravel(volume.array, order="K")
    digest = hashlib.sha256(f"{volume.array.shape} {volume.array.dtype}".encode())
    digest.update(voxels.view(np.uint8).data)
    return digest.hexdigest()


def centroid_mm(labels: LabelMap, value: int) -> NDArray[np.float64]:
    """(3,) RAS mm of the centre of a label that is present."""
    inside = labels.array == value
    total = np.count_nonzero(inside)
    others = ((1, 2), (0, 2), (0, 1))
    profiles = [np.count_nonzero(inside, axis=axes) for axes in others]
    index = [float(profile @ np.arange(profile.size)) / total for profile in profiles]
    return labels.geometry.to_world(index)
