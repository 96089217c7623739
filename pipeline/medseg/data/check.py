"""Read every case once and say what is wrong with it, before hours are spent on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from medseg.core.case import Dataset
from medseg.core.doctor import CheckReport, Finding
from medseg.core.progress import Progress, silent
from medseg.core.reading import AS_IT_IS, Reading
from medseg.data.cohort import FEWEST, compare_cases, summarise
from medseg.data.inspection import inspect_case

_THREADS = 4
_ORDER = {"error": 0, "warning": 1, "note": 2}


def check_dataset(dataset: Dataset, reading: Reading = AS_IT_IS, *, progress: Progress = silent) -> CheckReport:
    """Read every image and mask; one broken case never stops the others.

    Args:
        dataset: With its cases.
        reading: What the user has allowed where a file alone does not decide.
        progress: Wraps the loop over cases.

    Returns:
        Errors (training would fail or learn something false), warnings (look at it) and notes. What half of the cases
        share is reported once, with an empty case, unless it is an error or can be mended.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        inspected = pool.map(
            lambda case: inspect_case(case, dataset, reading.over(dataset.reading_of(case))), dataset.cases
        )
        seen = list(progress(inspected, "checking cases", len(dataset.cases)))
    findings = [finding for one in seen for finding in one.findings] + compare_cases(dataset, seen)
    whole = summarise(dataset, seen)
    told = {finding.code for finding in whole}
    findings = [*whole, *_merged(findings, len(dataset.cases), told)]
    troubled = {finding.case for finding in findings if finding.severity != "note"}
    return CheckReport(
        dataset=dataset.name,
        num_cases=len(dataset.cases),
        num_ok=sum(case.id not in troubled for case in dataset.cases),
        findings=tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity])),
    )


def _merged(findings: Sequence[Finding], num_cases: int, told: set[str]) -> Iterable[Finding]:
    """Errors and what can be mended one by one; what at least half of the cases share, once."""
    cases_of: dict[str, set[str]] = defaultdict(set)
    for finding in findings:
        cases_of[finding.code].add(finding.case)
    for finding in findings:
        count = len(cases_of[finding.code])
        if finding.severity == "error" or finding.fixable != "no" or count < max(FEWEST, num_cases / 2):
            yield finding
        elif finding.code not in told:
            told.add(finding.code)
            message = f"{count} of {num_cases} cases, as in {finding.case}: {finding.message}"
            yield finding.model_copy(update={"case": "", "file": "", "message": message})
