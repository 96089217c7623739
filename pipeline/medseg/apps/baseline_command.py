"""The command that holds classical models against the network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.apps import options as o
from medseg.apps import show, show_baseline
from medseg.apps.terminal import TERMINAL


def baseline(
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", "-m", help="Dataset; default: the one that was preprocessed.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="The network; default: the workspace's newest.")] = None,
    network: Annotated[bool, typer.Option("--network/--no-network", help="Hold the network against them.")] = True,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Takes baseline.json; default: WORKSPACE/reports.")
    ] = None,
    head: Annotated[list[str] | None, typer.Option("--head", help="Only this head; may be repeated.")] = None,
    labels: Annotated[str | None, typer.Option(help="Radiomics under these labels only: tumour,kidney.")] = None,
    features: Annotated[
        str | None, typer.Option(help="radiomics, encoder, or both; default: both where there is a network.")
    ] = None,
    models: Annotated[str | None, typer.Option(help="Of svm,tree,forest,logistic; default: all.")] = None,
    judge: Annotated[str | None, typer.Option(help="val: what training held back; test: the test cases.")] = None,
    masks: Annotated[
        str | None, typer.Option(help="Of the judged cases: predicted, reference, or auto (predicted if it can be).")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="Which part of the cases judges; default: the network's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    device: o.Device = None,
    amp: o.Amp = None,
    config: o.Config = None,
    set_: o.Assignments = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Hold SVM, tree, forest and logistic regression against the network: the same split, the same cases and numbers.

    Example: `medseg baseline --workspace work`
    """
    from medseg.workflows.baseline import Request, forecast_baseline
    from medseg.workflows.baseline import baseline as run
    from medseg.workflows.config import load_settings
    from medseg.workflows.workspace import Workspace

    settings = show.resolve(
        load_settings(config, set_ or ()),
        "baseline",
        heads=head or None,
        labels=labels,
        features=features,
        models=models,
        judge=judge,
        masks=masks,
        fold=fold,
        seed=seed,
        device=device,
        amp=amp,
    ).baseline
    place, request = Workspace(workspace), Request(manifest, bundle, network)
    target = out or place.reports
    if dry_run:
        show.forecast(TERMINAL, forecast_baseline(place, settings, request, target), as_json=json)
        return
    judged = run(place, settings, request, target, progress=TERMINAL.progress)
    show_baseline.judged(TERMINAL, judged, as_json=json)
    show.fail_for(TERMINAL, judged.report.failures, judged.num_measured)
