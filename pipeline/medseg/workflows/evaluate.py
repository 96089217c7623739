"""`medseg evaluate`: predictions against references; one report per case and one of the cohort."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from medseg.core.errors import InputError
from medseg.core.findings import CaseFailure, CaseReport, CohortReport
from medseg.core.progress import Progress, silent
from medseg.io.contained import contained
from medseg.io.files import remove_unfinished, require_writable, staged_folder, write_text
from medseg.report.cohort import cohort_csv, render_cohort
from medseg.workflows.cohort_report import baselines_in, cohort_report
from medseg.workflows.evaluate_case import Scoring, attempt_case
from medseg.workflows.evaluate_inputs import Inputs, open_inputs
from medseg.workflows.parallel import Each, each_in_processes
from medseg.workflows.score_masks import Rules

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.case import Case
    from medseg.core.settings import EvaluateSettings
    from medseg.workflows.workspace import Workspace


@dataclass(frozen=True)
class Evaluated:
    """Where the pages are and what they say."""

    page: Path
    report: CohortReport


def evaluate(
    workspace: Workspace,
    predictions: Path,
    out: Path,
    settings: EvaluateSettings,
    *,
    manifest: Path | None = None,
    references: Path | None = None,
    progress: Progress = silent,
) -> Evaluated:
    """Score every case that has a reference; a case without a prediction is a failure, not a gap.

    The pages of an earlier evaluation in `out` stay until all new ones are written, and for good when none can be.

    Args:
        workspace: Names the embedded cohort when there are no references.
        predictions: Folder with a mask `CASE.nii.gz` (or another format) and, from `infer`, `CASE.json` per case.
        out: `index.html`, `cohort.json`, `cohort.csv`, and `cases/CASE.html` and `.json`.
        settings: Tolerances, label map, split, pictures, processes.
        manifest: With the references.
        references: A folder of reference masks instead, named as the predictions.
        progress: Wraps the loop over cases.

    Raises:
        InputError: E-NOTHING-TO-EVALUATE when no case could be scored, E-NOT-A-FOLDER.
        UsageError: E-LABEL-MAP, E-LABEL-NAME, E-OPTION, E-ENGINE.
    """
    inputs = open_inputs(workspace, predictions, settings, manifest=manifest, references=references, progress=progress)
    return evaluate_opened(inputs, predictions, out, settings, progress=progress)


def evaluate_opened(
    inputs: Inputs,
    predictions: Path,
    out: Path,
    settings: EvaluateSettings,
    *,
    each: Each | None = None,
    progress: Progress = silent,
) -> Evaluated:
    """As `evaluate`, of what `open_inputs` found, by whoever does the cases; absent: processes of this machine.

    Raises:
        InputError: E-NOTHING-TO-EVALUATE when no case could be scored.
        UsageError: E-ENGINE when the settings ask for another engine and nobody was given.
    """
    if each is None:
        settings.require_local()
    dataset = inputs.dataset
    bare = dataset.model_copy(update={"cases": ()})
    items = [(case, inputs.masks.get(case.id, ())) for case in dataset.cases]
    require_writable(out)
    baselines = baselines_in(out)  # before the work: a damaged file is to cost nothing
    with staged_folder(out) as staging:
        scoring = Scoring(Rules(bare, inputs.lesions, settings), predictions, inputs.relabelling, staging)
        outcomes = (each or _in_processes(inputs.processes(settings.jobs)))(
            partial(attempt_case, scoring=scoring),
            items,
            on_death=partial(_died, scoring=scoring),
            around=partial(contained, settings),
        )
        done = list(progress(outcomes, "evaluating", len(items)))
        remove_unfinished(staging / "cases")
        reports = [outcome for outcome in done if isinstance(outcome, CaseReport)]
        failures = [outcome for outcome in done if isinstance(outcome, CaseFailure)]
        failures += _without_reference(inputs)
        if not reports:
            raise InputError(
                f"no case could be evaluated: {failures[0].message}",
                code="E-NOTHING-TO-EVALUATE",
                file=predictions,
                remedy="Run `medseg infer --input MANIFEST --out FOLDER` and name that folder with --predictions.",
            )
        report = cohort_report(dataset, reports, failures, settings)
        pages = {case.case: f"cases/{case.case}.html" for case in report.cases}
        write_text(staging / "cohort.json", report.to_json())
        write_text(staging / "cohort.csv", cohort_csv(report))
        write_text(staging / "index.html", render_cohort(report, case_pages=pages, baselines=baselines))
    return Evaluated(out / "index.html", report)


def _in_processes(processes: int) -> Each:
    return partial(each_in_processes, processes=processes)


def _died(item: tuple[Case, tuple[Path, ...]], ending: str, *, scoring: Scoring) -> CaseReport | CaseFailure:
    return scoring.finished(item[0].id) or CaseFailure(
        case=item[0].id, code="E-WORKER", message=ending, remedy="Use fewer --jobs, or look at its files."
    )


def _without_reference(inputs: Inputs) -> Iterable[CaseFailure]:
    """Masks that no case asks for."""
    for name, paths in inputs.masks.items():
        if name not in inputs.ids:
            yield CaseFailure(
                case=name,
                code="E-NO-REFERENCE",
                message=f"{paths[0].name} belongs to no case of the references",
                remedy="Rename it after its case, or move it away.",
            )
