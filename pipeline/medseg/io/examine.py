"""Looking at a file although something is wrong with it: every fault that can be known, not only the first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medseg.core.errors import GeometryError, MedsegError
from medseg.core.geometry import Geometry
from medseg.core.reading import AS_IT_IS, Reading
from medseg.core.volume import LabelMap, Volume
from medseg.io.decoded import ReadOptions, settle_geometry
from medseg.io.formats import decode, decode_labels
from medseg.io.values import image_flags, intensity_faults, label_faults, label_flags
from medseg.io.values import labels as whole_numbers
from medseg.io.volumes import wrong_channels

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


def read_unchecked(
    path: Path,
    reading: Reading = AS_IT_IS,
    *,
    channels: int = 1,
    onto: Geometry | None = None,
    names: dict[str, int] | None = None,
) -> Volume:
    """One file as it stands: neither its values nor the angles and edges of its grid are checked.

    Args:
        path: An image; where `names` are given, a mask.
        reading: As in `read_volume`.
        channels: As in `read_volume`.
        onto: As in `read_labels`.
        names: As in `read_labels`.

    Raises:
        InputError: The file is missing or damaged, or not an image.
        GeometryError: Its header contradicts itself, says too little, or holds no grid at all.
    """
    decoder = decode if names is None else decode_labels
    decoded = decoder(path, ReadOptions(reading, channels, onto, names))
    array = decoded.array if decoded.array.ndim == 4 else decoded.array[np.newaxis]
    shape = (array.shape[1], array.shape[2], array.shape[3])
    try:
        geometry = Geometry(shape, decoded.affine)
    except ValueError:
        geometry = settle_geometry(decoded.affine, shape, path)  # knows what to call it
    return Volume(array, geometry, path, decoded.warnings, decoded.unit, decoded.modality)


def examine_image(path: Path, allowed: Reading = AS_IT_IS, *, channels: int = 1) -> Examined:
    """Read an image in spite of its faults.

    Args:
        path: A file, or the folder of a DICOM series.
        allowed: What the user has allowed; what has to be taken beyond it is a fault. A transform is preferred only
            where two contradict each other.
        channels: How many it must hold.
    """
    found = _read(path, "image", allowed, channels=channels)
    if found.content is None:
        return found
    array = found.content.array
    faults = [wrong_channels(path, len(array), channels)] if len(array) != channels else []
    return _on_its_grid(found, [*faults, *intensity_faults(array, path)])


def examine_label(
    path: Path, allowed: Reading = AS_IT_IS, *, onto: Geometry | None = None, names: dict[str, int] | None = None
) -> Examined:
    """Read a mask in spite of its faults.

    Args:
        path: As in `read_labels`.
        allowed: As in `examine_image`.
        onto: As in `read_labels`.
        names: As in `read_labels`.
    """
    found = _read(path, "label", allowed, onto=onto, names=names or {})
    return found if found.content is None else _on_its_grid(found, label_faults(found.content.array, path))


def _on_its_grid(found: Examined, more: Iterable[MedsegError]) -> Examined:
    """What the grid tells once the file can be read."""
    if found.content is None:
        return found
    given, geometry, faults = found.content.geometry, None, [*found.faults, *more]
    try:
        geometry = settle_geometry(given.affine, given.shape, found.path)
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


def _read(path: Path, kind: Kind, allowed: Reading, **more: Any) -> Examined:
    faults: list[MedsegError] = []
    reading = allowed.model_copy(update={"assume_orientation": False, "prefer": None, "fix_geometry": False})
    for _ in range(len(_WAYS_ON)):
        try:
            return Examined(path, kind, tuple(faults), reading, read_unchecked(path, reading, **more))
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
