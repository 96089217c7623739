"""The original slices of a series, as they were made, and the way of a mask back onto their pixels."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.document import Document
from medseg.core.geometry import Affine, Geometry, Vector, lps_to_ras
from medseg.core.reading import Reading
from medseg.core.volume import LabelMap
from medseg.io.contained import containable
from medseg.io.decoded import Decoded, ReadOptions
from medseg.io.dicom_headers import untrusted
from medseg.io.dicom_patient import header_of
from medseg.io.dicom_planes import Plane
from medseg.io.dicom_series import chosen_planes
from medseg.io.worded import facts_of, worded

_UNMOVED = 1e-3  # voxels
_OFF_LINE_MM = 0.1


@dataclass(frozen=True, eq=False)
class SourceSlice:
    """One original slice: where it lies and what it is called.

    Attributes:
        instance_number: As DICOM viewers show it; None where the file does not say.
        frame_number: In its instance, 1 for the first; 1 in a file of one frame.
        position_mm: (3,) LPS mm, the centre of its first pixel.
        orientation: (2, 3) LPS unit vectors: along a row (columns grow), along a column (rows grow).
        pixel_spacing_mm: Between rows, between columns, the order of PixelSpacing.
    """

    sop_instance_uid: str
    sop_class_uid: str
    instance_number: int | None
    frame_number: int
    position_mm: NDArray[np.float64]
    orientation: NDArray[np.float64]
    pixel_spacing_mm: tuple[float, float]
    rows: int
    columns: int

    @property
    def to_lps(self) -> Affine:
        """(4, 4) pixel (column, row, 0, 1) to LPS mm: the equation of PS3.3 C.7.6.2.1.1."""
        affine = np.eye(4)
        affine[:3, 0] = self.orientation[0] * self.pixel_spacing_mm[1]
        affine[:3, 1] = self.orientation[1] * self.pixel_spacing_mm[0]
        affine[:3, 2] = np.cross(self.orientation[0], self.orientation[1])
        affine[:3, 3] = self.position_mm
        return affine


@dataclass(frozen=True, eq=False)
class SourceSlices:
    """The slices of one volume of one series, sorted along their normal; tilted, uneven or with gaps as they are.

    Attributes:
        slices: In order; every one has the same rows and columns.
        header: Of the first slice, what `header_of` hands on: patient, study, series, frame of reference.
    """

    slices: tuple[SourceSlice, ...]
    header: Any


class _Piece(Document):
    """One slice as it is told: a row of numbers for every array of `SourceSlice`."""

    sop_instance_uid: str
    sop_class_uid: str
    instance_number: int | None
    frame_number: int
    position_mm: Vector
    orientation: tuple[Vector, Vector]
    pixel_spacing_mm: tuple[float, float]
    rows: int
    columns: int


class _Described(Document):
    """All of them, and the header as DICOM writes it, explicit and little-endian, in base64."""

    slices: tuple[_Piece, ...]
    header: str


def source_slices(path: Path | str, *, series: str | None = None, phase: str | None = None) -> SourceSlices:
    """Describe the original slices of the series that `read_volume` would read, without decoding their pixels.

    Nothing is asked of their distances: what `fix_geometry` would have to repair is given as it is.

    Args:
        path: A folder, zip or file with DICOM objects.
        series: Which series, as in `Reading`.
        phase: Which phase of it, as in `Reading`.

    Raises:
        InputError: As `chosen_planes`.
        GeometryError: As `chosen_planes`.
    """
    from pydicom.filereader import read_dataset

    options = ReadOptions(Reading(series=series, phase=phase))
    found = _Described.model_validate(facts_of(describe_slices(Path(path), options)))
    header = read_dataset(BytesIO(b64decode(found.header)), is_implicit_VR=False, is_little_endian=True)
    return SourceSlices(tuple(map(_slice_of, found.slices)), header)


@containable
def describe_slices(path: Path, options: ReadOptions) -> Decoded:
    """The words that `source_slices` makes its answer of."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    planes, _ = chosen_planes(path, options.reading)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    with untrusted(planes[0].path, "its header"):
        write_dataset(buffer, header_of(planes[0].file.header))
        pieces = tuple(_described(plane) for plane in planes)
    return worded(_Described(slices=pieces, header=b64encode(buffer.getvalue()).decode()).model_dump())


