"""Looking at a file although something is wrong with it: every fault that can be known, not only the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from medseg.core.errors import GeometryError, InputError, MedsegError
from medseg.core.geometry import Geometry
from medseg.core.reading import AS_IT_IS, Reading
from medseg.io.decoded import Decoded, ReadOptions, settle_geometry
from medseg.io.values import intensity_faults, label_faults
from medseg.io.volumes import decode, wrong_channels

Kind = Literal["image", "label"]

# How each refusal of a header can be got past, to see what else there is.
_WAYS_ON: Mapping[str, Mapping[str, Any]] = {
    "E-NO-ORIENTATION": {"assume_orientation": True},
    "E-GEOM-CONFLICT": {"prefer": "sform"},
    "E-SERIES-GAP": {"fix_geometry": True},
    "E-SERIES-SPACING": {"fix_geometry": True},
    "E-GEOM-SHEAR": {"fix_geometry": True},
}


@dataclass(frozen=True, eq=False)
class Examined:
    """One image or mask as far as it can be read.

    Attributes:
        path: The file or DICOM folder.
        kind: What it should be.
        faults: Why it would be refused, in the order found.
        reading: Under which it could be read at last.
        decoded: Voxels in the file's own number type; None when nothing could be read.
        geometry: The file's own grid or, where its axes are not at right angles, the nearest such grid; None when there
            is no grid at all.
        moved_mm: How far a corner of the file's own grid lies from `geometry`.
    """

    path: Path
    kind: Kind
    faults: tuple[MedsegError, ...]
    reading: Reading
    decoded: Decoded | None = None
    geometry: Geometry | None = None
    moved_mm: float = 0.0

    @property
    def warnings(self) -> tuple[str, ...]:
        return () if self.decoded is None else self.decoded.warnings


def examine(path: Path, kind: Kind, allowed: Reading = AS_IT_IS, *, channels: int = 1) -> Examined:
    """Read a file in spite of its faults.

    Args:
        path: A file, or the folder of a DICOM series.
        kind: An image, or a mask.
        allowed: What the user has allowed; what has to be taken beyond it is a fault. A transform is preferred only
            where two contradict each other.
        channels: How many an image file must hold.
    """
    found = _decode(path, kind, allowed, channels)
    if found.decoded is None:
        return found
    array = found.decoded.array
    faults = [*found.faults, *_channel_faults(array, path, channels)]
    faults += intensity_faults(array if array.ndim == 4 else array[None], path) if kind == "image" else ()
    faults += label_faults(array, path) if kind == "label" else ()
    geometry, moved_mm = None, 0.0
    try:
        geometry = settle_geometry(found.decoded.affine, _shape(found.decoded), path)
    except GeometryError as error:
        faults.append(error)
        if error.code == "E-GEOM-SHEAR":
            given = Geometry(_shape(found.decoded), found.decoded.affine)
            geometry = given.straightened()
            moved_mm = geometry.deviation_mm(given)
    return replace(found, faults=tuple(faults), geometry=geometry, moved_mm=moved_mm)


def _decode(path: Path, kind: Kind, allowed: Reading, channels: int) -> Examined:
    faults: list[MedsegError] = []
    reading = allowed.model_copy(update={"assume_orientation": False, "prefer": None, "fix_geometry": False})
    for _ in range(len(_WAYS_ON)):
        try:
            return Examined(path, kind, tuple(faults), reading, decode(path, ReadOptions(reading, channels)))
        except MedsegError as error:
            way = {name: _wish(allowed, name) or value for name, value in _WAYS_ON.get(error.code, {}).items()}
            further = reading.model_copy(update=way)
            if further == reading:
                faults.append(error)
                break
            if any(not _wish(allowed, name) for name in way):
                faults.append(error)
            reading = further
    return Examined(path, kind, tuple(faults), reading)


def _wish(allowed: Reading, name: str) -> Any:
    return getattr(allowed, name)


def _shape(decoded: Decoded) -> tuple[int, int, int]:
    return decoded.array.shape[-3], decoded.array.shape[-2], decoded.array.shape[-1]


def _channel_faults(array: NDArray[Any], path: Path, expected: int) -> Iterator[InputError]:
    channels = len(array) if array.ndim == 4 else 1
    if channels != expected:
        yield wrong_channels(path, channels, expected)
