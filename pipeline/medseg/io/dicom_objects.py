"""What every DICOM object of ours shares: the source's patient and study, who made it, codes, and the way to disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from medseg.core.errors import GeometryError, InputError
from medseg.core.segments import Algorithm, Segment
from medseg.core.terminology import PRIVATE_SCHEME, Code, hashed_uid
from medseg.io.dicom_patient import PLACE, identity_of
from medseg.io.dicom_source import SourceSlice, SourceSlices
from medseg.io.files import atomic_path

MAKER = "medseg"
_EXPORT = "Export the series again from the archive; medseg makes up no identity for it."


def require_identity(slices: SourceSlices, path: Path) -> None:
    """Refuse a source that nothing could be filed beside.

    Raises:
        GeometryError: `E-FRAME-OF-REFERENCE`.
        InputError: `E-SOURCE-UID`.
    """
    header = slices.header
    if not header.get("FrameOfReferenceUID"):
        message = "the series has no FrameOfReferenceUID, so nothing can be placed in its patient"
        raise GeometryError(message, code="E-FRAME-OF-REFERENCE", file=path, remedy=_EXPORT)
    missing = [name for name in ("StudyInstanceUID", "SeriesInstanceUID") if not header.get(name)]
    if not all(piece.sop_instance_uid and piece.sop_class_uid for piece in slices.slices):
        missing.append("SOPInstanceUID")
    if missing:
        message = f"the series has no {', '.join(missing)}, so nothing can refer to it"
        raise InputError(message, code="E-SOURCE-UID", file=path, remedy=_EXPORT)


def stand_ins(slices: SourceSlices) -> list[Any]:
    """One single-frame data set per slice, for highdicom: the place of the slice, its number as its UID.

    Enhanced images, repeated UIDs and orientations that differ in the last digit all become the same simple case;
    `refer_to_slices` puts the true references in place of the numbers.
    """
    from pydicom.dataset import Dataset
    from pydicom.uid import CTImageStorage

    pieces = slices.slices
    first = pieces[0]
    shared = identity_of(slices.header)
    shared.SOPClassUID, shared.Modality = CTImageStorage, str(slices.header.get("Modality") or "OT")
    shared.SeriesInstanceUID = slices.header.SeriesInstanceUID
    shared.Rows, shared.Columns = first.rows, first.columns
    shared.ImageOrientationPatient = decimals(first.orientation.ravel())
    shared.PixelSpacing = decimals(first.pixel_spacing_mm)
    shared.SliceThickness = decimals([thickness_mm(slices)])[0]
    found = []
    for number, piece in enumerate(pieces, start=1):
        stand_in = Dataset()
        stand_in.update(shared)
        stand_in.SOPInstanceUID = f"2.25.{number}"
        stand_in.ImagePositionPatient = decimals(piece.position_mm)
        found.append(stand_in)
    return found


def slice_reference(piece: SourceSlice, slices: SourceSlices) -> Any:
    """An item that refers to one slice, with its frame number when its file holds several."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID = piece.sop_class_uid
    item.ReferencedSOPInstanceUID = piece.sop_instance_uid
    if int(slices.header.get("NumberOfFrames") or 1) > 1:
        item.ReferencedFrameNumber = piece.frame_number
    return item


def instance_references(slices: SourceSlices) -> list[Any]:
    """An item per instance of the series, each once, in the order of the slices."""
    from pydicom.dataset import Dataset

    found = {}
    for piece in slices.slices:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = piece.sop_class_uid, piece.sop_instance_uid
        found[piece.sop_instance_uid] = item
    return list(found.values())


def thickness_mm(slices: SourceSlices) -> float:
    """Of the header, or the usual distance between slices."""
    if slices.header.get("SliceThickness"):
        return float(slices.header.SliceThickness)
    pieces = slices.slices
    steps = [float(((after.position_mm - before.position_mm) ** 2).sum() ** 0.5) for before, after in pairwise(pieces)]
    return median(steps) if steps else 1.0


def decimals(numbers: Iterable[float]) -> list[str]:
    """DICOM decimal strings: at most 16 characters each, as many digits as fit."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(number)) for number in numbers]


def concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def series_facts(algorithm: Algorithm, *, what: str, number: int, seed: str = "") -> dict[str, Any]:
    """Series and equipment of a new object, as highdicom's constructors take them.

    Args:
        algorithm: Who made it.
        what: In the series' description.
        number: Of the series.
        seed: What the UIDs are computed from, so that making the object again gives the same one; empty: random UIDs.
    """
    from pydicom.uid import generate_uid

    def uid(part: str) -> str:
        return hashed_uid(f"{seed}/{what}/{part}") if seed else str(generate_uid(prefix=None))

    return {
        "series_instance_uid": uid("series"),
        "series_number": number,
        "sop_instance_uid": uid("instance"),
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": algorithm.software_version,
        "device_serial_number": "none",
        "series_description": f"{algorithm.name} {what}"[:64],
    }


def finish(dataset: Any, slices: SourceSlices, segments: Iterable[Segment] = (), *, has_private: bool = False) -> None:
    """The source's identity word for word, and what private codes are."""
    identity = identity_of(slices.header)
    if "ValueType" in dataset:
        # a report lies nowhere
        for name in PLACE:
            delattr(identity, name)
    dataset.update(identity)
    codes = [
        code
        for segment in segments
        for code in (segment.term.type, segment.term.category, segment.term.modifier, segment.term.region)
        if code is not None
    ]
    private = {code.scheme for code in codes if code.scheme.startswith("99")}
    if has_private:
        private.add(PRIVATE_SCHEME)
    if private:
        dataset.CodingSchemeIdentificationSequence = [_scheme(name) for name in sorted(private)]


def _scheme(name: str) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodingSchemeDesignator = name
    item.CodingSchemeName = f"{name}: names of the dataset, coded by {MAKER}"
    return item


def save(dataset: Any, path: Path, *, verify: Callable[[Path], bool]) -> None:
    """Write beside the target with a zero preamble, read back, and put it in place only when `verify` agrees.

    Raises:
        InputError: `E-NOT-WRITABLE`, `E-DISK-FULL` or `E-READ-BACK`.
    """
    dataset.preamble = b"\0" * 128
    with atomic_path(path) as temporary:
        with warnings.catch_warnings():
            # values of the source that break a rule of their type are copied as they are
            warnings.simplefilter("ignore")
            dataset.save_as(temporary, enforce_file_format=True)
        if not verify(temporary):
            raise InputError(
                "what was written differs from what is read back; nothing was kept",
                code="E-READ-BACK",
                file=path,
                remedy="Check the disk, then write it again.",
            )
