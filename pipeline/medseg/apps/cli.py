"""The `medseg` command. Commands declare options, call one workflow, and show what it returned."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import medseg
from medseg.apps import options as o
from medseg.apps import show
from medseg.apps.terminal import Terminal, TrainingWatch
from medseg.core.errors import BatchError, MedsegError

app = typer.Typer(
    name="medseg",
    help="Segmentation, diagnosis and reports from CT, MRI, PET and ultrasound volumes. Research use only.\n\n"
    "A first run on the embedded cohort: `medseg demo`. On your own data: `medseg import`, `check`, `preprocess`, "
    "`train`, `infer`, `evaluate`, in this order; each finds the last one's results in --workspace.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_ANYWHERE = {"-q", "--quiet", "-v", "--verbose", "--debug"}
_terminal = Terminal()


def _print_version(asked: bool) -> None:
    if asked:
        _terminal.result(f"medseg {medseg.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens inside.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    _terminal.quiet = quiet
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, stream=sys.stderr)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="dataset.json, CSV, MONAI datalist, MedMNIST .npz, or a folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write.")] = Path("manifest.json"),
    name: Annotated[str | None, typer.Option(help="Name of the dataset.")] = None,
    channels: Annotated[str | None, typer.Option(help="Modality per channel: CT or MRI,MRI ...")] = None,
    labels: Annotated[str | None, typer.Option(help="Names of the mask values: liver=1,tumour=2.")] = None,
    classes: Annotated[str | None, typer.Option(help="Names of the case classes, in order: benign,malignant.")] = None,
    images: Annotated[str | None, typer.Option(help="Sub-folder or pattern of the images.")] = None,
    masks: Annotated[str | None, typer.Option(help="Sub-folder or pattern of the masks.")] = None,
    absent_is_unlabelled: Annotated[
        bool, typer.Option(help="A label without voxels in a case was not annotated there: never taught as background.")
    ] = False,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Make a manifest from a dataset laid out in another way.

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
        images=images,
        masks=masks,
        absent_is_unlabelled=absent_is_unlabelled,
        dry_run=dry_run,
        progress=_terminal.progress,
    )
    show.dataset(_terminal, dataset, None if dry_run else out, as_json=json)


@app.command()
def check(
    manifest: o.Manifest = None,
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    json: o.Json = False,
) -> None:
    """Read every case: geometry, labels, values, duplicates, patients in two splits. One table of findings.

    Example: `medseg check --manifest hippocampus.json`. Exit code 3 when there are errors.
    """
    from medseg.workflows.check import check as run
    from medseg.workflows.workspace import Workspace

    report = run(Workspace(workspace), manifest, progress=_terminal.progress)
    show.checked(_terminal, report, as_json=json)
    if report.num_errors:
        raise typer.Exit(3)


@app.command()
def preprocess(
    manifest: o.Manifest = None,
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    plan: Annotated[Path | None, typer.Option(help="An edited plan.json instead of a new one.")] = None,
    target: Annotated[str | None, typer.Option(help="Size the network for: auto, cpu or gpu.")] = None,
    window: Annotated[
        str | None, typer.Option(help="CT window: soft_tissue, lung, bone, brain ... or low,high.")
    ] = None,
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
        load_settings(config, set_ or ()), "preprocess", manifest=manifest, plan=plan, target=target, window=window
    ).preprocess
    place = Workspace(workspace)
    if dry_run:
        forecast, made = forecast_preprocess(place, settings, progress=_terminal.progress)
        show.plan(_terminal, made, as_json=json)
        show.forecast(_terminal, forecast, as_json=json)
        return
    store = run(place, settings, progress=_terminal.progress)
    show.stored(_terminal, store, as_json=json)
    _fail_for(store.index.failures, len(store.index.cases))


@app.command()
def train(
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    budget: Annotated[str | None, typer.Option(help="Wall time of the training: 90s, 20m, 1h30m.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Length in passes over the cases, instead of a budget.")] = None,
    fold: Annotated[int | None, typer.Option(help="Which part of the cases to hold back.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the run; another name trains beside earlier runs.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away an earlier training of this name.")] = False,
    device: o.Device = None,
    amp: o.Amp = None,
    config: o.Config = None,
    set_: o.Assignments = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Train on the workspace's store; ends in a model folder (bundle). Run it again to resume.

    Ctrl-C, SIGTERM or a file named `stop` in the run's folder ends it in good order.

    Example: `medseg train --workspace work --budget 30m`
    """
    from medseg.workflows.config import load_settings
    from medseg.workflows.forecast import forecast_train
    from medseg.workflows.train import train as run
    from medseg.workflows.workspace import Workspace

    settings = show.resolve(
        load_settings(config, set_ or ()),
        "train",
        budget=budget,
        epochs=epochs,
        fold=fold,
        seed=seed,
        device=device,
        amp=amp,
    ).train
    place = Workspace(workspace)
    if dry_run:
        show.forecast(_terminal, forecast_train(place, settings), as_json=json)
        return
    watch = TrainingWatch(_terminal)
    try:
        trained = run(place, settings, name=name, restart=restart, progress=_terminal.progress, watch=watch)
    finally:
        watch.close()
    show.trained(_terminal, trained, as_json=json)
    if not trained.finished:
        raise typer.Exit(130)


