"""A tree of DICOM files as image series, and the segmentations and structure sets that were drawn on them.

Headers are read one by one and let go of: a tree may hold hundreds of thousands of files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.core.errors import InputError
from medseg.io.dicom_files import each_file
from medseg.io.dicom_headers import first_item, untrusted
from medseg.io.dicom_labels import STRUCTURE_SET, names_in
from medseg.io.dicom_listing import is_localizer
from medseg.io.dicom_segments import is_segmentation
from medseg.io.dicom_series import identity_of_series, is_image_object, list_series


@dataclass(frozen=True)
class ImageSeries:
    """One series of images.

    Attributes:
        folder: The deepest one that holds all its files.
        series: Its number among the series of that folder, as `medseg series` counts; None when it is alone there.
        uid: SeriesInstanceUID.
        frame_of_reference: FrameOfReferenceUID; empty when there is none.
        patient: PatientID, which must not be written anywhere.
        modality: As DICOM writes it: CT, MR, PT, US.
    """

    folder: Path
    series: str | None
    uid: str
    frame_of_reference: str
    patient: str
    modality: str


@dataclass(frozen=True)
class Annotation:
    """One segmentation or structure set.

    Attributes:
        series: SeriesInstanceUIDs that it says it was drawn on; often one.
        frame_of_reference: FrameOfReferenceUID; empty when there is none.
        names: Its segments or regions with their numbers.
    """

    path: Path
    series: tuple[str, ...]
    frame_of_reference: str
    names: dict[str, int]


@dataclass(frozen=True)
class DicomTree:
    """What a folder holds, in the order of the paths.

    Attributes:
        damaged: What reading each damaged object met; the rest of its series is there.
    """

    images: tuple[ImageSeries, ...]
    annotations: tuple[Annotation, ...]
    damaged: tuple[InputError, ...]


def read_tree(folder: Path) -> DicomTree:
    """Look at every file of a folder and its sub-folders.

    Raises:
        InputError: A damaged segmentation or structure set, or as `list_series` for a folder of several series.
    """
    places: dict[tuple[str, str, str, str], list[Path]] = {}
    modality: dict[tuple[str, str, str, str], str] = {}
    annotations: list[Annotation] = []
    damaged: list[InputError] = []
    for place in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            file = next(each_file(place))[1]
        except InputError as error:
            damaged.append(error)
            continue
        if file is not None and is_annotation(file.header):
            annotations.append(_annotation(place, file.header))
        elif file is not None and is_image_object(file) and not is_localizer(file):
            key = identity_of_series(file)
            places.setdefault(key, []).append(place)
            modality[key] = str(file.header.get("Modality", ""))
    folders = {key: Path(os.path.commonpath([path.parent for path in paths])) for key, paths in places.items()}
    numbers = {home: _numbers(home, folders.values()) for home in set(folders.values())}
    images = tuple(
        ImageSeries(home, numbers[home].get(key[0]), key[0], key[3], key[2], modality[key])
        for key, home in folders.items()
    )
    return DicomTree(images, tuple(annotations), tuple(damaged))


def is_annotation(header: Any) -> bool:
    """A segmentation or a structure set."""
    return is_segmentation(header) or str(header.get("SOPClassUID", "")) == STRUCTURE_SET


def _numbers(folder: Path, homes: Iterable[Path]) -> dict[str, str]:
    """Number by UID where a folder and its sub-folders hold several series; nothing where they hold one."""
    if sum(home.is_relative_to(folder) for home in homes) < 2:
        return {}
    return {one.uid: str(one.number) for one in list_series(folder)}


def _annotation(path: Path, header: Any) -> Annotation:
    with untrusted(path, "what it refers to"):
        frames = header.get("ReferencedFrameOfReferenceSequence") or ()
        if is_segmentation(header):
            series = [str(item.SeriesInstanceUID) for item in header.get("ReferencedSeriesSequence") or ()]
            frame = str(header.get("FrameOfReferenceUID", ""))
        else:
            series = list(_series_of_structures(frames))
            frame = str(getattr(first_item(header, "ReferencedFrameOfReferenceSequence"), "FrameOfReferenceUID", ""))
    return Annotation(path, tuple(dict.fromkeys(series)), frame, names_in(path))


def _series_of_structures(frames: Iterable[Any]) -> Iterator[str]:
    for frame in frames:
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                yield str(series.SeriesInstanceUID)
