"""`medseg report`: pages made again from their JSON, and printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.core.comparison import ComparisonReport
from medseg.core.errors import MedsegError, UsageError
from medseg.core.findings import CaseFailure, CaseReport, CohortReport
from medseg.core.forecast import Forecast
from medseg.core.progress import Progress, silent
from medseg.io.browser import PrintPage, find_browser, pdf_printer
from medseg.io.documents import read_document
from medseg.io.files import require_path, require_writable, write_text
from medseg.report.case import render_case
from medseg.report.cohort import cohort_csv, render_cohort
from medseg.report.comparison import cases_csv, contrasts_csv, render_comparison
from medseg.report.paper import Paper, for_paper
from medseg.workflows.cohort_report import baselines_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Remade:
    """What was done to each page, by its path below the folder.

    Attributes:
        made: Written again from JSON.
        kept: Pages of cases, left as they are: their pictures stand in no JSON.
        printed: PDF files.
        failures: Pages that could not be made or printed, and why.
    """

    folder: Path
    made: tuple[str, ...]
    kept: tuple[str, ...]
    printed: tuple[str, ...]
    failures: tuple[CaseFailure, ...]


def remake_pages(
    folder: Path,
    *,
    cases: Sequence[str] = (),
    pdf: Paper | None = None,
    browser: Path | None = None,
    progress: Progress = silent,
) -> Remade:
    """Make the pages of an evaluation or a comparison again without measuring anything, and print them when asked.

    The page of a case is made only where it is missing, and then without pictures, since these need the images.

    Args:
        folder: With `cohort.json` and `cases/`, or with `comparison.json`; to print, any folder of medseg's pages.
        cases: Print only the pages of these cases; all pages when empty.
        pdf: Print every page to a PDF beside it, on this paper.
        browser: That prints; any of the Chromium family that is found when None.
        progress: Wraps the loop over the pages that are printed.

    Raises:
        UsageError: `E-NO-COHORT`, nothing to make pages from; `E-OPTION`, a case that is not there; `E-NO-BROWSER`.
    """
    require_path(folder)
    require_writable(folder)
    program = find_browser(browser) if pdf else None
    kept = [path for path in sorted(folder.glob("cases/*.html")) if path.with_suffix(".json").is_file()]
    made, failures = _missing_cases(folder)
    made += _cohort(folder) + _comparison(folder)
    pages = _chosen(folder, cases) if pdf else []
    if not made and not kept and not pages:
        raise UsageError(
            "the folder holds neither cohort.json nor comparison.json",
            code="E-NO-COHORT",
            file=folder,
            remedy="Run `medseg evaluate` or `medseg compare`, and name the folder they wrote to.",
        )
    printed: list[Path] = []
    if pdf and program:
        with pdf_printer(program, folder) as print_page:
            for page in progress(pages, "printing", len(pages)):
                target = page.with_suffix(".pdf")
                failure = _attempt(page, target, print_page, pdf, folder=folder)
                if failure is None:
                    printed.append(target)
                else:
                    failures.append(failure)
    return Remade(folder, _below(folder, made), _below(folder, kept), _below(folder, printed), tuple(failures))


def forecast_report(folder: Path, cases: Sequence[str], *, pdf: bool) -> Forecast:
    """How many pages there are to make and to print."""
    require_path(folder)
    missing = sum(not file.with_suffix(".html").exists() for file in folder.glob("cases/*.json"))
    sources = [name for name in ("cohort.json", "comparison.json") if (folder / name).is_file()]
    return Forecast(
        rows=(
            ("made again from", ", ".join(sources) or "nothing"),
            ("pages of cases to make without pictures", str(missing)),
            ("pages to print", str(len(_chosen(folder, cases)) + (0 if cases else missing)) if pdf else "none"),
        )
    )


def _missing_cases(folder: Path) -> tuple[list[Path], list[CaseFailure]]:
    made: list[Path] = []
    failures: list[CaseFailure] = []
    for file in sorted(folder.glob("cases/*.json")):
        page = file.with_suffix(".html")
        if page.exists():
            continue
        try:
            report = read_document(file, CaseReport)
        except MedsegError as error:
            failures.append(CaseFailure.of(file.stem, error))
            continue
        cohort_page = "../index.html" if (folder / "cohort.json").is_file() else None
        write_text(page, render_case(report, cohort_page=cohort_page))
        made.append(page)
    return made, failures


def _cohort(folder: Path) -> list[Path]:
    file = folder / "cohort.json"
    if not file.is_file():
        return []
    report = read_document(file, CohortReport)
    pages = {case.case: f"cases/{case.case}.html" for case in report.cases}
    pages = {case: page for case, page in pages.items() if (folder / page).is_file()}
    write_text(folder / "index.html", render_cohort(report, case_pages=pages, baselines=baselines_in(folder)))
    write_text(folder / "cohort.csv", cohort_csv(report))
    return [folder / "index.html", folder / "cohort.csv"]


def _comparison(folder: Path) -> list[Path]:
    file = folder / "comparison.json"
    if not file.is_file():
        return []
    report = read_document(file, ComparisonReport)
    texts = {
        "comparison.html": render_comparison(report),
        "comparison.csv": contrasts_csv(report),
        "comparison-cases.csv": cases_csv(report),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _chosen(folder: Path, cases: Sequence[str]) -> list[Path]:
    if not cases:
        return [*sorted(folder.glob("*.html")), *sorted(folder.glob("cases/*.html"))]
    pages = [folder / "cases" / f"{case}.html" for case in cases]
    absent = [page.stem for page in pages if not page.is_file()]
    if absent:
        raise UsageError(
            f"there is no page of {', '.join(absent)}",
            code="E-OPTION",
            file=folder,
            remedy="Give a case's id to --case.",
        )
    return pages


def _attempt(page: Path, target: Path, print_page: PrintPage, pdf: Paper, *, folder: Path) -> CaseFailure | None:
    try:
        print_page(for_paper(page.read_text(encoding="utf-8"), pdf), target)
    except MedsegError as error:
        return CaseFailure.of(page.relative_to(folder).as_posix(), error)
    return None


def _below(folder: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(path.relative_to(folder).as_posix() for path in paths)
