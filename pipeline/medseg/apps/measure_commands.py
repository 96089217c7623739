"""The commands about what masks mean: measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.apps import options as o
from medseg.apps import show, show_clinical
from medseg.apps.terminal import TERMINAL


def measure(
    masks: Annotated[Path, typer.Argument(help="A mask, or a folder of masks such as `medseg infer` writes.")],
    image: Annotated[
        Path | None,
        typer.Option("--image", "-i", help="Image file or DICOM folder; for many masks a folder with CASE.nii.gz."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Names of the mask's values: liver=1,tumour=2; else as known.")
    ] = None,
    lesions: Annotated[
        str | None,
        typer.Option("--lesions", help="Labels that are lesions, measured one by one; else those whose names say so."),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", "-m", help="Dataset that names the labels and the images.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Model folder that names the labels.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: measurements/ beside the masks.")] = None,
    unit: Annotated[str | None, typer.Option(help="Of the image: HU, SUV ...; else as its file says.")] = None,
    suv: Annotated[bool, typer.Option("--suv", help="Read a DICOM PET as standardised uptake value.")] = False,
    series: Annotated[str | None, typer.Option(help="Which series of a DICOM folder.")] = None,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Draw every lesion.")] = True,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Size, place and intensity of every lesion and organ of a mask, with calipers drawn, as a page, JSON and CSV.

    Example: `medseg measure predictions --image scans --lesions tumour --out measurements`
    """
    from medseg.core.reading import Reading
    from medseg.workflows.mask_inputs import MaskRequest, collect_masks
    from medseg.workflows.measure import measure as run

    request = MaskRequest(
        image=image,
        labels=show.parse_labels(labels),
        lesions=None if lesions is None else show.split_names(lesions),
        manifest=manifest,
        bundle=bundle,
        unit=unit,
        reading=Reading(series=series, suv=suv),
        pictures=pictures,
    )
    target = out or (masks if masks.is_dir() else masks.parent) / "measurements"
    if dry_run:
        show_clinical.planned(TERMINAL, collect_masks(masks, request), target, as_json=json)
        return
    measured = run(masks, target, request, progress=TERMINAL.progress)
    show_clinical.measured(TERMINAL, measured, as_json=json)
    show.fail_for(TERMINAL, measured.failures, len(measured.cases))
