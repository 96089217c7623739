"""The commands about models: train, infer, demo."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from medseg.apps import options as o
from medseg.apps import show, show_infer
from medseg.apps.terminal import TERMINAL, TrainingWatch
from medseg.core.errors import MedsegError


def train(
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    budget: Annotated[str | None, typer.Option(help="Wall time of the training: 90s, 20m, 1h30m.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Length in passes over the cases, instead of a budget.")] = None,
    fold: Annotated[int | None, typer.Option(help="Which part of the cases to hold back.")] = None,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate: train so many folds, each for the whole budget.", min=2)
    ] = None,
    stratify_by: Annotated[
        str | None, typer.Option(help="Dealt evenly into folds: class, none, or an attribute such as site.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Patches of a step instead of the plan's number.")] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Parts in which a step's batch goes through the network: less memory.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="adamw, or sgd as nnU-Net trains.")] = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="torch.compile; default: on CUDA.")
    ] = None,
    deterministic: Annotated[
        bool | None, typer.Option("--deterministic", help="The same result every time on the same machine.")
    ] = None,
    channel_dropout: Annotated[
        float | None, typer.Option(help="Share of patches that lose a channel: the model then copes without it.")
    ] = None,
    init_from: Annotated[
        Path | None, typer.Option(help="Fine-tune: start with the weights of this model folder, where they fit.")
    ] = None,
    freeze_encoder: Annotated[
        float | None, typer.Option(help="With --init-from: hold the encoder for this share of the training; 1: all.")
    ] = None,
    ram_gib: Annotated[
        float | None, typer.Option(help="GiB of memory that the cases may take; default: half of what is free.", min=0)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the run; another name trains beside earlier runs.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away an earlier training of this name.")] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Write a page of augmented patches instead of training.")
    ] = False,
    batch: Annotated[
        Path | None, typer.Option(help="With --preview: the failed-step-N.safetensors of a run to look at.")
    ] = None,
    device: o.Device = None,
    amp: o.Amp = None,
    config: o.Config = None,
    set_: o.Assignments = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Train on the workspace's store; ends in a model folder (bundle). Run it again to resume, longer to extend.

    Ctrl-C, SIGTERM or a file named `stop` in the run's folder ends it in good order. On several GPUs or machines:
    `torchrun --nproc-per-node N -m medseg train ...`.

    With --folds every case is predicted by the fold that did not see it, the folds are scored together, and become one
    model; with --fold as well, only that one, for one of several machines.

    Example: `medseg train --workspace work --budget 30m`
    """
    from medseg.workflows.claim import require_no_run
    from medseg.workflows.config import load_settings
    from medseg.workflows.workspace import Workspace

    everything = show.resolve(
        load_settings(config, set_ or ()),
        "train",
        budget=budget,
        epochs=epochs,
        fold=fold,
        num_folds=folds,
        stratify_by=stratify_by,
        batch_size=batch_size,
        channel_dropout=channel_dropout,
        init_from=init_from,
        freeze_encoder=freeze_encoder,
        accumulate=accumulate,
        recipe=recipe,
        compile=compile_,
        deterministic=deterministic,
        ram_gib=ram_gib,
        seed=seed,
        device=device,
        amp=amp,
    )
    settings, place = everything.train, Workspace(workspace)
    if is_one_of_others := os.environ.get("RANK", "0") != "0":
        TERMINAL.leave_to_others()
    if dry_run:
        from medseg.workflows.forecast_train import forecast_folds, forecast_train

        made = forecast_train(place, settings) if folds is None else forecast_folds(place, settings, name=name)
        show.forecast(TERMINAL, made, as_json=json)
        return
    if preview or batch is not None:
        from medseg.apps.preview_command import preview_training

        preview_training(place, settings, batch, as_json=json)
        return
    if folds is not None:
        from medseg.apps.folds_command import train_folds

        everything = show.resolve(everything, "infer", device=device, amp=amp)
        train_folds(place, everything, name=name, restart=restart, as_json=json)
        return
    if not is_one_of_others:
        require_no_run(place.run(name, settings.fold))  # before anything that takes seconds to load
    from medseg.workflows.train import train as run

    watch = TrainingWatch(TERMINAL)
    try:
        trained = run(place, settings, name=name, restart=restart, progress=TERMINAL.progress, watch=watch)
    except MedsegError as error:
        if error.code != "E-RANK-ENDED":
            raise
        raise typer.Exit(error.exit_code) from None
    finally:
        watch.close()
    show.trained(TERMINAL, trained, as_json=json)
    if not trained.finished:
        raise typer.Exit(130)


