"""The commands about data: import, check, preprocess."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.apps import options as o
from medseg.apps import show, show_check
from medseg.apps.terminal import TERMINAL


def import_(
    path: Annotated[Path, typer.Argument(help="dataset.json, CSV, MONAI datalist, MedMNIST .npz, or a folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.")] = Path("manifest.json"),
    name: Annotated[str | None, typer.Option(help="Name of the dataset.")] = None,
    channels: Annotated[str | None, typer.Option(help="Modality per channel: CT or MRI,MRI ...")] = None,
    labels: Annotated[str | None, typer.Option(help="Names of the mask values: liver=1,tumour=2.")] = None,
    classes: Annotated[str | None, typer.Option(help="Names of the case classes, in order: benign,malignant.")] = None,
    ordered: Annotated[
        str | None, typer.Option(help="Heads whose classes are steps of one scale, lowest first: stage,grade.")
    ] = None,
    targets: Annotated[
        str | None, typer.Option(help="Columns that are numbers to be answered, with their unit: age=years,bmd=g/cm2.")
    ] = None,
    images: Annotated[str | None, typer.Option(help="Sub-folder or pattern of the images.")] = None,
    masks: Annotated[str | None, typer.Option(help="Sub-folder or pattern of the masks.")] = None,
    absent_is_unlabelled: Annotated[
        bool, typer.Option(help="A label without voxels in a case was not annotated there: never taught as background.")
    ] = False,
    assume_orientation: o.AssumeOrientation = None,
    prefer: o.Prefer = None,
    series: o.Series = None,
    phase: o.Phase = None,
    fix_geometry: o.FixGeometry = None,
    suv: o.Suv = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Make a manifest from a dataset laid out in another way; it keeps how the images are to be read.

    Example: `medseg import Task04_Hippocampus --out hippocampus.json`
    """
    from medseg.workflows.import_dataset import import_manifest

    dataset = import_manifest(
        path,
        out,
        name=name,
        channels=show.split_names(channels),
        labels=show.parse_labels(labels),
        classes=show.split_names(classes),
        ordered=show.split_names(ordered),
        targets=show.parse_units(targets),
        images=images,
        masks=masks,
        absent_is_unlabelled=absent_is_unlabelled,
        reading=show.reading(
            assume_orientation=assume_orientation,
            prefer=prefer,
            series=series,
            phase=phase,
            fix_geometry=fix_geometry,
            suv=suv,
        ),
        dry_run=dry_run,
        progress=TERMINAL.progress,
    )
    show.dataset(TERMINAL, dataset, None if dry_run else out, as_json=json)


def check(
    manifest: o.Manifest = None,
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    fix: Annotated[
        Path | None, typer.Option("--fix", help="New folder for a repaired copy; the original is only read.")
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="With --fix: link sound files instead of copying them.")] = False,
    assume_orientation: o.AssumeOrientation = None,
    prefer: o.Prefer = None,
    series: o.Series = None,
    phase: o.Phase = None,
    fix_geometry: o.FixGeometry = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write the findings there too, as .json or .csv.")
    ] = None,
    contain: Annotated[
        bool, typer.Option("--contain/--no-contain", help="Read each case in a process of its own, with limits.")
    ] = True,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Read every case and name every problem in one table: geometry, labels, values, duplicates, splits, sides.

    With --fix FOLDER everything that needs no guessing is mended in a complete new dataset: FOLDER/manifest.json, with
    each change in changes.json and before and after in pictures in doctor.html.

    Exit code 3 when there are errors; with --fix 7 when cases had to be left out, or errors between cases remain.

    Example: `medseg check --manifest hippocampus.json --fix hippocampus-repaired`
    """
    from medseg.core.reading import Containment
    from medseg.workflows.workspace import Workspace

    reading = show.reading(
        assume_orientation=assume_orientation, prefer=prefer, series=series, phase=phase, fix_geometry=fix_geometry
    )
    place, limits = Workspace(workspace), Containment(contain=contain)
    if fix is not None:
        show_check.refuse_together(
            "--fix", "--report", report_file, "With --fix the findings are in FOLDER/changes.json."
        )
        from medseg.io.contained import contained
        from medseg.workflows.doctor import heal

        with contained(limits):
            healed = heal(place, manifest, fix, reading, link=link, dry_run=dry_run, progress=TERMINAL.progress)
        show_check.healed(TERMINAL, healed, as_json=json)
        return
    if dry_run:
        from medseg.workflows.forecast import forecast_check

        show.forecast(TERMINAL, forecast_check(place, manifest), as_json=json)
        return
    from medseg.workflows.check import check as run

    report = run(place, manifest, reading, report_file=report_file, containment=limits, progress=TERMINAL.progress)
    show_check.checked(TERMINAL, report, as_json=json)
    if report.num_errors:
        raise typer.Exit(3)


def preprocess(
    manifest: o.Manifest = None,
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    plan: Annotated[Path | None, typer.Option(help="An edited plan.json instead of a new one.")] = None,
    target: Annotated[str | None, typer.Option(help="Size the network for: auto, cpu or gpu.")] = None,
    window: Annotated[
        str | None, typer.Option(help="CT window: soft_tissue, lung, bone, brain ... or low,high.")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(help="plain, residual, resenc-m, resenc-l, resenc-xl, swin-unetr, segresnet or attention-unet."),
    ] = None,
    clinical: Annotated[
        list[str] | None, typer.Option(help="Column of the manifest that joins the diagnosis: age; may be repeated.")
    ] = None,
    assume_orientation: o.AssumeOrientation = None,
    prefer: o.Prefer = None,
    series: o.Series = None,
    phase: o.Phase = None,
    fix_geometry: o.FixGeometry = None,
    suv: o.Suv = None,
    engine: o.Engine = None,
    workers: o.Workers = None,
    address: o.Address = None,
    config: o.Config = None,
    set_: o.Assignments = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Measure the dataset, make a plan, and store every case as the network will see it.

    The plan (`WORKSPACE/store/plan.json`) gives a reason for each decision and may be edited: pass it back with --plan.

    Example: `medseg preprocess --manifest hippocampus.json --workspace work`
    """
    from medseg.workflows.config import load_settings
    from medseg.workflows.forecast import forecast_preprocess
    from medseg.workflows.preprocess import preprocess as run
    from medseg.workflows.workspace import Workspace

    settings = show.resolve(
        load_settings(config, set_ or ()),
        "preprocess",
        manifest=manifest,
        plan=plan,
        target=target,
        window=window,
        network=network,
        clinical=clinical,
        assume_orientation=assume_orientation,
        prefer=prefer,
        series=series,
        phase=phase,
        fix_geometry=fix_geometry,
        suv=suv,
        engine=engine,
        workers=workers,
        address=address,
    ).preprocess
    place = Workspace(workspace)
    if dry_run:
        forecast, made = forecast_preprocess(place, settings, progress=TERMINAL.progress)
        show.plan(TERMINAL, made, as_json=json)
        show.forecast(TERMINAL, forecast, as_json=json)
        return
    from medseg.apps.batch import engine_of

    with engine_of(settings) as each:
        store = run(place, settings, each=each, progress=TERMINAL.progress)
    show.stored(TERMINAL, store, as_json=json)
    show.fail_for(TERMINAL, store.index.failures, len(store.index.cases))
