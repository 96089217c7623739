"""Which DICOM series a folder, zip or file holds, and the one that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import InputError
from medseg.core.reading import Reading
from medseg.io.dicom_files import DicomFile, find_dicom
from medseg.io.dicom_planes import Plane, planes_of
from medseg.io.dicom_stack import one_pile

# Segmentations, surfaces, parametric maps, dose, structure sets, plans: pictures of something else than the patient.
_NOT_IMAGES = ("1.2.840.10008.5.1.4.1.1.66", "1.2.840.10008.5.1.4.1.1.481", "1.2.840.10008.5.1.4.1.1.30")


@dataclass(frozen=True)
class SeriesSummary:
    """One series as a person chooses it.

    Attributes:
        number: 1 for the first in the list; accepted by `series=` like the UID.
        is_localizer: A scout view, chosen only when asked for.
    """

    number: int
    uid: str
    modality: str
    description: str
    num_files: int
    rows: int
    columns: int
    is_localizer: bool

    def describe(self) -> str:
        kind = ", localizer" if self.is_localizer else ""
        size = f"{self.num_files} file(s) of {self.columns}x{self.rows}"
        return f"{self.number}: {self.modality} '{self.description}', {size}{kind}, {self.uid}"


def list_series(path: Path | str) -> tuple[SeriesSummary, ...]:
    """What a folder, zip or file holds, largest series first.

    Raises:
        InputError: As `find_dicom`.
    """
    files, _ = find_dicom(Path(path))
    return tuple(summary for summary, _ in _grouped(files))


def chosen_planes(path: Path, reading: Reading) -> tuple[list[Plane], tuple[str, ...]]:
    """The slices of one volume of one series, sorted along their normal, each place once, and remarks on them.

    Raises:
        InputError: `E-SERIES`, and as `find_dicom`, `planes_of` and `one_pile`.
        GeometryError: As `planes_of` and `one_pile`.
    """
    files, _ = find_dicom(path)
    chosen = _choose(_grouped(files), path, reading.series)
    images = [file for file in chosen if not _is_localizer(file)] or chosen
    remarks = ("W-LOCALIZER",) if len(images) < len(chosen) else ()
    uids = {str(file.header.get("SOPInstanceUID")) for file in images}
    planes, repeats = one_pile([plane for file in images for plane in planes_of(file)], path, reading.phase)
    return planes, (*remarks, *repeats, *(("W-UID",) if len(uids) < len(images) and not repeats else ()))


def _grouped(files: Sequence[DicomFile]) -> list[tuple[SeriesSummary, list[DicomFile]]]:
    """Images by series, localizers last, then the largest first; objects that are no images are left out."""
    groups: dict[str, list[DicomFile]] = {}
    for file in files:
        if "Rows" in file.header and not str(file.header.get("SOPClassUID", "")).startswith(_NOT_IMAGES):
            groups.setdefault(str(file.header.get("SeriesInstanceUID", "")), []).append(file)
    by_size = sorted(groups.items(), key=lambda item: (all(map(_is_localizer, item[1])), -len(item[1]), item[0]))
    return [(_summary(number, uid, group), group) for number, (uid, group) in enumerate(by_size, start=1)]


def _summary(number: int, uid: str, group: list[DicomFile]) -> SeriesSummary:
    header = group[0].header
    return SeriesSummary(
        number,
        uid,
        str(header.get("Modality", "")),
        str(header.get("SeriesDescription", "")),
        len(group),
        group[0].rows,
        group[0].columns,
        all(map(_is_localizer, group)),
    )


def _is_localizer(file: DicomFile) -> bool:
    return "LOCALIZER" in str(file.header.get("ImageType", "")).upper()


def _choose(groups: list[tuple[SeriesSummary, list[DicomFile]]], path: Path, series: str | None) -> list[DicomFile]:
    if not groups:
        message = "its DICOM objects hold no images of a patient"
        raise InputError(message, code="E-NO-DICOM", file=path, remedy="Give the folder that holds the images.")
    listing = "; ".join(summary.describe() for summary, _ in groups)
    if series is not None:
        found = [group for summary, group in groups if series in {summary.uid, str(summary.number)}]
        if not found:
            message = f"no series {series!r} here, only {listing}"
            raise InputError(message, code="E-SERIES", file=path, remedy="Choose one of them by number or UID.")
        return found[0]
    images = [group for summary, group in groups if not summary.is_localizer] or [groups[0][1]]
    if len(images) > 1:
        message = f"{len(groups)} series are here: {listing}"
        raise InputError(message, code="E-SERIES", file=path, remedy="Choose one with --series NUMBER or --series UID.")
    return images[0]
