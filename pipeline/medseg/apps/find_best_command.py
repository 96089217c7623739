"""`medseg find-best`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.apps import options as o
from medseg.apps import show, show_folds
from medseg.apps.terminal import TERMINAL
from medseg.core.errors import UsageError


def find_best(
    runs: Annotated[list[Path], typer.Argument(help="Folders made by `train --folds`, from simple to complex.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: WORKSPACE/runs/best.")] = None,
    by: Annotated[str, typer.Option("--by", help="dice, iou, nsd, hd_mm, hd95_mm or assd_mm.")] = "dice",
    min_volumes: Annotated[
        str, typer.Option("--min-volumes", help="ml; parts of a mask under these are tried to be taken away.")
    ] = "0.02,0.1,0.5",
    pairs: Annotated[bool, typer.Option("--pairs/--no-pairs", help="Try configurations in pairs, too.")] = True,
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    device: o.Device = None,
    config: o.Config = None,
    set_: o.Assignments = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Choose configuration and cleaning of masks by out-of-fold scores, and write them as one model.

    Something more complex is chosen only when its gain is beyond chance, and the choosing itself is scored on folds
    that had no part in it.

    Example: `medseg find-best work/runs/plain work/runs/residual --workspace work`
    """
    from medseg.workflows.config import load_settings
    from medseg.workflows.find_best import Search, forecast_find_best
    from medseg.workflows.find_best import find_best as run
    from medseg.workflows.workspace import Workspace

    search, target = Search(by, _volumes(min_volumes), pairs), out or Workspace(workspace).runs / "best"
    if dry_run:
        show.forecast(TERMINAL, forecast_find_best(runs, target, search), as_json=json)
        return
    settings = show.resolve(load_settings(config, set_ or ()), "infer", device=device)
    found = run(Workspace(workspace), runs, target, settings, search=search, progress=TERMINAL.progress)
    show_folds.best(TERMINAL, found, as_json=json)


def _volumes(text: str) -> tuple[float, ...]:
    try:
        volumes = tuple(float(part) for part in show.split_names(text))
    except ValueError:
        volumes = (-1.0,)
    if any(not 0 < volume < float("inf") for volume in volumes):
        raise UsageError(
            f"cannot read --min-volumes {text!r}", code="E-OPTION", remedy="Write volumes in ml: 0.02,0.1,0.5."
        )
    return volumes
