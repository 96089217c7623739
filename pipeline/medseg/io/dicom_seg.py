"""Masks to DICOM segmentations (PS3.3 A.51), on the slices of the series that they were drawn on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.core.segments import Algorithm, Segment, SegmentationKind
from medseg.io.dicom_objects import (
    concept,
    decimals,
    finish,
    instance_references,
    require_identity,
    save,
    series_facts,
    slice_reference,
    stand_ins,
)
from medseg.io.dicom_segments import read_frames
from medseg.io.dicom_source import SourceSlices

_SERIES_NUMBER = 300


@dataclass(frozen=True)
class WrittenSegmentation:
    """A SEG for reports to refer to: its UIDs and what its segments are."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    segments: tuple[Segment, ...]


def write_segmentation(
    labels: NDArray[Any],
    slices: SourceSlices,
    path: Path,
    *,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    kind: SegmentationKind = "binary",
) -> WrittenSegmentation:
    """Write a mask as one DICOM SEG; slices without a segment take no frame.

    Args:
        labels: (K, rows, columns) on the pixels of `slices`: 0 and the numbers of the segments.
        slices: Of the source series.
        path: Where.
        segments: Numbered 1, 2, 3 ... without a gap, each with at least one pixel.
        algorithm: Who made the mask.
        kind: `binary`, one frame per segment and slice, or `labelmap`, one frame per slice (Supplement 243), which
            fewer viewers read.

    Raises:
        InputError: `E-EMPTY-MASK`, `E-SOURCE-UID`, `E-NOT-WRITABLE`, `E-DISK-FULL` or `E-READ-BACK`.
        GeometryError: `E-FRAME-OF-REFERENCE`.
    """
    from highdicom.seg import Segmentation

    require_identity(slices, path)
    if not segments:
        message = "the mask is empty, and a DICOM segmentation must hold a segment"
        raise InputError(message, code="E-EMPTY-MASK", file=path, remedy="Write it in another format, or not at all.")
    with warnings.catch_warnings():
        # the source's own values are copied as they are, whatever highdicom thinks of them
        warnings.simplefilter("ignore")
        dataset = Segmentation(
            source_images=stand_ins(slices),
            pixel_array=labels,
            segmentation_type=kind.upper(),
            segment_descriptions=[_description(segment, algorithm) for segment in segments],
            content_label="SEGMENTATION",
            content_description=f"{algorithm.name} {algorithm.version}"[:64],
            **series_facts(algorithm, what="segmentation", number=_SERIES_NUMBER),
        )
    _refer_to_slices(dataset, slices)
    finish(dataset, slices, segments)
    numbers = {segment.number for segment in segments}
    save(dataset, path, verify=lambda written: _reads_as(written, labels, slices, numbers))
    return WrittenSegmentation(
        str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID), tuple(segments)
    )


def _description(segment: Segment, algorithm: Algorithm) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    term = segment.term
    identification = AlgorithmIdentificationSequence(
        algorithm.name, codes.DCM.ArtificialIntelligence, algorithm.version
    )
    described = SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label,
        segmented_property_category=concept(term.category),
        segmented_property_type=concept(term.type),
        algorithm_type=algorithm.kind,
        algorithm_identification=None if algorithm.kind == "MANUAL" else identification,
        tracking_uid=segment.tracking_uid,
        tracking_id=segment.tracking_id if segment.tracking_uid else None,
        anatomic_regions=None if term.region is None else [concept(term.region)],
        display_color=CIELabColor.from_rgb(*term.colour),
    )
    if term.modifier is not None:
        described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            concept(term.modifier)
        ]
    if term.region is not None and term.region_modifier is not None:
        described.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [concept(term.region_modifier)]
    return described


def _refer_to_slices(dataset: Any, slices: SourceSlices) -> None:
    """Replace the numbers of the stand-ins by the instances and frames that they stand for."""
    places = {f"2.25.{number}": piece for number, piece in enumerate(slices.slices, start=1)}
    for group in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in group.DerivationImageSequence:
            for item in derivation.SourceImageSequence:
                piece = places.get(str(item.ReferencedSOPInstanceUID))
                if piece is not None:
                    item.update(slice_reference(piece, slices))
    dataset.SourceImageSequence = instance_references(slices)
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = instance_references(slices)


def _reads_as(path: Path, labels: NDArray[Any], slices: SourceSlices, numbers: set[int]) -> bool:
    """Whether every frame of the file shows its segment of its slice, and no pixel of the mask is left out."""
    places = {tuple(decimals(piece.position_mm)): index for index, piece in enumerate(slices.slices)}
    frames = read_frames(path)
    rest = np.sum([np.bincount(plane.ravel(), minlength=max(numbers) + 1) for plane in labels], axis=0)
    for frame, pixels in zip(frames.frames, frames.pixels(), strict=True):
        index = places.get(tuple(decimals(frame.position_mm)))
        if index is None:
            return False
        expected = labels[index] if frame.number is None else labels[index] == frame.number
        if not np.array_equal(pixels, expected):
            return False
        rest -= np.bincount(labels[index][pixels > 0], minlength=rest.size)
    return not rest[1:].any()
