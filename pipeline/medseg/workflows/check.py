"""`medseg check`: is this dataset what its manifest says?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.core.progress import Progress, silent
from medseg.core.reading import AS_IT_IS, Containment, Reading
from medseg.data.check import check_dataset
from medseg.io.contained import contained
from medseg.io.files import write_text
from medseg.report.spreadsheet import csv_text

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.doctor import CheckReport
    from medseg.workflows.workspace import Workspace

COLUMNS = ("case", "severity", "code", "file", "message", "remedy", "fixable")


def check(
    workspace: Workspace,
    manifest: Path | None = None,
    reading: Reading = AS_IT_IS,
    *,
    report_file: Path | None = None,
    containment: Containment | None = None,
    progress: Progress = silent,
) -> CheckReport:
    """Read every case of a manifest and list what is wrong, case by case.

    Args:
        workspace: Holds the embedded cohort.
        manifest: The dataset.
        reading: What is allowed where a file alone does not decide.
        report_file: Write the findings there too: as CSV when it ends in .csv, as JSON otherwise.
        containment: Limits of reading a case.
        progress: Wraps the loop over cases.
    """
    with contained(containment or Containment()):
        report = check_dataset(workspace.dataset(manifest, progress=progress), reading, progress=progress)
    if report_file is not None:
        is_table = report_file.suffix.lower() == ".csv"
        rows = [[getattr(finding, column) for column in COLUMNS] for finding in report.findings]
        write_text(report_file, csv_text([COLUMNS, *rows]) if is_table else report.to_json())
    return report
