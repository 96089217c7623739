"""`medseg check --fix`: a repaired copy of a dataset, with every change on record and in pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.doctor import CaseTreatment, DoctorReport, Finding
from medseg.core.errors import UsageError
from medseg.core.progress import Progress, silent
from medseg.core.reading import AS_IT_IS, Containment, Reading
from medseg.data.check import check_dataset
from medseg.data.manifest import write_manifest
from medseg.data.treatment import RECORDS, diagnose, intended, reasons_against, treat_case
from medseg.io.contained import contained
from medseg.io.files import require_writable, write_text
from medseg.report.before_after import Comparison, compare
from medseg.report.doctor import render_doctor
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.core.case import Case, Dataset
    from medseg.workflows.workspace import Workspace

MANIFEST, CHANGES, PAGE = "manifest.json", "changes.json", "doctor.html"
_MOST_PICTURED = 40


@dataclass(frozen=True)
class Healed:
    """What came of it; `out` is None after a dry run."""

    report: DoctorReport
    out: Path | None


@contained(Containment())
def heal(
    workspace: Workspace,
    manifest: Path | None,
    out: Path,
    reading: Reading = AS_IT_IS,
    *,
    link: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
) -> Healed:
    """Write a complete new dataset: good cases as they are, the others mended; the original is only read.

    Cases that cannot be mended without guessing are left out and listed. The manifest is written last, so a folder
    without one is unfinished; the same command goes on where it stopped.

    Args:
        workspace: Holds the embedded cohort.
        manifest: The dataset.
        out: New folder, or that of an earlier run.
        reading: What is allowed where a file alone does not decide.
        link: Link sound files instead of copying them.
        dry_run: Only say what would be done.
        progress: Wraps the loops over cases.

    Raises:
        UsageError: E-NOT-EMPTY or E-WOULD-OVERWRITE: `out` holds something else, or the original itself.
        InputError: E-NOT-WRITABLE or E-DISK-FULL.
    """
    dataset = workspace.dataset(manifest, progress=progress)
    reading = reading.over(dataset.reading)
    _require_own_folder(out, dataset)
    findings = check_dataset(dataset, reading, progress=progress).findings
    refused = {case.id: reasons for case in dataset.cases if (reasons := reasons_against(case, findings))}
    sound = [case for case in dataset.cases if case.id not in refused]
    root = manifest.absolute().parent if manifest else workspace.folder.absolute()
    left_out = [
        CaseTreatment(case=name, outcome="left out", reasons=_relative(reasons, root))
        for name, reasons in refused.items()
    ]
    report = DoctorReport(
        dataset=dataset.name,
        reading=reading,
        findings=_relative(findings, root),
        cases=(),
        provenance=make_provenance(dataset.name, reading),
    )
    if dry_run:
        planned = [
            intended(case, diagnose(case, dataset, reading), root)
            for case in progress(sound, "planning repairs", len(sound))
        ]
        return Healed(report.model_copy(update={"cases": (*planned, *left_out)}), None)
    require_writable(out / RECORDS)
    (out / MANIFEST).unlink(missing_ok=True)
    records = [
        treat_case(case, dataset, reading, out=out, root=root, link=link)
        for case in progress(sound, "copying and repairing", len(sound))
    ]
    report = report.model_copy(update={"cases": (*(record.treatment for record in records), *left_out)})
    new = dataset.model_copy(update={"generator": None, "cases": tuple(_absolute(r.case, out) for r in records)})
    remaining = _relative(check_dataset(new, progress=progress).findings, out.absolute())
    report = report.model_copy(update={"remaining": remaining})
    write_text(out / CHANGES, report.to_json())
    write_text(out / PAGE, render_doctor(report, _pictures(report, dataset, reading, progress)))
    if new.cases:
        write_manifest(new, out / MANIFEST)
    return Healed(report, out)


def _require_own_folder(out: Path, dataset: Dataset) -> None:
    inside = out.resolve()
    for case in dataset.cases:
        for path in (*case.images, *([case.label] if case.label else [])):
            if path.resolve().is_relative_to(inside):
                raise UsageError(
                    "the original dataset lies in this folder",
                    code="E-WOULD-OVERWRITE",
                    file=out,
                    remedy="Name a new folder.",
                )
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / RECORDS).is_dir()):
        raise UsageError(
            "it exists and was not made by an earlier repair",
            code="E-NOT-EMPTY",
            file=out,
            remedy="Name a new folder.",
        )


def _relative(findings: Sequence[Finding], root: Path) -> tuple[Finding, ...]:
    """The record names files as the manifest does: no folder of this machine."""
    return tuple(
        finding.model_copy(update={"file": Path(os.path.relpath(finding.file, root)).as_posix()})
        if finding.file
        else finding
        for finding in findings
    )


def _absolute(case: Case, out: Path) -> Case:
    folder = out.absolute()
    return case.model_copy(
        update={
            "images": tuple(folder / path for path in case.images),
            "label": None if case.label is None else folder / case.label,
        }
    )


def _pictures(report: DoctorReport, dataset: Dataset, reading: Reading, progress: Progress) -> Sequence[Comparison]:
    """Before and after, of the first repaired cases."""
    names = [case.case for case in report.with_outcome("repaired")][:_MOST_PICTURED]
    found = []
    for name in progress(names, "drawing", len(names)):
        patient = diagnose(dataset.case(name), dataset, reading)
        found.append(compare(name, patient, dataset))
    return found