@app.command()
def infer(
    volume: Annotated[
        list[Path] | None, typer.Option("--volume", help="An image file or DICOM folder; may be repeated.")
    ] = None,
    input_: Annotated[
        Path | None, typer.Option("--input", "-i", help="A folder of images, a DICOM folder, or a manifest.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: WORKSPACE/predictions.")] = None,
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    bundle: Annotated[Path | None, typer.Option(help="Model folder; default: the workspace's newest.")] = None,
    split: Annotated[str | None, typer.Option(help="Only these cases of a manifest: train, val or test.")] = None,
    overlap: Annotated[float | None, typer.Option(help="Share of a window that its neighbour repeats.")] = None,
    tta: Annotated[bool | None, typer.Option("--tta/--no-tta", help="Average over mirrored copies.")] = None,
    save_probabilities: Annotated[
        bool | None, typer.Option("--save-probabilities", help="Also write the class probabilities of every voxel.")
    ] = None,
    assume_orientation: Annotated[
        bool | None, typer.Option("--assume-orientation", help="Accept files that do not state their orientation.")
    ] = None,
    series: Annotated[str | None, typer.Option(help="Which series of a DICOM folder.")] = None,
    device: o.Device = None,
    amp: o.Amp = None,
    config: o.Config = None,
    set_: o.Assignments = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Predict masks, on the grid of each volume, and a JSON of volumes in ml and class probabilities.

    Example: `medseg infer --volume case.nii.gz --workspace work --out predictions`
    """
    from medseg.workflows.config import load_settings
    from medseg.workflows.workspace import Workspace

    settings = show.resolve(
        load_settings(config, set_ or ()),
        "infer",
        overlap=overlap,
        tta=tta,
        save_probabilities=save_probabilities,
        assume_orientation=assume_orientation,
        series=series,
        device=device,
        amp=amp,
    ).infer
    place = Workspace(workspace)
    model, target = bundle or place.newest_bundle(), out or place.predictions
    asked: dict[str, Any] = {"volumes": volume or [], "folder": input_, "split": split, "progress": _terminal.progress}
    if dry_run:
        from medseg.workflows.forecast import forecast_infer

        show.forecast(_terminal, forecast_infer(model, settings, out=target, **asked), as_json=json)
        return
    from medseg.workflows.infer import infer as run

    inferred = run(model, target, settings, **asked)
    show.inferred(_terminal, inferred, as_json=json)
    _fail_for(inferred.failures, len(inferred.predictions))


@app.command()
def evaluate(
    predictions: Annotated[
        Path | None, typer.Option("--predictions", "-p", help="Folder of masks; default: WORKSPACE/predictions.")
    ] = None,
    manifest: o.Manifest = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: WORKSPACE/reports.")] = None,
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    split: Annotated[str | None, typer.Option(help="all, train, val or test.")] = None,
    tolerance_mm: Annotated[float | None, typer.Option(help="Of the normalised surface Dice.")] = None,
    pictures: Annotated[bool | None, typer.Option("--pictures/--no-pictures")] = None,
    config: o.Config = None,
    set_: o.Assignments = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Score masks (medseg's or another tool's) against a manifest's references; a page per case and one of the cohort.

    Example: `medseg evaluate --predictions predictions --manifest hippocampus.json --out reports`
    """
    from medseg.workflows.config import load_settings
    from medseg.workflows.workspace import Workspace

    settings = show.resolve(
        load_settings(config, set_ or ()), "evaluate", split=split, tolerance_mm=tolerance_mm, pictures=pictures
    ).evaluate
    place = Workspace(workspace)
    source, target = predictions or place.predictions, out or place.reports
    if dry_run:
        from medseg.workflows.forecast import forecast_evaluate

        show.forecast(_terminal, forecast_evaluate(place, source, target, settings, manifest), as_json=json)
        return
    from medseg.workflows.evaluate import evaluate as run

    evaluated = run(place, source, target, settings, manifest=manifest, progress=_terminal.progress)
    show.evaluated(_terminal, evaluated, as_json=json)
    _fail_for(evaluated.report.failures, len(evaluated.report.cases))


@app.command()
def demo(
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    budget: Annotated[str, typer.Option(help="Wall time of the training.")] = "150s",
    device: o.Device = None,
    json: o.Json = False,
) -> None:
    """The whole main job on the embedded cohort: check, preprocess, train, infer, evaluate, report.

    Example: `medseg demo --workspace work`
    """
    from medseg.workflows.config import load_settings
    from medseg.workflows.demo import demo as run
    from medseg.workflows.workspace import Workspace

    settings = show.resolve(load_settings(), "train", device=device)
    settings = show.resolve(settings, "infer", device=device)
    watch = TrainingWatch(_terminal)
    try:
        shown = run(Workspace(workspace), settings, budget=budget, progress=_terminal.progress, watch=watch)
    finally:
        watch.close()
    show.evaluated(_terminal, shown.evaluated, as_json=json)


def main() -> None:
    """Run the command; every refusal becomes one line and an exit code."""
    arguments = sys.argv[1:]
    ahead = [argument for argument in arguments if argument in _ANYWHERE]
    debug = "--debug" in ahead
    try:
        code = app([*ahead, *(a for a in arguments if a not in _ANYWHERE)], standalone_mode=False)
    except MedsegError as error:
        if debug:
            raise
        _terminal.error(str(error))
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _terminal.error("interrupted")
        code = 130
    except Exception as error:  # noqa: BLE001 - the last door: nothing behind it would name the cause
        code = show.unexpected(_terminal, error, debug=debug)
    sys.exit(code if isinstance(code, int) else 0)


def _fail_for(failures: Any, num_done: int) -> None:
    if not failures:
        return
    for failure in failures:
        _terminal.warning(f"[{failure.code}] case {failure.case}: {failure.message}. {failure.remedy or ''}")
    raise BatchError(f"{len(failures)} case(s) failed, {num_done} done", code="E-BATCH")
