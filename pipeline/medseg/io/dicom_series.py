"""Which DICOM series a folder, zip or file holds, and the one that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.core.errors import InputError
from medseg.core.reading import Reading
from medseg.io.contained import containable
from medseg.io.decoded import Decoded, ReadOptions
from medseg.io.dicom_files import DicomFile, find_dicom
from medseg.io.dicom_listing import SeriesSummary, is_localizer, summarise, without_localizers
from medseg.io.dicom_planes import Plane, planes_of
from medseg.io.dicom_stack import one_pile
from medseg.io.worded import facts_of, worded

# Segmentations, surfaces, parametric maps, dose, structure sets, plans: pictures of something else than the patient.
_NOT_IMAGES = ("1.2.840.10008.5.1.4.1.1.66", "1.2.840.10008.5.1.4.1.1.481", "1.2.840.10008.5.1.4.1.1.30")
_DESCRIBED = "Their descriptions are shown by `medseg series`."
_SHARED = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "FrameOfReferenceUID")


def list_series(path: Path | str) -> tuple[SeriesSummary, ...]:
    """What a folder, zip or file holds, from the headers alone: largest series first, localizers last.

    Raises:
        InputError: As `find_dicom`.
    """
    found = facts_of(summarise_all(Path(path), ReadOptions()))
    return tuple(SeriesSummary.model_validate(one) for one in found)


@containable
def summarise_all(path: Path, _options: ReadOptions) -> Decoded:
    """The words that `list_series` makes its answer of."""
    groups = enumerate(_grouped(find_dicom(path)[0]), start=1)
    return worded([summarise(number, group, path).model_dump() for number, group in groups])


def chosen_planes(path: Path, reading: Reading) -> tuple[list[Plane], tuple[str, ...]]:
    """The slices of one volume of one series, sorted along their normal, each place once, and remarks on them.

    Raises:
        InputError: `E-SERIES`, and as `find_dicom`, `planes_of` and `one_pile`.
        GeometryError: As `planes_of` and `one_pile`.
    """
    files, others = find_dicom(path)
    groups = _grouped(files)
    chosen = _choose(groups, path, reading.series)
    images = without_localizers(chosen)
    ignored = others + len(files) - sum(map(len, groups))
    remarks: tuple[str, ...] = (f"W-IGNORED: {ignored} file(s) that are no images",) if ignored else ()
    remarks += ("W-LOCALIZER",) if len(images) < len(chosen) else ()
    uids = {str(file.header.get("SOPInstanceUID")) for file in images}
    planes, repeats = one_pile([plane for file in images for plane in planes_of(file)], path, reading.phase)
    return planes, (*remarks, *repeats, *(("W-UID",) if len(uids) < len(images) and not repeats else ()))


def _grouped(files: Sequence[DicomFile]) -> list[list[DicomFile]]:
    """Images by series, localizers last, then the largest first; objects that are no images are left out."""
    groups: dict[tuple[str, ...], list[DicomFile]] = {}
    for file in files:
        if is_image_object(file):
            groups.setdefault(identity_of_series(file), []).append(file)
    return sorted(
        groups.values(), key=lambda group: (all(map(is_localizer, group)), -len(group), identity_of_series(group[0]))
    )


def is_image_object(file: DicomFile) -> bool:
    """A picture of the patient."""
    return "Rows" in file.header and not str(file.header.get("SOPClassUID", "")).startswith(_NOT_IMAGES)


def identity_of_series(file: DicomFile) -> tuple[str, str, str, str]:
    """What slices of one series share: the UID alone is empty or repeated after careless anonymisation.

    Returns:
        SeriesInstanceUID, StudyInstanceUID, PatientID, FrameOfReferenceUID.
    """
    series, study, patient, frame = (str(file.header.get(name, "")) for name in _SHARED)
    return series, study, patient, frame


def _uid(file: DicomFile) -> str:
    return str(file.header.get("SeriesInstanceUID", ""))


def _choose(groups: list[list[DicomFile]], path: Path, series: str | None) -> list[DicomFile]:
    if not groups:
        message = "its DICOM objects hold no images of a patient"
        raise InputError(message, code="E-NO-DICOM", file=path, remedy="Give the folder that holds the images.")
    if series is not None:
        found = [group for number, group in enumerate(groups, start=1) if series in {_uid(group[0]), str(number)}]
        if len(found) != 1:
            message = f"{len(found) or 'no'} series are {series!r} here, of {_listing(groups, path)}"
            raise InputError(message, code="E-SERIES", file=path, remedy=f"Choose one of them by number. {_DESCRIBED}")
        return found[0]
    images = [group for group in groups if not all(map(is_localizer, group))] or groups[:1]
    if len(images) > 1:
        message = f"{len(groups)} series are here: {_listing(groups, path)}"
        raise InputError(
            message, code="E-SERIES", file=path, remedy=f"Choose one with --series NUMBER or --series UID. {_DESCRIBED}"
        )
    return images[0]


def _listing(groups: list[list[DicomFile]], path: Path) -> str:
    return "; ".join(summarise(number, group, path).describe() for number, group in enumerate(groups, start=1))
