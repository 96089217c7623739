"""Read every case once and say what is wrong with it, before hours are spent on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from pydantic import Field

from medseg.core.case import Case, Dataset
from medseg.core.document import Document
from medseg.core.progress import Progress, silent
from medseg.data.inspection import Finding as Finding
from medseg.data.inspection import Seen, inspect_case

_THREADS = 4
_SPACING_FACTOR = 2.0
_FEWEST_TO_MERGE = 3
_ORDER = {"error": 0, "warning": 1, "note": 2}


class CheckReport(Document):
    """What a check found; errors first."""

    schema_version: Literal[1] = 1
    dataset: str
    num_cases: int
    num_ok: int = Field(description="cases without an error or a warning of their own")
    findings: tuple[Finding, ...] = ()

    @property
    def num_errors(self) -> int:
        return sum(finding.severity == "error" for finding in self.findings)


def check_dataset(dataset: Dataset, *, progress: Progress = silent) -> CheckReport:
    """Read every image and mask; one broken case never stops the others.

    Args:
        dataset: With its cases.
        progress: Wraps the loop over cases.

    Returns:
        Errors (training would fail or learn something false), warnings (look at it) and notes. What half of the cases
        share is reported once, with an empty case, unless it is an error.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        inspected = pool.map(lambda case: inspect_case(case, dataset), dataset.cases)
        seen = list(progress(inspected, "checking cases", len(dataset.cases)))
    findings = [finding for one in seen for finding in one.findings]
    findings += [*_repeated_ids(dataset), *_leaks(dataset), *_duplicates(seen), *_spacings(seen)]
    findings = [*_absent_labels(dataset, seen), *_absent_classes(dataset), *_merged(findings, len(dataset.cases))]
    troubled = {finding.case for finding in findings if finding.severity != "note"}
    return CheckReport(
        dataset=dataset.name,
        num_cases=len(dataset.cases),
        num_ok=sum(case.id not in troubled for case in dataset.cases),
        findings=tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity])),
    )


def _repeated_ids(dataset: Dataset) -> list[Finding]:
    counts = Counter(case.id for case in dataset.cases)
    remedy = "Give every case an id of its own."
    return [
        _error(name, "E-CASE-DUPLICATE", f"{count} cases have this id", remedy)
        for name, count in counts.items()
        if count > 1
    ]


def _leaks(dataset: Dataset) -> list[Finding]:
    """Patients with cases on both sides of a split."""
    places: dict[str, dict[str, Case]] = defaultdict(dict)
    for case in dataset.cases:
        if case.fold is not None and case.split != "test":
            places[case.group].setdefault(f"fold {case.fold}", case)
        elif case.split is not None:
            places[case.group].setdefault(case.split, case)
    remedy = "Give all cases of a patient the same 'split' and 'fold'."
    return [
        _error(list(sides.values())[1].id, "E-LEAK", f"patient {group} is in {' and in '.join(sides)}", remedy)
        for group, sides in places.items()
        if len(sides) > 1
    ]


def _duplicates(seen: Sequence[Seen]) -> Iterable[Finding]:
    groups: dict[str, list[Case]] = defaultdict(list)
    for one in seen:
        if one.content:
            groups[one.content].append(one.case)
    for first, *others in groups.values():
        for case in others:
            message = f"the same voxels as case {first.id}"
            if case.group == first.group:
                yield _warning(case.id, "W-DUPLICATE", message, "Remove one if it is no repeated measurement.")
            else:
                remedy = "Remove one, or give both the same 'patient' so that no split parts them."
                yield _error(case.id, "E-DUPLICATE", message, remedy)


def _spacings(seen: Sequence[Seen]) -> Iterable[Finding]:
    known = [(one.case.id, np.asarray(one.spacing_mm)) for one in seen if one.spacing_mm is not None]
    if len(known) < _FEWEST_TO_MERGE:
        return
    median = np.median([spacing_mm for _, spacing_mm in known], axis=0)
    for name, spacing_mm in known:
        ratio = spacing_mm / median
        if max(ratio.max(), 1 / ratio.min()) > _SPACING_FACTOR:
            edges, usual = ("x".join(f"{edge:.3g}" for edge in spacing) for spacing in (spacing_mm, median))
            message = f"voxels of {edges} mm along R, A, S; the median is {usual} mm"
            yield _warning(name, "W-SPACING", message, "Check the header; if it is right, nothing needs to be done.")


def _absent_labels(dataset: Dataset, seen: Sequence[Seen]) -> Iterable[Finding]:
    counts = [one.counts for one in seen if one.counts is not None]
    for name, value in dataset.labels.items():
        if counts and not any(value in found for found in counts):
            remedy = "Remove it from 'labels', or correct its value."
            yield _warning("", "W-LABEL-ABSENT", f"no mask holds label {name!r} (value {value})", remedy)
    if dataset.labels and (bare := [case.id for case in dataset.cases if case.label is None]):
        message = f"{len(bare)} cases have no mask, the first is {bare[0]}"
        yield Finding(case="", severity="note", code="W-NO-MASK", message=message)


def _absent_classes(dataset: Dataset) -> Iterable[Finding]:
    for head, names in dataset.heads.items():
        given = Counter(case.classes.get(head) for case in dataset.cases)
        for name in names:
            if given[name] == 0:
                message = f"no case has class {name!r} of head {head!r}"
                yield _warning("", "W-CLASS-ABSENT", message, "Remove it from 'heads', or add cases.")
        if given[None]:
            message = f"{given[None]} cases have no class for head {head!r}"
            yield Finding(case="", severity="note", code="W-NO-CLASS", message=message)


def _merged(findings: Sequence[Finding], num_cases: int) -> Iterable[Finding]:
    """Errors one by one; what at least half of the cases share, once."""
    cases_of: dict[str, set[str]] = defaultdict(set)
    for finding in findings:
        cases_of[finding.code].add(finding.case)
    told: set[str] = set()
    for finding in findings:
        count = len(cases_of[finding.code])
        if finding.severity == "error" or count < max(_FEWEST_TO_MERGE, num_cases / 2):
            yield finding
        elif finding.code not in told:
            told.add(finding.code)
            message = f"{count} of {num_cases} cases, as in {finding.case}: {finding.message}"
            yield finding.model_copy(update={"case": "", "message": message})


def _error(case: str, code: str, message: str, remedy: str) -> Finding:
    return Finding(case=case, severity="error", code=code, message=message, remedy=remedy)


def _warning(case: str, code: str, message: str, remedy: str) -> Finding:
    return Finding(case=case, severity="warning", code=code, message=message, remedy=remedy)
