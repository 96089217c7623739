"""`medseg to-dicom`: any mask of a DICOM series, ours or another tool's, as segmentation, structure set and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.document import Document
from medseg.core.errors import InputError, UsageError
from medseg.core.findings import CasePrediction
from medseg.core.measurements import CaseMeasurements
from medseg.core.outputs import SUFFIX_OF, Outputs
from medseg.core.reading import AS_IT_IS, Containment, Reading
from medseg.core.segments import Algorithm
from medseg.data.contents import values_in
from medseg.data.manifest import read_json_object, read_manifest
from medseg.io.bundle import PLAN
from medseg.io.contained import contained
from medseg.io.dicom_source import SourceSlices, slices_grid
from medseg.io.documents import read_document
from medseg.io.files import require_writable
from medseg.io.volumes import read_labels, read_volume
from medseg.workflows.dicom_out import Finding, WrittenObjects, algorithm_of, open_series, terms_of, write_objects
from medseg.workflows.mask_inputs import MaskCase, MaskRequest, collect_masks, named_labels

if TYPE_CHECKING:
    from medseg.core.terminology import Term
    from medseg.core.volume import LabelMap, Volume

_UNSTATED = "unstated"


@dataclass(frozen=True)
class ToDicomRequest:
    """What a person says about a mask that goes into DICOM.

    Attributes:
        series: Folder, zip or file with the DICOM series that the mask was made on.
        names: What the mask's values are called; as for `medseg measure`.
        outputs: Formats, codes.
        reading: Which series of several, which phase.
        algorithm: Who made the mask; None: what the JSON beside it says, else not stated.
        measurements: A `CASE.measurements.json` whose lesion ids and tracking UIDs are kept.
        resample: Whether a mask on another grid may be looked up at the nearest voxels.
    """

    series: Path
    names: MaskRequest
    outputs: Outputs
    reading: Reading = AS_IT_IS
    algorithm: Algorithm | None = None
    measurements: Path | None = None
    resample: bool = False


class PlannedLabel(Document):
    label: str
    value: int
    num_voxels: int
    code: str
    meaning: str
    is_lesion: bool


class ToDicomPlan(Document):
    """What would be written."""

    case: str
    series_uid: str
    num_slices: int
    labels: tuple[PlannedLabel, ...]
    files: tuple[str, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class WrittenDicom:
    """What was written, and where."""

    out: Path
    plan: ToDicomPlan
    objects: WrittenObjects


@contained(Containment())
def to_dicom(mask: Path, out: Path, request: ToDicomRequest) -> WrittenDicom:
    """Write one mask in the DICOM formats of the request.

    Args:
        mask: Any mask file.
        out: `CASE.seg.dcm`, `CASE.rtstruct.dcm`, `CASE.sr.dcm` go here.
        request: Series, names, formats.

    Raises:
        UsageError: `E-CODE`, `E-OPTION`, `E-WOULD-OVERWRITE`.
        GeometryError: `E-GRID-MISMATCH`, `E-FRAME-OF-REFERENCE`.
        InputError: As the readers and writers.
    """
    finding, slices, plan = _prepare(mask, request)
    taken = next((out / name for name in plan.files if (out / name).resolve() == mask.resolve()), None)
    if taken is not None:
        message = f"its result would be written over the mask {taken}"
        remedy = "Name another folder with --out."
        raise UsageError(message, code="E-WOULD-OVERWRITE", case=plan.case, file=taken, remedy=remedy)
    require_writable(out)
    objects = write_objects(finding, slices, request.outputs, out, resample=request.resample)
    return WrittenDicom(out, plan, objects)


@contained(Containment())
def plan_to_dicom(mask: Path, request: ToDicomRequest) -> ToDicomPlan:
    """Read everything and write nothing."""
    return _prepare(mask, request)[2]


def _prepare(path: Path, request: ToDicomRequest) -> tuple[Finding, SourceSlices, ToDicomPlan]:
    if not request.outputs.dicom or request.outputs.voxels:
        message = f"--format must name DICOM objects, found {', '.join(request.outputs.formats)}"
        raise UsageError(message, code="E-OPTION", remedy="Choose of dicom-seg, dicom-rtstruct and dicom-sr.")
    slices = _chosen_series(request)
    (case,) = collect_masks(path, request.names)
    mask = read_labels(path, request.reading, onto=slices_grid(slices), names=case.labels)
    named, _, flags = named_labels(mask, case, request.names)
    # a name that no voxel has needs no code
    counts = values_in(mask)
    labels = {name: value for name, value in named.items() if value in counts}
    terms = terms_of(labels, request.outputs, _own_terms(request.names))
    beside = _prediction_beside(case)
    stated = request.algorithm or (algorithm_of(beside.provenance) if beside else _unstated())
    known = () if request.measurements is None else read_document(request.measurements, CaseMeasurements).measurements
    classes = beside.classes if beside else ()
    finding = Finding(case.id, mask, labels, terms, stated, classes, known, image=_image_of(mask, request))
    return finding, slices, _plan(finding, slices, request.outputs, counts=counts, flags=flags)


def _chosen_series(request: ToDicomRequest) -> SourceSlices:
    """As `open_series`; the option that chooses among several has another name here, where --series is the folder."""
    try:
        return open_series(request.series, request.reading)
    except InputError as error:
        if error.code == "E-SERIES":
            error.remedy = error.remedy.replace("--series", "--which")
        raise


def _image_of(mask: LabelMap, request: ToDicomRequest) -> Volume | None:
    """The series' values in the order of the mask's voxels, for a report; None where it lies on another grid."""
    if "dicom-sr" not in request.outputs.dicom:
        return None
    image = read_volume(request.series, request.reading)
    return image if mask.geometry.agrees_with(image.geometry) else None


def _plan(
    finding: Finding, slices: SourceSlices, outputs: Outputs, *, counts: Mapping[int, int], flags: list[str]
) -> ToDicomPlan:
    return ToDicomPlan(
        case=finding.case,
        series_uid=str(slices.header.SeriesInstanceUID),
        num_slices=len(slices.slices),
        labels=tuple(
            PlannedLabel(
                label=label,
                value=value,
                num_voxels=counts[value],
                code=f"{finding.terms[label].type.scheme} {finding.terms[label].type.value}",
                meaning=finding.terms[label].meaning,
                is_lesion=finding.terms[label].is_lesion,
            )
            for label, value in finding.labels.items()
        ),
        files=tuple(f"{finding.case}{SUFFIX_OF[name]}" for name in outputs.dicom),
        flags=tuple(flag for flag in flags if not flag.startswith("W-NO-LESION-LABEL")),
    )


def _own_terms(names: MaskRequest) -> dict[str, Term]:
    """Codes that the manifest or the model brings for its labels."""
    if names.manifest is not None:
        return read_manifest(names.manifest).terms
    if names.bundle is not None:
        from medseg.core.plan import Plan

        return read_document(names.bundle / PLAN, Plan).terms
    return {}


def _prediction_beside(case: MaskCase) -> CasePrediction | None:
    """The JSON that `medseg infer` wrote beside this mask."""
    path = case.mask.with_name(f"{case.id}.json")
    if not path.is_file() or "provenance" not in read_json_object(path):
        return None
    found = read_document(path, CasePrediction)
    return found if found.mask == case.mask.name else None


def _unstated() -> Algorithm:
    return Algorithm(name=_UNSTATED, version=_UNSTATED, software_version=version("medseg"))
