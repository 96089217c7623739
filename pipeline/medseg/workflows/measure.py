"""`medseg measure`: sizes, place and intensity of every organ and lesion of a mask, with pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.clinical.diameters import axial_axis, axial_tilt_degrees
from medseg.clinical.measure import measure_structures
from medseg.clinical.normal_ranges import NormalTable
from medseg.core.errors import MedsegError, case_context
from medseg.core.findings import CaseFailure, GridSummary
from medseg.core.measurements import CaseMeasurements, Measurement
from medseg.core.progress import Progress, silent
from medseg.core.reading import Containment
from medseg.core.staging import CaseStaging
from medseg.core.volume import LabelMap, Volume, require_same_grid
from medseg.io.contained import contained
from medseg.io.files import require_writable, write_text
from medseg.io.volumes import read_labels, read_volume
from medseg.report.calipers import draw_lesions
from medseg.report.measurements import measurements_csv, render_measurements
from medseg.workflows.config import packaged, read_yaml
from medseg.workflows.mask_inputs import MaskCase, MaskRequest, collect_masks, named_labels
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.geometry import Geometry

Judge = Callable[[CaseMeasurements], CaseStaging]

_TILT_WORTH_SAYING_DEGREES = 10.0
_CT_AIR_HU = -500.0


@dataclass(frozen=True)
class Measured:
    """What came of a batch: every case is in one of the two lists."""

    out: Path
    cases: tuple[CaseMeasurements, ...]
    failures: tuple[CaseFailure, ...]


@contained(Containment())
def measure(
    masks: Path, out: Path, request: MaskRequest, *, judge: Judge | None = None, progress: Progress = silent
) -> Measured:
    """Measure one mask, or every mask of a folder; of a batch, a case that fails is reported and the others go on.

    Args:
        masks: A mask, or a folder of masks.
        out: `CASE.measurements.json`, `CASE.measurements.html` and one `measurements.csv` go here.
        request: Images, labels, lesions.
        judge: What stages a case; its results become a section of the page.
        progress: Wraps the loop over cases.

    Raises:
        MedsegError: When the input as a whole, or the only case, cannot be used.
    """
    cases = collect_masks(masks, request)
    require_writable(out)
    normal = read_normal_ranges()
    done, failures = [], []
    for case in progress(cases, "measuring", len(cases)):
        try:
            with case_context(case.id):
                done.append(_measure_case(case, request, normal, out=out, judge=judge))
        except MedsegError as error:
            if len(cases) == 1:
                raise
            failures.append(CaseFailure.of(case.id, error))
    write_text(out / "measurements.csv", measurements_csv(done))
    return Measured(out, tuple(done), tuple(failures))


def read_normal_ranges() -> NormalTable:
    path = packaged("configs", "normal_ranges.yaml")
    return NormalTable.parse(read_yaml(path), file=path)


def _measure_case(
    case: MaskCase, request: MaskRequest, normal: NormalTable, *, out: Path, judge: Judge | None
) -> CaseMeasurements:
    image = None if case.image is None else read_volume(case.image, request.reading)
    mask = read_labels(case.mask, request.reading, onto=None if image is None else image.geometry, names=case.labels)
    flags = [*mask.warnings, *(() if image is None else image.warnings)]
    if image is not None:
        mask, remarks = onto_image(mask, image)
        flags += remarks
    labels, lesions, remarks = named_labels(mask, case, request)
    flags += remarks
    unit, remarks = ("", []) if image is None else unit_of(image, request.unit)
    flags += remarks
    tilt = axial_tilt_degrees(mask.geometry)
    if tilt > _TILT_WORTH_SAYING_DEGREES:
        flags.append(f"W-PLANE-TILTED: the calipers lie in the slices of the file, {tilt:.0f}° from the axial plane")
    found = measure_structures(mask, labels=labels, lesions=lesions, image=image, unit=unit, normal=normal)
    numbers = {} if case.image is None else _instance_numbers(case.image, request, mask.geometry)
    report = CaseMeasurements(
        case=case.id,
        grid=GridSummary.of(mask.geometry),
        measurements=tuple(_numbered(one, numbers) for one in found),
        absent=tuple(name for name in labels if name not in {one.label for one in found}),
        lesions=lesions,
        flags=tuple(flags),
        provenance=make_provenance(""),
    )
    drawn = draw_lesions(report.measurements, mask, labels=labels, image=image, unit=unit) if request.pictures else {}
    write_text(out / f"{case.id}.measurements.json", report.to_json())
    write_text(
        out / f"{case.id}.measurements.html",
        render_measurements(report, drawn, staging=None if judge is None else judge(report)),
    )
    return report


def onto_image(mask: LabelMap, image: Volume) -> tuple[LabelMap, list[str]]:
    """The mask in the axis order of its image, when only the order and direction of the axes differ.

    Raises:
        GeometryError: `E-GRID-MISMATCH` when the voxels lie elsewhere.
    """
    if mask.geometry.agrees_with(image.geometry):
        return mask, []
    if not mask.geometry.canonical().agrees_with(image.geometry.canonical()):
        require_same_grid(image, mask)
    order, flips = mask.geometry.canonical_axes()
    array = np.flip(mask.array.transpose(order), flips)
    order, flips = image.geometry.canonical_axes()
    array = np.flip(array, flips).transpose(np.argsort(order))
    flag = "W-MASK-REORIENTED: the mask's axes were brought into the order of the image's; no voxel moved"
    return LabelMap(array, image.geometry, mask.source, mask.warnings), [flag]


def unit_of(image: Volume, stated: str | None) -> tuple[str, list[str]]:
    """The unit that was stated, that of the image's file, or HU where the values look like it."""
    known = stated if stated is not None else image.unit
    if known is not None:
        return known, []
    if float(image.array[0].min()) <= _CT_AIR_HU < 0 < float(image.array[0].max()):
        return "HU", ["W-UNIT-GUESSED: values below -500 and above 0 are taken for HU; --unit says otherwise"]
    return "", []


def _instance_numbers(image: Path, request: MaskRequest, geometry: Geometry) -> dict[int, int]:
    """Slice number to DICOM InstanceNumber, where the image is a series whose own slices were measured."""
    if image.is_file() and not image.name.lower().endswith((".dcm", ".ima", ".dicom", ".zip")):
        return {}
    from medseg.io.dicom_source import source_slices

    slices = source_slices(image, series=request.reading.series, phase=request.reading.phase).slices
    if axial_axis(geometry) != 2 or len(slices) != geometry.shape[2] or request.reading.fix_geometry:
        return {}
    found = {number: piece.instance_number for number, piece in enumerate(slices, start=1)}
    return {number: value for number, value in found.items() if value is not None}


def _numbered(measurement: Measurement, instance_numbers: dict[int, int]) -> Measurement:
    number = None if measurement.slice_number is None else instance_numbers.get(measurement.slice_number)
    return measurement.model_copy(update={"instance_number": number})
