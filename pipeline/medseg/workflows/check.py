"""`medseg check`: is this dataset what its manifest says?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.core.progress import Progress, silent
from medseg.core.reading import Containment
from medseg.data.check import CheckReport, check_dataset
from medseg.io.contained import contained

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.workflows.workspace import Workspace


def check(
    workspace: Workspace,
    manifest: Path | None = None,
    *,
    containment: Containment | None = None,
    progress: Progress = silent,
) -> CheckReport:
    """Read every case of a manifest and list what is wrong, case by case."""
    with contained(containment or Containment()):
        return check_dataset(workspace.dataset(manifest, progress=progress), progress=progress)
