"""Faces cut out of DICOM images: by where each pixel lies in the patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.core.geometry import lps_to_ras
from medseg.io.dicom_files import find_dicom
from medseg.io.dicom_headers import HEAD_BYTES, is_dicom, read_object, untrusted
from medseg.io.dicom_planes import Plane, planes_of
from medseg.io.files import opened

_MODALITIES = {"CT", "MR"}
_SHARED = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "FrameOfReferenceUID")
_BYTES = {8: 1, 16: 2, 32: 4}


@dataclass(frozen=True, eq=False)
class Face:
    """What is cut away of a series.

    Attributes:
        holds: Of (..., 3) RAS+ mm, whether each is cut away.
        air: What takes its place, in the units of the modality.
    """

    holds: Callable[[NDArray[np.float64]], NDArray[np.bool_]]
    air: float


def series_key(path: Path) -> tuple[str, ...]:
    """What the objects of one series of CT or MR images share; nothing for any other file.

    Raises:
        InputError: As `read_object`.
    """
    with opened(path) as stream:
        if not is_dicom(stream.read(HEAD_BYTES)):
            return ()
    header = read_object(path, is_whole=False)
    is_image = str(header.get("Modality", "")) in _MODALITIES and "Rows" in header
    return tuple(str(header.get(name, "")) for name in _SHARED) if is_image else ()


def cut_face(data: Any, face: Face, path: Path) -> bool:
    """Blank the face in every frame of an object, and say so in it; whether any pixel was blanked.

    Raises:
        InputError: `E-DEFACE` when its pixels cannot be rewritten, or as `planes_of`.
        GeometryError: As `planes_of`.
    """
    bits = int(data.get("BitsAllocated", 0))
    if bits not in _BYTES or "ModalityLUTSequence" in data or data.get("PhotometricInterpretation") != "MONOCHROME2":
        message = "its pixels are stored in a way that cannot be blanked"
        raise InputError(message, code="E-DEFACE", file=path, remedy="Convert it, or leave it out.")
    planes = [plane for file in find_dicom(path)[0] for plane in planes_of(file)]
    masks = {plane.frame: face.holds(_places(plane)) for plane in planes}
    data.RecognizableVisualFeatures = "NO"
    if not any(mask.any() for mask in masks.values()):
        return False
    with untrusted(path, "its pixels"):
        if data.file_meta.TransferSyntaxUID.is_compressed:
            data.decompress()
        sign = "i" if int(data.get("PixelRepresentation", 0)) else "u"
        order = "<" if data.file_meta.TransferSyntaxUID.is_little_endian else ">"
        kind = np.dtype(f"{order}{sign}{_BYTES[bits]}")
        stored = np.frombuffer(bytes(data.PixelData), kind).copy()
        frames = stored[: len(planes) * planes[0].file.rows * planes[0].file.columns]
        frames = frames.reshape(len(planes), planes[0].file.rows, planes[0].file.columns)
        for plane in planes:
            frames[plane.frame][masks[plane.frame]] = _stored(face.air, plane, data, kind)
        data.PixelData = stored.tobytes()
    return True


def _places(plane: Plane) -> NDArray[np.float64]:
    """(rows, columns, 3) RAS+ mm of the pixels' centres (PS3.3 C.7.6.2.1.1)."""
    down, across = plane.spacing_mm
    rows = np.arange(plane.file.rows)[:, np.newaxis, np.newaxis] * plane.orientation[1] * down
    columns = np.arange(plane.file.columns)[np.newaxis, :, np.newaxis] * plane.orientation[0] * across
    return np.asarray((plane.position + rows + columns) @ lps_to_ras(np.eye(4))[:3, :3])


def _stored(value: float, plane: Plane, data: Any, kind: np.dtype[Any]) -> int:
    """The stored number nearest to a value, within the bits that are used."""
    slope, intercept = plane.rescale or (1.0, 0.0)
    bits = int(data.get("BitsStored", kind.itemsize * 8))
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if kind.kind == "i" else (0, (1 << bits) - 1)
    return int(np.clip(round((value - intercept) / slope), low, high))
