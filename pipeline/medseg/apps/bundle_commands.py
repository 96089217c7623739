"""Commands that make a bundle from models that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.apps import options as o
from medseg.apps import show
from medseg.apps.terminal import TERMINAL

Out = Annotated[Path, typer.Option("--out", "-o", help="Bundle folder to write.")]


def import_nnunet(
    results: Annotated[Path, typer.Argument(help="nnU-Net's TRAINER__PLANS__CONFIGURATION, with fold_0 inside.")],
    out: Out,
    fold: Annotated[
        list[str] | None, typer.Option("--fold", help="Which fold (0, 1, ... or all); may be repeated. Default: all.")
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="checkpoint_best.pth instead of checkpoint_final.pth.")] = False,
    json: o.Json = False,
) -> None:
    """Take over a trained nnU-Net v2 model; several folds become an ensemble. Nothing in its checkpoints is run.

    nnU-Net mirrors at inference by default; `medseg infer --tta` does the same.

    Example: `medseg import-nnunet nnUNetTrainer__nnUNetPlans__3d_fullres --out model`
    """
    from medseg.workflows.import_nnunet import import_nnunet as run

    show.bundle(TERMINAL, run(results, out, folds=tuple(fold or ()), best=best), out, as_json=json)


def ensemble(
    bundles: Annotated[list[Path], typer.Argument(help="Bundle folders, trained from one store.")],
    out: Out,
    json: o.Json = False,
) -> None:
    """Put models together: one bundle that answers with the mean of its members.

    Example: `medseg ensemble work/runs/fold0/bundle work/runs/fold1/bundle --out model`
    """
    from medseg.workflows.ensemble import ensemble as run

    show.bundle(TERMINAL, run(bundles, out), out, as_json=json)
