"""The commands about finished results: compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.apps import options as o
from medseg.apps import show
from medseg.apps.terminal import TERMINAL


def compare(
    first: Annotated[Path, typer.Argument(help="Folder made by `medseg evaluate`, or masks (with --manifest).")],
    second: Annotated[Path, typer.Argument(help="The same of the model to hold against it.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: WORKSPACE/comparison.")] = None,
    names: Annotated[str | None, typer.Option(help="What to call the two: baseline,new.")] = None,
    common: Annotated[bool, typer.Option("--common", help="Compare the cases and labels that both have.")] = False,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", "-m", help="References; folders of masks are evaluated first.")
    ] = None,
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    config: o.Config = None,
    set_: o.Assignments = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Hold two models against each other on the same cases: differences, intervals, tests, and what they mean.

    Example: `medseg compare reports-old reports-new --out comparison`
    """
    from medseg.workflows.compare import Scoring
    from medseg.workflows.compare import compare as run
    from medseg.workflows.config import load_settings
    from medseg.workflows.workspace import Workspace

    scoring = None
    if manifest is not None:
        scoring = Scoring(Workspace(workspace), manifest, load_settings(config, set_ or ()).evaluate)
    target = out or workspace / "comparison"
    if dry_run:
        from medseg.workflows.compare import forecast_compare

        show.forecast(TERMINAL, forecast_compare((first, second), target, scoring=scoring), as_json=json)
        return
    compared = run(
        (first, second),
        target,
        names=show.parse_pair(names),
        common=common,
        scoring=scoring,
        progress=TERMINAL.progress,
    )
    show.compared(TERMINAL, compared, as_json=json)
