"""The commands about finished results: compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.apps import options as o
from medseg.apps import show, show_reports
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
        names=show_reports.parse_pair(names),
        common=common,
        scoring=scoring,
        progress=TERMINAL.progress,
    )
    show_reports.compared(TERMINAL, compared, as_json=json)


def report(
    folder: Annotated[
        Path | None, typer.Argument(help="Made by `medseg evaluate` or `compare`; default: WORKSPACE/reports.")
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Print every page to a PDF beside it.")] = False,
    paper: Annotated[str, typer.Option(help="A4 or Letter.")] = "A4",
    case: Annotated[list[str] | None, typer.Option("--case", help="Print only this case; may be repeated.")] = None,
    browser: Annotated[Path | None, typer.Option(help="Chromium, Chrome or Edge; found by itself.")] = None,
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Make the pages again from their JSON, without measuring anything; with --pdf, print them.

    Example: `medseg report reports --pdf --paper Letter`
    """
    from medseg.workflows.report import forecast_report, remake_pages

    place = folder or workspace / "reports"
    if dry_run:
        show.forecast(TERMINAL, forecast_report(place, case or (), pdf=pdf), as_json=json)
        return
    remade = remake_pages(
        place,
        cases=case or (),
        pdf=show_reports.parse_paper(paper) if pdf else None,
        browser=browser,
        progress=TERMINAL.progress,
    )
    show_reports.remade(TERMINAL, remade, as_json=json)
    show.fail_for(TERMINAL, remade.failures, len(remade.made) + len(remade.printed))
