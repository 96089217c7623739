"""Looking at a file although something is wrong with it: every fault that can be known, not only the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from medseg.core.errors import GeometryError, MedsegError
from medseg.core.geometry import Geometry
from medseg.core.reading import AS_IT_IS, Reading
from medseg.core.volume import LabelMap, Volume
from medseg.io.decoded import settle_geometry
from medseg.io.values import image_flags, intensity_faults, label_faults, label_flags
from medseg.io.values import labels as whole_numbers
from medseg.io.volumes import read_unchecked, wrong_channels

Kind = Literal["image", "label"]

# How each refusal of a header can be got past, to see what else there is; and the flags that say it again.
_WAYS_ON: Mapping[str, Mapping[str, Any]] = {
    "E-NO-ORIENTATION": {"assume_orientation": True},
    "E-GEOM-CONFLICT": {"prefer": "sform"},
    "E-SERIES-GAP": {"fix_geometry": True},
    "E-SERIES-SPACING": {"fix_geometry": True},
    "E-GEOM-SHEAR": {"fix_geometry": True},
}
_TOLD_BY = {
    "W-ORIENTATION-ASSUMED": {"E-NO-ORIENTATION"},
    "W-GEOM-SFORM": {"E-GEOM-CONFLICT"},
    "W-GEOM-QFORM": {"E-GEOM-CONFLICT"},
    "W-GAPS-FILLED": {"E-SERIES-GAP", "E-SERIES-SPACING"},
    "W-TILT-STRAIGHTENED": {"E-GEOM-SHEAR"},
}


@dataclass(frozen=True, eq=False)
class Examined:
    """One image or mask as far as it can be read.

    Attributes:
        path: The file or DICOM folder.
        kind: What it should be.
        faults: Why it would be refused, in the order found.
        reading: Under which it could be read at last.
        content: Voxels in the file's own number type on its own grid; None when nothing could be read.
        geometry: The file's own grid or, where its axes are not at right angles, the nearest such grid; None when there
            is none that can be.
        moved_mm: How far a corner of the file's own grid lies from `geometry`.
    """

    path: Path
    kind: Kind
    faults: tuple[MedsegError, ...]
    reading: Reading
    content: Volume | None = None
    geometry: Geometry | None = None
    moved_mm: float = 0.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """Flags of reading, those left out that a fault says already."""
        if self.content is None:
            return ()
        codes = {fault.code for fault in self.faults}
        flags = (flag for flag in self.content.warnings if codes.isdisjoint(_TOLD_BY.get(flag, ())))
        return (*flags, *(label_flags if self.kind == "label" else image_flags)(self.content.array))

    def labels(self) -> LabelMap:
        """The mask on `geometry`.

        Raises:
            InputError: As `read_labels`.
            GeometryError: As `read_labels`.
        """
        if self.content is None or self.geometry is None:
            raise self.faults[0]
        return LabelMap(whole_numbers(self.content.array[0], self.path), self.geometry, self.path, self.warnings)


def examine(path: Path, kind: Kind, allowed: Reading = AS_IT_IS, *, channels: int = 1) -> Examined:
    """Read a file in spite of its faults.

    Args:
        path: A file, or the folder of a DICOM series.
        kind: An image, or a mask.
        allowed: What the user has allowed; what has to be taken beyond it is a fault. A transform is preferred only
            where two contradict each other.
        channels: How many an image file must hold.
    """
    found = _read(path, kind, allowed, channels)
    if found.content is None:
        return found
    array, given = found.content.array, found.content.geometry
    faults = list(found.faults)
    if len(array) != channels:
        faults.append(wrong_channels(path, len(array), channels))
    faults += intensity_faults(array, path) if kind == "image" else label_faults(array, path)
    geometry = None
    try:
        geometry = settle_geometry(given.affine, given.shape, path)
    except GeometryError as error:
        faults.append(error)
        if error.code == "E-GEOM-SHEAR":
            geometry = given.straightened()
            return replace(found, faults=tuple(faults), geometry=geometry, moved_mm=geometry.deviation_mm(given))
    return replace(found, faults=tuple(faults), geometry=geometry)


def other_transform(found: Examined) -> Geometry | None:
    """The grid of a contradictory NIfTI file if the other of its transforms is believed; None if that is none."""
    other = "qform" if found.reading.prefer == "sform" else "sform"
    reading = found.reading.model_copy(update={"prefer": other})
    channels = 1 if found.content is None else found.content.num_channels
    try:
        return read_unchecked(found.path, reading, channels=channels).geometry
    except MedsegError:
        return None


def _read(path: Path, kind: Kind, allowed: Reading, channels: int) -> Examined:
    faults: list[MedsegError] = []
    reading = allowed.model_copy(update={"assume_orientation": False, "prefer": None, "fix_geometry": False})
    for _ in range(len(_WAYS_ON)):
        try:
            return Examined(path, kind, tuple(faults), reading, read_unchecked(path, reading, channels=channels))
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