def slices_grid(slices: SourceSlices) -> Geometry | None:
    """The grid (column, row, slice) of the slices, oblique to their normal under a tilted gantry; None when uneven."""
    pieces = slices.slices
    positions = np.array([piece.position_mm for piece in pieces])
    affine = pieces[0].to_lps
    if len(pieces) > 1:
        affine[:3, 2] = (positions[-1] - positions[0]) / (len(pieces) - 1)
        line = positions[0] + np.arange(len(pieces))[:, np.newaxis] * affine[:3, 2]
        if np.abs(line - positions).max() > _OFF_LINE_MM:
            return None
    return Geometry((pieces[0].columns, pieces[0].rows, len(pieces)), lps_to_ras(affine))


def labels_on_slices(label_map: LabelMap, slices: SourceSlices) -> NDArray[Any]:
    """Look up the label at every original pixel's place in the patient: nearest voxel, 0 outside the mask's grid.

    Where the mask lies on the slices' own grid this is a permutation of its voxels; a mask on a straightened or filled
    grid is sampled at the places of the original pixels. One slice is worked on at a time.

    Args:
        label_map: On any grid.
        slices: Where to look.

    Returns:
        (K, rows, columns) of the mask's number type, in the order of `slices`.
    """
    rows, columns = slices.slices[0].rows, slices.slices[0].columns
    labels = np.zeros((len(slices.slices), rows, columns), label_map.array.dtype)
    to_index = np.linalg.inv(label_map.geometry.affine)
    for found, piece in zip(labels, slices.slices, strict=True):
        look_up(label_map.array, to_index @ lps_to_ras(piece.to_lps), found)
    return labels


def look_up(array: NDArray[Any], pixel_to_index: Affine, found: NDArray[Any]) -> None:
    """Fill `found` (rows, columns) with the voxels nearest to (column, row) under `pixel_to_index`, 0 outside."""
    rows, columns = found.shape
    down, across = np.arange(rows)[:, np.newaxis], np.arange(columns)[np.newaxis]
    nearest, inside = [], np.ones((1, 1), dtype=bool)
    for size, (by_column, by_row, _, start) in zip(array.shape, pixel_to_index[:3], strict=True):
        # an index that one pixel axis does not move stays a row or a column of numbers: broadcasting does the rest
        index = np.full((1, 1), start)
        if abs(by_row) * rows > _UNMOVED:
            index = index + by_row * down
        if abs(by_column) * columns > _UNMOVED:
            index = index + by_column * across
        whole = np.floor(index + 0.5).astype(np.int64)
        inside = inside & (whole >= 0) & (whole < size)
        nearest.append(np.clip(whole, 0, size - 1))
    found[...] = np.where(inside, array[nearest[0], nearest[1], nearest[2]], 0)


def _slice_of(piece: _Piece) -> SourceSlice:
    facts = piece.model_dump()
    arrays = {name: np.array(facts[name]) for name in ("position_mm", "orientation")}
    return SourceSlice(**facts | arrays)


def _described(plane: Plane) -> _Piece:
    header = plane.file.header
    return _Piece.model_validate(
        {
            "sop_instance_uid": str(header.get("SOPInstanceUID", "")),
            "sop_class_uid": str(header.get("SOPClassUID", "")),
            "instance_number": _instance_number(header),
            "frame_number": plane.frame + 1,
            "position_mm": plane.position.tolist(),
            "orientation": plane.orientation.tolist(),
            "pixel_spacing_mm": plane.spacing_mm,
            "rows": plane.file.rows,
            "columns": plane.file.columns,
        }
    )


def _instance_number(header: Any) -> int | None:
    text = str(header.get("InstanceNumber", "")).strip()
    return int(text) if text.lstrip("-").isdigit() else None
