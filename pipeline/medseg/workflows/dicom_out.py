"""A mask back into the hospital: named segments on the slices of its series, as SEG, RTSTRUCT and SR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.clinical.measure import measure_structures
from medseg.core.errors import GeometryError, InputError
from medseg.core.measurements import Measurement
from medseg.core.outputs import SUFFIX_OF, Outputs
from medseg.core.reading import Reading
from medseg.core.segments import Algorithm, Segment
from medseg.core.terminology import Term, Terminology, tracking_uid
from medseg.core.volume import LabelMap, Volume
from medseg.io.dicom_objects import MAKER, require_identity
from medseg.io.dicom_rtstruct import write_structure_set
from medseg.io.dicom_seg import write_segmentation
from medseg.io.dicom_source import SourceSlices, labels_on_slices, slices_grid, source_slices
from medseg.io.dicom_sr import write_report
from medseg.ops.lesions import find_components
from medseg.workflows.config import packaged, read_yaml

if TYPE_CHECKING:
    from medseg.core.findings import ClassAnswer, Provenance

_SAME_MM = 0.5  # of two centres of one lesion


@dataclass(frozen=True)
class Finding:
    """What is to be written of one case.

    Attributes:
        labels: Name to value in the mask; values without a name are left out.
        terms: What the labels are called; every one of `labels` has its term.
        known: Lesions that already have an id and a tracking UID, as `medseg follow-up` gives them.
        image: On the mask's grid, for a report of its values; None leaves them out.
        seed: What the UIDs of the new objects are computed from; empty: they are random.
    """

    case: str
    mask: LabelMap
    labels: Mapping[str, int]
    terms: Mapping[str, Term]
    algorithm: Algorithm
    classes: tuple[ClassAnswer, ...] = ()
    known: tuple[Measurement, ...] = ()
    image: Volume | None = None
    seed: str = ""


@dataclass(frozen=True)
class WrittenObjects:
    """File names by format, what the segments are, and remarks."""

    files: dict[str, str]
    segments: tuple[Segment, ...]
    flags: tuple[str, ...]


def read_terminology(extra: Path | None = None) -> Terminology:
    """`configs/terminology.yaml`, with a file of one's own laid over it."""
    path = packaged("configs", "terminology.yaml")
    shipped = Terminology.parse(read_yaml(path), file=path)
    return shipped if extra is None else Terminology.parse(read_yaml(extra), file=extra).over(shipped)


def terms_of(labels: Mapping[str, int], outputs: Outputs, own: Mapping[str, Term] | None = None) -> dict[str, Term]:
    """The term of every label: its own from the manifest, else the table's.

    Raises:
        UsageError: `E-CODE`.
    """
    table = read_terminology(outputs.terminology)
    given = own or {}
    return {name: given.get(name) or table.term(name, may_be_private=outputs.private_codes) for name in labels}


def algorithm_of(provenance: Provenance) -> Algorithm:
    """The model that made a mask; its version tells two trainings of one name apart."""
    weights = f"+{provenance.weights_sha256[:12]}" if provenance.weights_sha256 else ""
    return Algorithm(
        name=(provenance.model or MAKER)[:64],
        version=f"{provenance.medseg_version}{weights}"[:64],
        software_version=provenance.medseg_version,
    )


def open_series(path: Path, reading: Reading) -> SourceSlices:
    """The slices that DICOM objects are to lie on, refused before any work is put into a mask.

    Raises:
        InputError: `E-NO-SERIES`, `E-SOURCE-UID`, or as `source_slices`.
        GeometryError: `E-FRAME-OF-REFERENCE`, or as `source_slices`.
    """
    try:
        slices = source_slices(path, series=reading.series, phase=reading.phase)
    except InputError as error:
        if error.code != "E-NOT-DICOM":
            raise
        message = "DICOM objects refer to the slices of a DICOM series, and this is none"
        remedy = "Give the DICOM folder, or choose another --format."
        raise InputError(message, code="E-NO-SERIES", file=path, remedy=remedy) from None
    require_identity(slices, path)
    return slices


def write_objects(
    finding: Finding, slices: SourceSlices, outputs: Outputs, out: Path, *, resample: bool = False
) -> WrittenObjects:
    """Write the DICOM formats that were asked for; with an empty mask only what there is to say of it.

    Args:
        finding: Mask and names.
        slices: Of the series that the mask belongs to.
        outputs: Formats and their options.
        out: Files `CASE.seg.dcm`, `CASE.rtstruct.dcm`, `CASE.sr.dcm` go here.
        resample: Look up the nearest label at every pixel where the mask is not on the series' grid.

    Raises:
        GeometryError: `E-GRID-MISMATCH`.
        InputError: As the writers.
    """
    if not resample:
        _require_grid(finding.mask, slices)
    numbered, segments, rows = _numbered(finding, slices, outputs)
    pixels = labels_on_slices(replace(finding.mask, array=numbered), slices)
    pixels, segments = _present(pixels, segments)
    if not segments:
        return _report_only(finding, slices, outputs, out)
    files: dict[str, str] = {name: f"{finding.case}{SUFFIX_OF[name]}" for name in outputs.dicom}
    if "dicom-seg" in files:
        seg = write_segmentation(
            pixels,
            slices,
            out / files["dicom-seg"],
            segments=segments,
            algorithm=finding.algorithm,
            kind=outputs.seg_kind,
            seed=finding.seed,
        )
        if "dicom-sr" in files:
            write_report(
                rows,
                slices,
                out / files["dicom-sr"],
                segmentation=seg,
                classes=finding.classes,
                algorithm=finding.algorithm,
                seed=finding.seed,
            )
    if "dicom-rtstruct" in files:
        write_structure_set(
            pixels,
            slices,
            out / files["dicom-rtstruct"],
            segments=segments,
            algorithm=finding.algorithm,
            seed=finding.seed,
        )
    return WrittenObjects(files, segments, ())


