"""From DICOM headers to planes: one slice of one image with its place, whether its file holds one frame or many."""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError, InputError
from medseg.io.decoded import require_spacing
from medseg.io.dicom_files import DicomFile, untrusted, whole_number

_ENCAPSULATED_RATIO = 10_000
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
_CONVERT = "Export one real number per pixel (original CT, MR or PET images)."


@dataclass(frozen=True, eq=False)
class Plane:
    """One frame.

    Attributes:
        position: Centre of the first pixel, LPS mm.
        orientation: (2, 3) direction of a row and of a column, LPS.
        spacing_mm: Between rows, between columns (the order of PixelSpacing).
        marks: What may tell planes in one place apart: temporal position, echo, diffusion weighting, by attribute.
    """

    file: DicomFile
    frame: int
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    thickness_mm: float | None
    slope: float
    intercept: float
    marks: dict[str, str]

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.orientation[0], self.orientation[1])


def planes_of(file: DicomFile) -> list[Plane]:
    """Every frame of one file.

    Raises:
        InputError: `E-NO-PIXELS`, `E-RGB`, `E-PHOTOMETRIC`, `E-DIMS`, `E-SIZE-MISMATCH`, `E-SHORT-DATA`, `E-DICOM`.
        GeometryError: `E-NO-ORIENTATION`, `E-GEOM-SINGULAR`, `E-GEOM-NONFINITE` or `E-SPACING`.
    """
    count = _number_of_frames(file)
    with untrusted(file.path, "where its frames lie"):
        header = file.header
        shared = _first(header, "SharedFunctionalGroupsSequence")
        per_frame = header.get("PerFrameFunctionalGroupsSequence")
        if per_frame is None and shared is None and count == 1:
            return [_plane(file, 0, [header])]
        if per_frame is None and shared is None:
            message = f"its {count} frames have no positions of their own"
            raise GeometryError(message, code="E-NO-ORIENTATION", file=file.path, remedy=_AGAIN)
        found = 0 if per_frame is None else len(per_frame)
        if found != count:
            message = f"{count} frames are declared, {found} are described"
            raise InputError(message, code="E-SIZE-MISMATCH", file=file.path, remedy=_AGAIN)
        return [_plane(file, index, [group, shared, header]) for index, group in enumerate(per_frame)]


def _number_of_frames(file: DicomFile) -> int:
    """Check what the header claims against the bytes there are, before any pixel is decoded."""
    header, path = file.header, file.path
    if file.pixel_bytes is None:
        raise InputError("it has no pixels", code="E-NO-PIXELS", file=path, remedy=_AGAIN)
    samples = whole_number(header, "SamplesPerPixel", 1, path)
    photometric = str(header.get("PhotometricInterpretation", ""))
    if samples != 1 or photometric.startswith(("RGB", "YBR", "PALETTE")):
        message = f"expected one number per pixel, found {photometric or samples}"
        raise InputError(message, code="E-RGB", file=path, remedy=_CONVERT)
    if photometric == "MONOCHROME1":
        message = "its grey scale is inverted (MONOCHROME1), so its numbers are not what the modality measures"
        raise InputError(message, code="E-PHOTOMETRIC", file=path, remedy=_CONVERT)
    rows, columns, frames = file.rows, file.columns, whole_number(header, "NumberOfFrames", 1, path)
    bits = whole_number(header, "BitsAllocated", 0, path)
    if min(rows, columns, frames, bits) < 1:
        message = f"{rows} rows, {columns} columns, {frames} frames and {bits} bits cannot be"
        raise InputError(message, code="E-DIMS", file=path, remedy=_AGAIN)
    _refuse_claim(file, rows * columns * frames * max(bits, 8) // 8)
    return frames


def _refuse_claim(file: DicomFile, claimed: int) -> None:
    is_packed = file.pixel_bytes == -1
    if is_packed and claimed <= _ENCAPSULATED_RATIO * file.size:
        return
    found = file.size if is_packed else min(file.pixel_bytes or 0, file.size)
    if not is_packed and claimed <= found:
        return
    code = "E-SIZE-MISMATCH" if is_packed or claimed > 100 * file.size else "E-SHORT-DATA"
    message = f"rows x columns x frames need {claimed} bytes of pixels, the file has {found}"
    raise InputError(message, code=code, file=file.path, remedy="Copy or export this slice again.")


def _first(data: Any, name: str) -> Any:
    sequence = data.get(name) if data is not None else None
    return sequence[0] if sequence else None


def _plane(file: DicomFile, index: int, groups: list[Any]) -> Plane:
    position = _numbers(file, groups, ("PlanePositionSequence", "ImagePositionPatient"), 3)
    orientation = _numbers(file, groups, ("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    if position is None or orientation is None:
        name = "ImagePositionPatient" if position is None else "ImageOrientationPatient"
        message = f"it does not say where it lies in the patient ({name} is missing)"
        raise GeometryError(message, code="E-NO-ORIENTATION", file=file.path, remedy=_AGAIN)
    spacing = _numbers(file, groups, ("PixelMeasuresSequence", "PixelSpacing"), 2)
    if spacing is None:
        raise GeometryError("PixelSpacing is missing", code="E-SPACING", file=file.path, remedy=_AGAIN)
    require_spacing(spacing, file.path)
    thickness = _numbers(file, groups, ("PixelMeasuresSequence", "SliceThickness"), 1)
    rescale = "PixelValueTransformationSequence"
    slope = _numbers(file, groups, (rescale, "RescaleSlope"), 1)
    intercept = _numbers(file, groups, (rescale, "RescaleIntercept"), 1)
    return Plane(
        file,
        index,
        np.array(position),
        _unit_axes(orientation, file.path),
        (spacing[0], spacing[1]),
        thickness[0] if thickness else None,
        slope[0] if slope else 1.0,
        intercept[0] if intercept else 0.0,
        _marks(groups),
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


def _numbers(file: DicomFile, groups: list[Any], names: tuple[str, str], count: int) -> list[float] | None:
    """A decimal attribute: in the frame's functional group, in the shared one, or in the data set itself."""
    sequence, name = names
    for group in groups:
        holder = _first(group, sequence) if group is not file.header else group
        if holder is None or name not in holder:
            continue
        try:
            value = holder[name].value
            numbers = [float(part) for part in ([value] if count == 1 else value or [])]
        except (ValueError, TypeError, OverflowError) as error:
            raise _bad_number(file, name, str(error)) from None
        if numbers and len(numbers) != count:
            raise _bad_number(file, name, f"{len(numbers)} numbers, expected {count}")
        return numbers or None
    return None


def _bad_number(file: DicomFile, name: str, found: str) -> InputError:
    message = f"{name} cannot be read: {found}"
    if name == "PixelSpacing":
        return GeometryError(message, code="E-SPACING", file=file.path, remedy=_AGAIN)
    return InputError(message, code="E-DICOM", file=file.path, remedy=_AGAIN)


def _marks(groups: list[Any]) -> dict[str, str]:
    """Attributes in the order in which they are asked to tell phases apart, from the frame or the data set."""
    marks = {}
    for name, sequence in _MARKS.items():
        holders = [_first(group, sequence) for group in groups[:-1]] + groups[-1:]
        value = next((holder.get(name) for holder in holders if holder is not None and name in holder), None)
        text = "\\".join(map(str, value)) if isinstance(value, MutableSequence) else str(value or "")
        if text:
            marks[name] = text
    return marks
