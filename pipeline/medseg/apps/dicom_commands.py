"""The commands that write for a hospital's systems: to-dicom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.apps import options as o
from medseg.apps import show, show_dicom
from medseg.apps.terminal import TERMINAL


def to_dicom(
    mask: Annotated[Path, typer.Argument(help="Any mask: ours, or another tool's NIfTI, NRRD, SEG ...")],
    series: Annotated[Path, typer.Option("--series", "-s", help="The DICOM series it was made on: folder or zip.")],
    format_: Annotated[
        list[str] | None, typer.Option("--format", help="dicom-seg, dicom-rtstruct, dicom-sr; comma list or repeated.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Names of the mask's values: liver=1,tumour=2; else as known.")
    ] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", "-m", help="Dataset that names the labels.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Model folder that names the labels.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: beside the mask.")] = None,
    which: Annotated[str | None, typer.Option("--which", help="Which series of the folder: number or UID.")] = None,
    phase: Annotated[str | None, typer.Option(help="Which phase or echo of the series.")] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Accept a mask on another grid; each pixel takes the nearest label.")
    ] = False,
    per_label: Annotated[bool, typer.Option("--per-label", help="One segment per label, not one per lesion.")] = False,
    labelmap: Annotated[bool, typer.Option("--labelmap", help="SEG as LABELMAP, which fewer viewers read.")] = False,
    terminology: o.Terminology = None,
    private_codes: o.PrivateCodes = None,
    measurements: Annotated[
        Path | None, typer.Option(help="CASE.measurements.json whose lesion ids and tracking UIDs are kept.")
    ] = None,
    algorithm: Annotated[
        str | None, typer.Option(help="Who made the mask, as name:version; else what its JSON says.")
    ] = None,
    made_by: Annotated[str, typer.Option(help="automatic, semiautomatic or manual.")] = "automatic",
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Write a mask as DICOM segmentation, structure set or report, on the slices of its series, with SNOMED codes.

    Example: `medseg to-dicom liver.nii.gz --series ct_folder --labels liver=1,tumour=2 --format dicom-seg`
    """
    from medseg.core.outputs import Outputs
    from medseg.core.reading import Reading
    from medseg.workflows.mask_inputs import MaskRequest
    from medseg.workflows.to_dicom import ToDicomRequest, plan_to_dicom
    from medseg.workflows.to_dicom import to_dicom as run

    request = ToDicomRequest(
        series=series,
        names=MaskRequest(labels=show.parse_labels(labels), manifest=manifest, bundle=bundle),
        outputs=Outputs.parse(
            {
                "formats": format_ or ["dicom-seg"],
                "seg_kind": "labelmap" if labelmap else "binary",
                "per_lesion": not per_label,
                "terminology": terminology,
                "private_codes": bool(private_codes),
            }
        ),
        reading=Reading(series=which, phase=phase),
        algorithm=show_dicom.parse_algorithm(algorithm, made_by),
        measurements=measurements,
        resample=resample,
    )
    if dry_run:
        show_dicom.planned(TERMINAL, plan_to_dicom(mask, request), as_json=json)
        return
    written = run(mask, out or mask.parent, request)
    show_dicom.written(TERMINAL, written, as_json=json)
