"""The commands about what masks mean: measure, stage."""

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


def stage(
    source: Annotated[
        Path | None, typer.Argument(help="A CASE.measurements.json, a mask, or a folder of either.")
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option("--table", "-t", help="Rule table by name, or a YAML file; may be repeated.")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option("--given", help="What a table asks, as name=answer; may be repeated.")
    ] = None,
    lesions: Annotated[str | None, typer.Option("--lesions", help="Labels of the lesions to judge; else all.")] = None,
    image: Annotated[Path | None, typer.Option("--image", "-i", help="Image of the mask, to draw on.")] = None,
    labels: Annotated[str | None, typer.Option("--labels", help="Names of a mask's values: liver=1,tumour=2.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: beside the measurements.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the rule tables and what they ask; do nothing.")] = False,
    json: o.Json = False,
) -> None:
    """Size-based T and risk categories from rule tables; one component of a stage, never the whole of it.

    Example: `medseg stage measurements --table lung_rads_2022 --given nodule_type=solid --given timing=baseline`
    """
    from medseg.core.errors import UsageError
    from medseg.workflows.mask_inputs import MaskRequest
    from medseg.workflows.stage import StageRequest, known_tables, read_tables
    from medseg.workflows.stage import stage as run

    if list_:
        show_clinical.tables(TERMINAL, read_tables(list(known_tables())), as_json=json)
        return
    if source is None:
        remedy = "Name measurements or a mask, or --list."
        raise UsageError("nothing to stage", code="E-NO-INPUT", remedy=remedy)
    named = None if lesions is None else show.split_names(lesions)
    request = StageRequest(read_tables(table or ()), show_clinical.answers(given or ()), named)
    masks = MaskRequest(image=image, labels=show.parse_labels(labels), lesions=named)
    is_measured = source.suffix == ".json" or any(source.glob("*.measurements.json"))
    folder = source if source.is_dir() else source.parent
    staged = run(
        source, out or (folder if is_measured else folder / "measurements"), request, masks, progress=TERMINAL.progress
    )
    show_clinical.staged(TERMINAL, staged, as_json=json)
    show.fail_for(TERMINAL, staged.failures, len(staged.cases))