def _report_only(finding: Finding, slices: SourceSlices, outputs: Outputs, out: Path) -> WrittenObjects:
    flag = "W-NO-SEGMENT: nothing was found, so there is no DICOM segmentation or structure set"
    if "dicom-sr" not in outputs.dicom or not finding.classes:
        return WrittenObjects({}, (), (flag,))
    name = f"{finding.case}{SUFFIX_OF['dicom-sr']}"
    write_report(
        (),
        slices,
        out / name,
        segmentation=None,
        classes=finding.classes,
        algorithm=finding.algorithm,
        seed=finding.seed,
    )
    return WrittenObjects({"dicom-sr": name}, (), (flag,))


def _require_grid(mask: LabelMap, slices: SourceSlices) -> None:
    grid = slices_grid(slices)
    if grid is not None and mask.geometry.canonical().agrees_with(grid.canonical()):
        return
    # in one order of axes, whatever the files have: what differs is then the place
    expected = "slices at uneven distances" if grid is None else grid.canonical().describe()
    message = f"not on the grid of its series: expected {expected}; found {mask.geometry.canonical().describe()}"
    raise GeometryError(
        message,
        code="E-GRID-MISMATCH",
        file=mask.source,
        remedy="Name the series that it was made on, or allow --resample (nearest neighbour).",
    )


def _numbered(
    finding: Finding, slices: SourceSlices, outputs: Outputs
) -> tuple[NDArray[Any], tuple[Segment, ...], tuple[Measurement, ...]]:
    """The mask with a number for every segment, what they are, and the measurements of each for a report."""
    mask, study = finding.mask, str(slices.header.StudyInstanceUID)
    lesions = [name for name in finding.labels if finding.terms[name].is_lesion and outputs.per_lesion]
    rows: tuple[Measurement, ...] = ()
    if "dicom-sr" in outputs.dicom:
        unit = "" if finding.image is None else finding.image.unit or ""
        rows = measure_structures(mask, labels=finding.labels, lesions=lesions, image=finding.image, unit=unit)
    numbered = np.zeros(mask.array.shape, np.uint16)
    boxes = _boxes(mask.array)
    segments: list[Segment] = []
    renamed: dict[str, str] = {}
    for label, value in finding.labels.items():
        box = boxes[value - 1] if value <= len(boxes) else None
        if box is None:
            continue
        inside, term, first = mask.array[box] == value, finding.terms[label], len(segments) + 1
        if label not in lesions:
            numbered[box][inside] = first
            segments.append(Segment(number=first, label=label[:64], term=term))
            continue
        found = find_components(inside)
        # in the order in which they are measured: the largest first
        order = np.argsort(-found.sizes, kind="stable")
        numbers = np.zeros(order.size + 1, np.uint16)
        numbers[order + 1] = np.arange(first, first + order.size)
        numbered[box][inside] = numbers[found.array[inside]]
        for rank, part in enumerate(order, start=1):
            centre = mask.geometry.to_world(found.centres[part] + [side.start for side in box])
            known = _known(finding, label, centre)
            name = (_new_name(label, rank, finding.known) if known is None else known.id)[:64]
            uid = (known.tracking_uid if known else None) or tracking_uid(study, name)
            renamed[f"{label}-{rank}"] = name
            segments.append(
                Segment(number=len(segments) + 1, label=name, term=term, tracking_id=name, tracking_uid=uid)
            )
    rows = tuple(row.model_copy(update={"id": renamed.get(row.id, row.id)}) for row in rows)
    return numbered, tuple(segments), rows


def _boxes(array: NDArray[Any]) -> Sequence[tuple[slice, ...] | None]:
    """Of each value from 1 on; looked for in the order in which the voxels lie in memory, which is six times faster."""
    if array.flags.c_contiguous:
        return ndimage.find_objects(array)
    return [box and box[::-1] for box in ndimage.find_objects(array.T)]


def _known(finding: Finding, label: str, centre_mm: NDArray[np.float64]) -> Measurement | None:
    for row in finding.known:
        if row.label == label and np.linalg.norm(np.subtract(row.centre_mm, centre_mm)) < _SAME_MM:
            return row
    return None


def _new_name(label: str, rank: int, known: Sequence[Measurement]) -> str:
    """By size, beyond the numbers that known lesions have."""
    taken = [int(end) for row in known if row.label == label and (end := row.id.rpartition("-")[2]).isdecimal()]
    return f"{label}-{max(taken, default=0) + rank}"


def _present(pixels: NDArray[Any], segments: Sequence[Segment]) -> tuple[NDArray[Any], tuple[Segment, ...]]:
    """Only what has a pixel on some slice, numbered without a gap."""
    present = {number for plane in pixels for number in np.flatnonzero(np.bincount(plane.ravel())).tolist()}
    kept = [segment for segment in segments if segment.number in present]
    numbers = np.zeros(len(segments) + 1, np.min_scalar_type(len(kept)))
    for number, segment in enumerate(kept, start=1):
        numbers[segment.number] = number
    return numbers[pixels], tuple(
        segment.model_copy(update={"number": number}) for number, segment in enumerate(kept, start=1)
    )
