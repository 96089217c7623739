"""DICOM segmentations as their frames: which segment, where in the patient, which pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError, InputError
from medseg.io.dicom_headers import read_object, untrusted

_SEGMENTATION, _LABELMAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
_BACKGROUND = ("DCM", "125040")
_AGAIN = "Export the segmentation again."


@dataclass(frozen=True)
class SegmentFacts:
    """One segment as the file describes it."""

    number: int
    label: str
    code: tuple[str, str]
    tracking_uid: str

    @property
    def is_background(self) -> bool:
        return self.number == 0 or self.code == _BACKGROUND


@dataclass(frozen=True, eq=False)
class SegmentFrame:
    """One frame.

    Attributes:
        number: Of its segment; None in a label map, whose pixels are the numbers.
        position_mm: (3,) LPS mm, the centre of its first pixel.
        orientation: (2, 3) LPS unit vectors: along a row, along a column.
        spacing_mm: Between rows, between columns.
        step_mm: Between slices, as far as the file says so.
    """

    number: int | None
    position_mm: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    step_mm: float | None


@dataclass(frozen=True, eq=False)
class SegmentFrames:
    """A whole segmentation object.

    Attributes:
        maximum: Of a FRACTIONAL one: the stored value of a pixel that belongs wholly to its segment.
    """

    path: Path
    segments: tuple[SegmentFacts, ...]
    frames: tuple[SegmentFrame, ...]
    data: Any
    maximum: int | None = None

    def pixels(self) -> Iterator[NDArray[Any]]:
        """(rows, columns) of each frame in order: 0 and 1, or segment numbers in a label map.

        Raises:
            InputError: `E-DICOM` or `E-SHORT-DATA` when pixels are missing or damaged, `E-SEG-FRACTIONAL` when some
                belong to their segment in part.
        """
        if int(self.data.BitsAllocated) == 1 and not self.data.file_meta.TransferSyntaxUID.is_encapsulated:
            yield from self._bits()
            return
        from pydicom.pixels import iter_pixels

        with untrusted(self.path, "its pixels"):
            for stored in iter_pixels(self.data, raw=True):
                yield stored if self.maximum is None else self._whole(stored, self.maximum)

    def _whole(self, stored: NDArray[Any], maximum: int) -> NDArray[np.uint8]:
        """A FRACTIONAL frame that is all or nothing."""
        if not np.isin(stored, (0, maximum)).all():
            message = "its segments are FRACTIONAL: probabilities or occupancies, not voxels that belong or do not"
            raise InputError(message, code="E-SEG-FRACTIONAL", file=self.path, remedy="Export it as BINARY.")
        return np.asarray(stored == maximum, dtype=np.uint8)

    def _bits(self) -> Iterator[NDArray[np.uint8]]:
        """Frames follow one another bit by bit, without filling up to a whole byte (PS3.5 8.1.1)."""
        rows, columns = int(self.data.Rows), int(self.data.Columns)
        data, size = np.frombuffer(self.data.PixelData, np.uint8), rows * columns
        if data.size * 8 < size * len(self.frames):
            message = f"{len(self.frames)} frames need {-(-size * len(self.frames) // 8)} bytes, it has {data.size}"
            raise InputError(message, code="E-SHORT-DATA", file=self.path, remedy=_AGAIN)
        for index in range(len(self.frames)):
            first, last = index * size, (index + 1) * size
            bits = np.unpackbits(data[first // 8 : -(-last // 8)], bitorder="little")
            yield bits[first % 8 : first % 8 + size].reshape(rows, columns)


def is_segmentation(header: Any) -> bool:
    return str(header.get("SOPClassUID", "")) in {_SEGMENTATION, _LABELMAP}


def read_frames(path: Path) -> SegmentFrames:
    """Read a DICOM SEG: BINARY, LABELMAP, or FRACTIONAL where every pixel belongs wholly or not at all.

    Raises:
        InputError: `E-DICOM`, `E-NOT-SEGMENTATION` or `E-SIZE-MISMATCH`.
        GeometryError: `E-NO-ORIENTATION`.
    """
    data = read_object(path)
    if not is_segmentation(data):
        message = "it is no DICOM segmentation"
        raise InputError(message, code="E-NOT-SEGMENTATION", file=path, remedy="Name the SEG object.")
    kind = str(data.get("SegmentationType", "BINARY"))
    maximum = int(data.get("MaximumFractionalValue", 255)) if kind == "FRACTIONAL" else None
    with untrusted(path, "its segments"):
        facts = tuple(_facts(item) for item in data.SegmentSequence)
        shared = data.SharedFunctionalGroupsSequence[0]
        frames = tuple(
            _frame(group, shared, path, is_labelmap=kind == "LABELMAP")
            for group in data.PerFrameFunctionalGroupsSequence
        )
        if int(data.get("NumberOfFrames", 1)) != len(frames):
            message = f"{data.NumberOfFrames} frames are declared, {len(frames)} are described"
            raise InputError(message, code="E-SIZE-MISMATCH", file=path, remedy=_AGAIN)
    return SegmentFrames(path, facts, frames, data, maximum)


def _facts(item: Any) -> SegmentFacts:
    kind = item.get("SegmentedPropertyTypeCodeSequence") or [{}]
    code = (str(kind[0].get("CodingSchemeDesignator", "")), str(kind[0].get("CodeValue", "")))
    return SegmentFacts(
        int(item.SegmentNumber), str(item.get("SegmentLabel", "")), code, str(item.get("TrackingUID", ""))
    )


def _frame(group: Any, shared: Any, path: Path, *, is_labelmap: bool) -> SegmentFrame:
    def first(name: str) -> Any:
        holder = group.get(name) or shared.get(name)
        if not holder:
            message = f"a frame does not say where it lies in the patient ({name} is missing)"
            raise GeometryError(message, code="E-NO-ORIENTATION", file=path, remedy=_AGAIN)
        return holder[0]

    measures = first("PixelMeasuresSequence")
    step = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness")
    rows_mm, columns_mm = (float(part) for part in measures.PixelSpacing)
    axes = np.array(first("PlaneOrientationSequence").ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    number = None if is_labelmap else int(first("SegmentIdentificationSequence").ReferencedSegmentNumber)
    return SegmentFrame(
        number,
        np.array(first("PlanePositionSequence").ImagePositionPatient, dtype=np.float64),
        axes / np.linalg.norm(axes, axis=1, keepdims=True),
        (rows_mm, columns_mm),
        float(step) if step else None,
    )
