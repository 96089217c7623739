"""The command that scores masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from medseg.apps import options as o
from medseg.apps import show
from medseg.apps.terminal import TERMINAL
from medseg.core.errors import UsageError


def evaluate(
    predictions: Annotated[
        Path | None, typer.Option("--predictions", "-p", help="Folder of masks; default: WORKSPACE/predictions.")
    ] = None,
    manifest: o.Manifest = None,
    references: Annotated[
        Path | None,
        typer.Option("--references", "-r", help="Folder of reference masks of the same names, instead of a manifest."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: WORKSPACE/reports.")] = None,
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="What the predictions' values mean: NAME=VALUE or NAME=REFERENCE:VALUE. `liver=1:5`: liver is 1 in "
            "the references, 5 in the predictions; `lung=10+11`: either; `background=*`: all others. May be repeated.",
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Names of the values in --references: liver=1,tumour=2; else from dataset.json.")
    ] = None,
    resample_reference: Annotated[
        bool | None, typer.Option("--resample-reference", help="Where grids differ, score on the prediction's grid.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="all, train, val or test.")] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option("--tolerance", "--tolerance-mm", help="Of the surface Dice, in mm: 2, or liver=2,vessel=0.5."),
    ] = None,
    percentile: Annotated[
        list[float] | None, typer.Option(help="Of the distances, beside the 95th; may be repeated.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="surface, or voxel: distances as MONAI computes them.")] = None,
    lesions: Annotated[
        str | None, typer.Option(help="Labels scored lesion by lesion: tumour; default: the manifest's lesion_labels.")
    ] = None,
    lesion_criterion: Annotated[str | None, typer.Option(help="What pairs two lesions: iou or overlap.")] = None,
    lesion_threshold: Annotated[float | None, typer.Option(help="Least criterion of a pair, 0 to 1.")] = None,
    min_lesion_ml: Annotated[float | None, typer.Option(help="Smaller parts of a mask are no lesions.")] = None,
    pictures: Annotated[bool | None, typer.Option("--pictures/--no-pictures")] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Processes; default: one per core for a large cohort.")
    ] = None,
    engine: o.Engine = None,
    workers: o.Workers = None,
    address: o.Address = None,
    config: o.Config = None,
    set_: o.Assignments = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Score masks (medseg's or another tool's) against references; a page per case and one of the cohort.

    Example: `medseg evaluate --predictions predictions --manifest liver.json --map 'liver=1:5,background=*'`
    """
    from medseg.workflows.config import load_settings
    from medseg.workflows.workspace import Workspace

    settings = show.resolve(
        load_settings(config, set_ or ()),
        "evaluate",
        split=split,
        pictures=pictures,
        label_map=map_ or None,
        labels=show.parse_labels(labels),
        resample_reference=resample_reference,
        percentiles=percentile or None,
        mode=mode,
        lesions=None if lesions is None else show.split_names(lesions),
        lesion_criterion=lesion_criterion,
        lesion_threshold=lesion_threshold,
        min_lesion_ml=min_lesion_ml,
        jobs=jobs,
        engine=engine,
        workers=workers,
        address=address,
        **_tolerances(tolerance or ()),
    ).evaluate
    place = Workspace(workspace)
    source, target = predictions or place.predictions, out or place.reports
    against: dict[str, Any] = {"manifest": manifest, "references": references}
    if dry_run:
        from medseg.workflows.forecast import forecast_evaluate

        show.forecast(TERMINAL, forecast_evaluate(place, source, target, settings, **against), as_json=json)
        return
    from medseg.apps.batch import engine_of
    from medseg.workflows.evaluate import evaluate_opened
    from medseg.workflows.evaluate_inputs import open_inputs

    inputs = open_inputs(place, source, settings, **against, progress=TERMINAL.progress)
    with engine_of(settings) as each:
        evaluated = evaluate_opened(inputs, source, target, settings, each=each, progress=TERMINAL.progress)
    show.evaluated(TERMINAL, evaluated, as_json=json)
    show.fail_for(TERMINAL, evaluated.report.failures, len(evaluated.report.cases))


def _tolerances(words: Sequence[str]) -> dict[str, Any]:
    """`2` for all labels, `liver=2,vessel=0.5` for some."""
    chosen: dict[str, Any] = {}
    for part in (part for word in words for part in show.split_names(word)):
        name, equals, value = part.rpartition("=")
        try:
            tolerance_mm = float(value)
        except ValueError:
            raise UsageError(
                f"cannot read --tolerance {part!r}",
                code="E-OPTION",
                remedy="Write millimetres: 2, or liver=2,vessel=0.5.",
            ) from None
        if equals:
            chosen.setdefault("tolerances_mm", {})[name] = tolerance_mm
        else:
            chosen["tolerance_mm"] = tolerance_mm
    return chosen
