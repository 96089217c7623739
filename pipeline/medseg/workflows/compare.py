"""`medseg compare`: two models on the same cases, and whether their difference means anything."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from medseg.core.comparison import ComparisonReport, PairedCase, Side
from medseg.core.errors import UsageError
from medseg.core.findings import CohortReport
from medseg.core.forecast import Forecast
from medseg.core.progress import Progress, silent
from medseg.core.settings import EvaluateSettings
from medseg.io.documents import read_document
from medseg.io.files import require_path, require_writable, write_text
from medseg.report.comparison import cases_csv, contrasts_csv, render_comparison
from medseg.workflows.contrasts import contrasts_of
from medseg.workflows.evaluate import evaluate
from medseg.workflows.pairing import Pair, pair_cohorts
from medseg.workflows.provenance import make_provenance
from medseg.workflows.verdicts import headline_of
from medseg.workflows.workspace import Workspace

COHORT = "cohort.json"


@dataclass(frozen=True)
class Scoring:
    """How to score a folder of masks that has no cohort.json yet."""

    workspace: Workspace
    manifest: Path
    settings: EvaluateSettings


@dataclass(frozen=True)
class Compared:
    """Where the page is and what it says."""

    page: Path
    report: ComparisonReport


@dataclass(frozen=True)
class _Source:
    """One side as read: its cohort and the folder of its pages."""

    name: str
    folder: Path
    cohort: CohortReport


def compare(
    sides: tuple[Path, Path],
    out: Path,
    *,
    names: tuple[str, str] | None = None,
    common: bool = False,
    scoring: Scoring | None = None,
    progress: Progress = silent,
) -> Compared:
    """Compare two evaluations of the same cases.

    Args:
        sides: Folders made by `evaluate`; with `scoring` also folders of masks, which are evaluated first.
        out: `comparison.json` (the truth), `.html`, `.csv` (one row per contrast) and `comparison-cases.csv`.
        names: What to call the two; their folders' names when None.
        common: Compare what both sides have instead of refusing when cases differ.
        scoring: Manifest and settings for folders of masks.
        progress: Wraps the loop over cases that are evaluated.

    Raises:
        UsageError: `E-NO-COHORT`, neither pages nor a manifest; `E-OPTION`, a manifest without use; or as
            `pair_cohorts`.
        InputError: As `evaluate`.
    """
    _require_sides(sides, scoring)
    require_writable(out)
    called = names or _names(*sides)
    first, second = (
        _source(side, name, out / place, scoring, progress)
        for side, name, place in zip(sides, called, ("first", "second"), strict=True)
    )
    report = compare_cohorts(first, second, out=out, common=common)
    write_text(out / "comparison.json", report.to_json())
    write_text(out / "comparison.csv", contrasts_csv(report))
    write_text(out / "comparison-cases.csv", cases_csv(report))
    write_text(out / "comparison.html", render_comparison(report))
    return Compared(out / "comparison.html", report)


def forecast_compare(sides: tuple[Path, Path], out: Path, *, scoring: Scoring | None) -> Forecast:
    """What would be read, evaluated first, and written; refuses what `compare` would refuse for want of pages."""
    _require_sides(sides, scoring)
    rows = []
    for which, side in zip(("first", "second"), sides, strict=True):
        file = _cohort_file(side, scoring)
        if file is None:
            rows.append((which, f"masks, to be evaluated first into {out / which}"))
        else:
            rows.append((which, f"{len(read_document(file, CohortReport).cases)} cases in {file}"))
    return Forecast(rows=(*rows, ("comparison", str(out / "comparison.html"))))


def compare_cohorts(first: _Source, second: _Source, *, out: Path, common: bool) -> ComparisonReport:
    """All numbers, with links relative to `out`."""
    pairing = pair_cohorts(first.cohort, second.cohort, common=common)
    contrasts = contrasts_of(pairing.pairs, first=first.name, second=second.name)
    versions = {side.cohort.provenance.medseg_version for side in (first, second)}
    notes = [f"Measured by different versions of medseg: {', '.join(sorted(versions))}."] if len(versions) > 1 else []
    failed = {failure.case for failure in first.cohort.failures} & {one.case for one in second.cohort.failures}
    if failed:
        notes.append(f"Could not be evaluated on either side: {', '.join(sorted(failed))}.")
    return ComparisonReport(
        name=first.cohort.name,
        first=_side(first, pairing.only_first, out),
        second=_side(second, pairing.only_second, out),
        headline=headline_of(contrasts, first=first.name, second=second.name),
        contrasts=contrasts,
        cases=tuple(_case(pair, (first.folder, second.folder), out) for pair in pairing.pairs),
        notes=tuple(notes),
        provenance=make_provenance(first.cohort.provenance.dataset).model_copy(
            update={"settings": first.cohort.provenance.settings | {"common": common}}
        ),
    )


def _names(first: Path, second: Path) -> tuple[str, str]:
    """The last parts of the two paths that differ."""
    parts = [path.resolve().parts for path in (first, second)]
    pairs = [(a, b) for a, b in zip(reversed(parts[0]), reversed(parts[1]), strict=False) if a != b]
    return pairs[0] if pairs else ("first", "second")


def _require_sides(sides: tuple[Path, Path], scoring: Scoring | None) -> None:
    for side in sides:
        require_path(side)
    if scoring is not None and all(_cohort_file(side, scoring) is not None for side in sides):
        raise UsageError(
            "--manifest is for folders of masks, but both folders hold finished evaluations",
            code="E-OPTION",
            remedy="Leave --manifest out, or name the folders of masks.",
        )


def _cohort_file(side: Path, scoring: Scoring | None) -> Path | None:
    """The finished evaluation; None when there are masks to evaluate and a manifest to do it with."""
    file = side if side.is_file() else side / COHORT
    if file.is_file():
        return file
    if scoring is None:
        raise UsageError(
            f"the folder holds no {COHORT}",
            code="E-NO-COHORT",
            file=side,
            remedy="Run `medseg evaluate` on it, or give the references of these masks with --manifest.",
        )
    return None


def _source(side: Path, name: str, place: Path, scoring: Scoring | None, progress: Progress) -> _Source:
    file = _cohort_file(side, scoring)
    if file is not None or scoring is None:
        file = file or side / COHORT
        return _Source(name, file.parent, read_document(file, CohortReport))
    evaluated = evaluate(scoring.workspace, side, place, scoring.settings, manifest=scoring.manifest, progress=progress)
    return _Source(name, place, evaluated.report)


def _side(source: _Source, only_here: tuple[str, ...], out: Path) -> Side:
    return Side(
        name=source.name,
        page=_link(source.folder / "index.html", out),
        only_here=only_here,
        provenance=source.cohort.provenance,
    )


def _case(pair: Pair, folders: tuple[Path, Path], out: Path) -> PairedCase:
    pages = [_link(folder / "cases" / f"{pair.first.case}.html", out) for folder in folders]
    return PairedCase(
        case=pair.first.case,
        patient=pair.first.patient,
        first_page=pages[0],
        second_page=pages[1],
        scores=pair.scores,
    )


def _link(page: Path, out: Path) -> str | None:
    """The page as seen from `out`; None without a page, or when no relative path leads there (another drive)."""
    if not page.is_file():
        return None
    try:
        return Path(os.path.relpath(page.resolve(), out.resolve())).as_posix()
    except ValueError:
        return None
