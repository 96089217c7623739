"""From DICOM headers to planes: one slice of one image with its place, whether its file holds one frame or many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError, InputError
from medseg.io.decoded import require_spacing
from medseg.io.dicom_files import DicomFile
from medseg.io.dicom_frames import number_of_frames, numbers
from medseg.io.dicom_headers import first_item, texts, untrusted

# Which data sets to ask for an attribute, given the functional group that has it in a multi-frame file
_Holders = Callable[[str], list[Any]]
_SLICE_VECTOR = 0x00540080
_LEAST_STEP_MM = 0.01
_AGAIN = "Export the series again."
_MARKS = {
    "TemporalPositionIdentifier": "FrameContentSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "EchoTime": "MREchoSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "EchoNumbers": "MREchoSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "TriggerTime": "CardiacSynchronizationSequence",
    "NominalPercentageOfCardiacPhase": "CardiacSynchronizationSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "InversionTime": "MRTimingAndRelatedParametersSequence",
    "ImageType": "CTImageFrameTypeSequence",
    "AcquisitionNumber": "FrameContentSequence",
    "AcquisitionTime": "FrameContentSequence",
    "StackID": "FrameContentSequence",
}


@dataclass(frozen=True, eq=False)
class Plane:
    """One frame.

    Attributes:
        position: Centre of the first pixel, LPS mm.
        orientation: (2, 3) direction of a row and of a column, LPS.
        spacing_mm: Between rows, between columns (the order of PixelSpacing).
        rescale: Slope and intercept from stored to output values; None when the header has neither.
        marks: What may tell planes in one place apart: temporal position, echo, diffusion weighting, by attribute.
    """

    file: DicomFile
    frame: int
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    thickness_mm: float | None
    rescale: tuple[float, float] | None
    marks: dict[str, str]

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def modality(self) -> str:
        return str(self.file.header.get("Modality", ""))

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.orientation[0], self.orientation[1])


def planes_of(file: DicomFile) -> list[Plane]:
    """Every frame of one file.

    Raises:
        InputError: As `number_of_frames`, and `E-SIZE-MISMATCH`, `E-DICOM`.
        GeometryError: `E-NO-ORIENTATION`, `E-GEOM-SINGULAR`, `E-GEOM-NONFINITE` or `E-SPACING`.
    """
    count = number_of_frames(file)
    with untrusted(file.path, "where its frames lie"):
        header = file.header
        shared = first_item(header, "SharedFunctionalGroupsSequence")
        per_frame = header.get("PerFrameFunctionalGroupsSequence")
        if per_frame is None and shared is None and count == 1 and "ImagePositionPatient" in header:
            return [_plane(file, 0, lambda _: [header])]
        if per_frame is None and shared is None:
            return _stacked(file, count)
        found = 0 if per_frame is None else len(per_frame)
        if found != count:
            message = f"{count} frames are declared, {found} are described"
            raise InputError(message, code="E-SIZE-MISMATCH", file=file.path, remedy=_AGAIN)
        return [_plane(file, index, _nested(group, shared, header)) for index, group in enumerate(per_frame)]


def _nested(group: Any, shared: Any, header: Any) -> _Holders:
    """The frame's own functional group before the shared one before the data set."""
    return lambda sequence: [first_item(group, sequence), first_item(shared, sequence), header]


def _stacked(file: DicomFile, count: int) -> list[Plane]:
    """Frames of a reconstructed nuclear medicine volume: the first one's place and a signed distance (PS3.3 C.8.4.15).

    Only frames that are slices and nothing else have a place: no time slots, energy windows or angles.
    """
    header = file.header
    detector = first_item(header, "DetectorInformationSequence")
    pointer = header.get("FrameIncrementPointer")
    if detector is None or pointer != _SLICE_VECTOR:
        if count > 1:
            message = f"its {count} frames have no positions of their own"
            raise GeometryError(message, code="E-NO-ORIENTATION", file=file.path, remedy=_AGAIN)
        return [_plane(file, 0, lambda _: [header])]
    order = np.atleast_1d(header.get("SliceVector", ())).astype(int).tolist()
    step = numbers(file, [header], "SpacingBetweenSlices", 1)
    if step is None or abs(step[0]) < _LEAST_STEP_MM or sorted(order) != list(range(1, count + 1)):
        message = (
            f"its {count} frames are not one stack: SpacingBetweenSlices is {step}, SliceVector counts {len(order)}"
        )
        raise GeometryError(message, code="E-NO-ORIENTATION", file=file.path, remedy=_AGAIN)
    first = _plane(file, 0, lambda _: [detector, header])
    return [
        replace(first, frame=index, position=first.position + first.normal * step[0] * (number - 1))
        for index, number in enumerate(order)
    ]


def _plane(file: DicomFile, index: int, holders: _Holders) -> Plane:
    position = numbers(file, holders("PlanePositionSequence"), "ImagePositionPatient", 3)
    orientation = numbers(file, holders("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    if position is None or orientation is None:
        name = "ImagePositionPatient" if position is None else "ImageOrientationPatient"
        message = f"it does not say where it lies in the patient ({name} is missing)"
        raise GeometryError(message, code="E-NO-ORIENTATION", file=file.path, remedy=_AGAIN)
    measures = holders("PixelMeasuresSequence")
    spacing = numbers(file, measures, "PixelSpacing", 2)
    if spacing is None:
        raise GeometryError("PixelSpacing is missing", code="E-SPACING", file=file.path, remedy=_AGAIN)
    require_spacing(spacing, file.path)
    thickness = numbers(file, measures, "SliceThickness", 1)
    scale = holders("PixelValueTransformationSequence")
    slope = numbers(file, scale, "RescaleSlope", 1)
    intercept = numbers(file, scale, "RescaleIntercept", 1)
    return Plane(
        file,
        index,
        np.array(position),
        _unit_axes(orientation, file.path),
        (spacing[0], spacing[1]),
        thickness[0] if thickness else None,
        (slope[0] if slope else 1.0, intercept[0] if intercept else 0.0) if slope or intercept else None,
        _marks(holders),
    )


def _unit_axes(orientation: list[float], path: Path) -> NDArray[np.float64]:
    axes = np.array(orientation).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if not np.isfinite(axes).all():
        message = f"ImageOrientationPatient is {orientation}"
        raise GeometryError(message, code="E-GEOM-NONFINITE", file=path, remedy=_AGAIN)
    if (np.abs(lengths - 1) > 0.01).any() or abs(axes[0] @ axes[1]) > 0.01:
        message = f"ImageOrientationPatient {orientation} is not two unit vectors at right angles"
        raise GeometryError(message, code="E-GEOM-SINGULAR", file=path, remedy=_AGAIN)
    return np.asarray(axes / lengths[:, np.newaxis])


def _marks(holders: _Holders) -> dict[str, str]:
    """Attributes in the order in which they are asked to tell phases apart."""
    marks = {}
    for name, sequence in _MARKS.items():
        holder: Any = next((one for one in holders(sequence) if one is not None and name in one), {})
        if text := "\\".join(texts(holder, name)):
            marks[name] = text
    return marks
