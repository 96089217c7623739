"""Masks to RT structure sets (PS3.3 A.19): closed contours on the slices of the series that they were drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry, lps_to_ras
from medseg.core.segments import Algorithm, Segment
from medseg.core.terminology import Code
from medseg.io.dicom_contours import Structure, fill_contours, read_structures, trace
from medseg.io.dicom_objects import (
    finish,
    instance_references,
    require_identity,
    save,
    series_facts,
    slice_reference,
)
from medseg.io.dicom_patient import identity_of
from medseg.io.dicom_source import SourceSlice, SourceSlices

_SERIES_NUMBER = 301
_PLACES = 4  # decimals of a coordinate in mm: far less than a voxel, and within the 16 characters of a DICOM number


def write_structure_set(
    labels: NDArray[Any],
    slices: SourceSlices,
    path: Path,
    *,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    seed: str = "",
) -> None:
    """Write a mask as one RTSTRUCT with a region of interest per segment.

    Args:
        labels: (K, rows, columns) on the pixels of `slices`: 0 and the numbers of the segments.
        slices: Of the source series.
        path: Where.
        segments: What the numbers mean.
        algorithm: Who made the mask.
        seed: Of the object's UIDs, as `series_facts`.

    Raises:
        InputError: `E-EMPTY-MASK`, `E-SOURCE-UID`, `E-NOT-WRITABLE`, `E-DISK-FULL` or `E-READ-BACK`.
        GeometryError: `E-FRAME-OF-REFERENCE`.
    """
    require_identity(slices, path)
    if not segments:
        message = "the mask is empty, and a structure set must hold a region of interest"
        raise InputError(message, code="E-EMPTY-MASK", file=path, remedy="Write it in another format, or not at all.")
    dataset = _head(slices, algorithm, seed)
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(slices)]
    dataset.StructureSetROISequence = [_region(segment, slices, algorithm) for segment in segments]
    dataset.ROIContourSequence = [_contours(labels, slices, segment) for segment in segments]
    dataset.RTROIObservationsSequence = [_observation(segment) for segment in segments]
    dataset.ApprovalStatus = "UNAPPROVED"
    finish(dataset, slices, segments)
    save(dataset, path, verify=lambda written: _reads_as(written, labels, slices, segments))


def _head(slices: SourceSlices, algorithm: Algorithm, seed: str) -> Any:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

    facts = series_facts(algorithm, what="contours", number=_SERIES_NUMBER, seed=seed)
    dataset = identity_of(slices.header)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = RTStructureSetStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = facts["sop_instance_uid"]
    now = datetime.now().astimezone()
    dataset.InstanceCreationDate = dataset.StructureSetDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.StructureSetTime = now.strftime("%H%M%S")
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = facts["series_instance_uid"]
    dataset.SeriesNumber, dataset.InstanceNumber = facts["series_number"], facts["instance_number"]
    dataset.SeriesDescription = facts["series_description"]
    dataset.OperatorsName = ""
    dataset.Manufacturer, dataset.ManufacturerModelName = facts["manufacturer"], facts["manufacturer_model_name"]
    dataset.SoftwareVersions = facts["software_versions"]
    dataset.StructureSetLabel = "SEGMENTATION"
    dataset.StructureSetName = facts["series_description"]
    return dataset


def _frame_of_reference(slices: SourceSlices) -> Any:
    """Frame of reference, study, series and instances that the contours lie on."""
    from pydicom.dataset import Dataset

    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = slices.header.SeriesInstanceUID
    series.ContourImageSequence = instance_references(slices)
    # the class that the attribute asks for although it is retired (PS3.3 C.8.8.5)
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = slices.header.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = slices.header.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _region(segment: Segment, slices: SourceSlices, algorithm: Algorithm) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ROINumber = segment.number
    item.ReferencedFrameOfReferenceUID = slices.header.FrameOfReferenceUID
    item.ROIName = segment.label
    item.ROIGenerationAlgorithm = algorithm.kind
    item.ROIGenerationDescription = f"{algorithm.name} {algorithm.version}"[:64]
    return item


def _contours(labels: NDArray[Any], slices: SourceSlices, segment: Segment) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ROIDisplayColor = list(segment.term.colour)
    item.ReferencedROINumber = segment.number
    item.ContourSequence = [
        _contour(points, piece, slices)
        for plane, piece in zip(labels, slices.slices, strict=True)
        for points in trace(plane == segment.number)
    ]
    return item


def _contour(points: NDArray[np.float64], piece: SourceSlice, slices: SourceSlices) -> Any:
    """One closed contour; `points` (n, 2) are rows and columns."""
    from pydicom.dataset import Dataset

    affine = piece.to_lps
    places = points[:, 1:] * affine[:3, 0] + points[:, :1] * affine[:3, 1] + affine[:3, 3]
    item = Dataset()
    item.ContourImageSequence = [slice_reference(piece, slices)]
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(points)
    item.ContourData = [f"{number:.{_PLACES}f}" for number in places.ravel()]
    return item


def _observation(segment: Segment) -> Any:
    from pydicom.dataset import Dataset

    term = segment.term
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = segment.number
    item.ROIObservationLabel = segment.label[:16]
    code = _coded(term.type)
    if term.modifier is not None:
        code.SegmentedPropertyTypeModifierCodeSequence = [_coded(term.modifier)]
    item.RTROIIdentificationCodeSequence = [code]
    # what a lesion is to the treatment (GTV, CTV ...) is for a physician to say
    item.RTROIInterpretedType = "" if term.is_lesion else "ORGAN"
    item.ROIInterpreter = ""
    return item


def _coded(code: Code) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    return item


def _reads_as(path: Path, labels: NDArray[Any], slices: SourceSlices, segments: Sequence[Segment]) -> bool:
    """Whether filling each contour on its own slice gives the mask again."""
    structures = {item.number: item for item in read_structures(path)}
    return all(
        segment.number in structures and _fills(structures[segment.number], labels == segment.number, slices)
        for segment in segments
    )


def _fills(structure: Structure, mask: NDArray[np.bool_], slices: SourceSlices) -> bool:
    """Contours are sorted to the slice nearest along the normal: a tilted series has no one grid."""
    pieces = slices.slices
    normal = np.cross(pieces[0].orientation[0], pieces[0].orientation[1])
    heights = np.array([piece.position_mm @ normal for piece in pieces])
    by_slice: dict[int, list[NDArray[np.float64]]] = {}
    for points in structure.contours:
        place = int(np.abs(heights - points[0] @ normal).argmin())
        by_slice.setdefault(place, []).append(points)
    if set(by_slice) != set(np.flatnonzero(mask.any(axis=(1, 2))).tolist()):
        return False
    for place, contours in by_slice.items():
        piece = pieces[place]
        grid = _slice_grid(piece)
        found = fill_contours(Structure(structure.number, structure.name, tuple(contours)), grid, Path())
        if not np.array_equal(found[:, :, 0].T, mask[place]):
            return False
    return True


def _slice_grid(piece: SourceSlice) -> Geometry:
    return Geometry((piece.columns, piece.rows, 1), lps_to_ras(piece.to_lps))