def infer(
    volume: Annotated[
        list[Path] | None,
        typer.Option(
            "--volume",
            help="An image file or DICOM folder; may be repeated, for a model of several channels once for each: "
            "`none` where the case lacks one.",
        ),
    ] = None,
    input_: Annotated[
        Path | None, typer.Option("--input", "-i", help="A folder of images, a DICOM folder, or a manifest.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: WORKSPACE/predictions.")] = None,
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    bundle: Annotated[Path | None, typer.Option(help="Model folder; default: the workspace's newest.")] = None,
    split: Annotated[str | None, typer.Option(help="Only these cases of a manifest: train, val or test.")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="What the model reads beside one --volume: age=63; may be repeated.")
    ] = None,
    overlap: Annotated[float | None, typer.Option(help="Share of a window that its neighbour repeats.")] = None,
    roi: Annotated[
        bool | None, typer.Option("--roi", help="Find the region of interest first, then look closely only there.")
    ] = None,
    tta: Annotated[bool | None, typer.Option("--tta/--no-tta", help="Average over mirrored copies.")] = None,
    save_probabilities: Annotated[
        bool | None, typer.Option("--save-probabilities", help="Also write the class probabilities of every voxel.")
    ] = None,
    overwrite: Annotated[
        bool | None, typer.Option("--overwrite", help="Redo cases that are done and verified, too.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="3/8: only the third of eight parts of the cases; parts may share --out.")
    ] = None,
    engine: o.Engine = None,
    workers: o.Workers = None,
    address: o.Address = None,
    format_: o.Formats = None,
    terminology: o.Terminology = None,
    private_codes: o.PrivateCodes = None,
    assume_orientation: o.AssumeOrientation = None,
    prefer: o.Prefer = None,
    series: o.Series = None,
    phase: o.Phase = None,
    fix_geometry: o.FixGeometry = None,
    suv: o.Suv = None,
    device: o.Device = None,
    amp: o.Amp = None,
    backend: Annotated[
        str | None, typer.Option("--backend", help="auto, torch, compiled, openvino, onnx: who runs the network.")
    ] = None,
    config: o.Config = None,
    set_: o.Assignments = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Predict masks, on the grid of each volume, and a JSON of volumes in ml and class probabilities.

    For a DICOM series also a DICOM segmentation, structure set or report (--format), on its own slices. The same
    command again skips what is done and verified, and goes on.

    Example: `medseg infer --volume case.nii.gz --workspace work --out predictions`
    """
    from medseg.workflows.config import load_settings
    from medseg.workflows.workspace import Workspace

    settings = show.resolve(
        load_settings(config, set_ or ()),
        "infer",
        overlap=overlap,
        roi=roi,
        tta=tta,
        save_probabilities=save_probabilities,
        overwrite=overwrite,
        shard=shard,
        engine=engine,
        workers=workers,
        address=address,
        formats=format_,
        terminology=terminology,
        private_codes=private_codes,
        assume_orientation=assume_orientation,
        prefer=prefer,
        series=series,
        phase=phase,
        fix_geometry=fix_geometry,
        suv=suv,
        device=device,
        amp=amp,
        backend=backend,
    ).infer
    place, target = Workspace(workspace), out or Workspace(workspace).predictions
    asked: dict[str, Any] = {"volumes": volume or [], "folder": input_, "split": split}
    asked["attributes"] = show.parse_attributes(attribute or ())
    if dry_run:
        from medseg.workflows.forecast_infer import forecast_infer
        from medseg.workflows.infer import Request

        request = Request(bundle or place.newest_bundle(), settings, **asked)
        made = forecast_infer(request, out=target, progress=TERMINAL.progress)
        show.forecast(TERMINAL, made, as_json=json)
        return
    from medseg.workflows.claim import claimed

    with claimed(target, settings) as claim:  # before anything that takes seconds to load
        from medseg.workflows.infer import Request, infer_batch, overlapped

        runner = overlapped
        if settings.engine == "ray":
            from medseg.apps.batch import on_ray as runner
        request = Request(bundle or place.newest_bundle(), settings, **asked)
        inferred = infer_batch(request, claim, runner=runner, progress=TERMINAL.progress)
    show_infer.inferred(TERMINAL, inferred, as_json=json)
    show.fail_for(TERMINAL, inferred.failures, len(inferred.predictions))


def demo(
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    budget: Annotated[str, typer.Option(help="Wall time of the training.")] = "220s",
    device: o.Device = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """The whole main job on the embedded cohort: check, preprocess, train, infer, evaluate, report.

    Example: `medseg demo --workspace work`
    """
    from medseg.workflows.config import load_settings
    from medseg.workflows.demo import demo as run
    from medseg.workflows.workspace import Workspace

    if dry_run:
        from medseg.workflows.forecast import forecast_demo

        show.forecast(TERMINAL, forecast_demo(Workspace(workspace), budget), as_json=json)
        return
    settings = show.resolve(load_settings(), "train", device=device)
    settings = show.resolve(settings, "infer", device=device)
    watch = TrainingWatch(TERMINAL)
    try:
        shown = run(Workspace(workspace), settings, budget=budget, progress=TERMINAL.progress, watch=watch)
    finally:
        watch.close()
    for warning in shown.trained.warnings:
        TERMINAL.warning(warning)
    show.evaluated(TERMINAL, shown.evaluated, as_json=json)
