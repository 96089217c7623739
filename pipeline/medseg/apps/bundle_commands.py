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


def export(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files and export.json.")],
    form: Annotated[str, typer.Option("--format", help="onnx, openvino, torch-export or monai-bundle.")] = "onnx",
    case: Annotated[
        list[Path] | None,
        typer.Option("--case", help="Image to compare on, one per channel. Default: seeded noise, which says less."),
    ] = None,
    json: o.Json = False,
) -> None:
    """Write a model for other software, compared with the original on a whole case before it is kept.

    Example: `medseg export model --format onnx --out model-onnx --case case.nii.gz`
    """
    from medseg.apps.show_export import exported
    from medseg.workflows.export import export as run

    exported(TERMINAL, run(bundle, out, form=form, case=tuple(case or ())), out, as_json=json)
