"""A DICOM series as a person chooses it: what its headers say, and whether it could be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.core.document import Document
from medseg.core.errors import MedsegError
from medseg.core.geometry import Vector, lps_to_ras
from medseg.io.decoded import settle_geometry
from medseg.io.dicom_files import DicomFile
from medseg.io.dicom_phases import find_phases
from medseg.io.dicom_planes import Plane, planes_of
from medseg.io.dicom_stack import affine_lps, heights_of, is_repeated, require_alike, require_even, sort_places


class SeriesSummary(Document):
    """One series of a folder, zip or file.

    Attributes:
        number: 1 for the first in the list; accepted by `series=` like the UID.
        num_files: Its objects, localizers and repeated slices among them.
        num_slices: Places in the patient; 0 when the headers cannot be understood.
        spacing_mm: Along a row, along a column, the usual step between slices (0 for a lone slice); None as above.
        phases: How to choose between the volumes of the series; empty when it holds one.
        is_localizer: A scout view, chosen only when asked for.
        fault: The code of the refusal that reading it would meet; None when its headers have none.
    """

    number: int
    uid: str
    modality: str
    description: str
    num_files: int
    rows: int
    columns: int
    num_slices: int
    spacing_mm: Vector | None
    phases: tuple[str, ...]
    is_localizer: bool
    fault: str | None

    def describe(self) -> str:
        """For messages that are kept: the description and the UID may name the patient."""
        kind = ", localizer" if self.is_localizer else ""
        size = f"{self.num_files} file(s) of {self.columns}x{self.rows}"
        return f"{self.number}: {self.modality}, {size}{kind}"


def summarise(number: int, group: Sequence[DicomFile], path: Path) -> SeriesSummary:
    """Describe the files of one series, whatever is wrong with them."""
    images = without_localizers(group)
    places: list[list[Plane]] = []
    fault = None
    try:
        planes = [plane for file in images for plane in planes_of(file)]
        require_alike(planes, path)
        places = sort_places(planes)
    except MedsegError as error:
        fault = error.code
    phases = find_phases(places) if is_repeated(places) else ()
    header = group[0].header
    return SeriesSummary(
        number=number,
        uid=str(header.get("SeriesInstanceUID", "")),
        modality=str(header.get("Modality", "")),
        description=str(header.get("SeriesDescription", "")),
        num_files=len(group),
        rows=images[0].rows,
        columns=images[0].columns,
        num_slices=len(places),
        spacing_mm=_spacing_mm([place[0] for place in places]),
        phases=tuple(phase.describe() for phase in phases),
        is_localizer=all(map(is_localizer, group)),
        fault=fault or ("E-SERIES-4D" if phases else _fault(places, path)),
    )


def is_localizer(file: DicomFile) -> bool:
    return "LOCALIZER" in str(file.header.get("ImageType", "")).upper()


def without_localizers(group: Sequence[DicomFile]) -> list[DicomFile]:
    """Localizers left out, unless there is nothing else."""
    return [file for file in group if not is_localizer(file)] or list(group)


def _spacing_mm(planes: Sequence[Plane]) -> Vector | None:
    if not planes:
        return None
    down, across = planes[0].spacing_mm
    steps = np.diff(heights_of(planes))
    return across, down, float(np.median(steps)) if steps.size else 0.0


def _fault(places: Sequence[Sequence[Plane]], path: Path) -> str | None:
    """What would refuse planes that are alike; whether repeated slices are equal is not looked at."""
    if is_repeated(places):
        return "E-SERIES-DUP"
    planes = [place[0] for place in places]
    try:
        if len(planes) > 1:
            require_even(planes, path)
        affine, _ = affine_lps(planes, path)
        settle_geometry(lps_to_ras(affine), (planes[0].file.columns, planes[0].file.rows, len(planes)), path)
    except MedsegError as error:
        return error.code
    return None
