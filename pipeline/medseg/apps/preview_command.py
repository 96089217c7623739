"""What `medseg train --preview` does and says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from medseg.apps.terminal import TERMINAL

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.settings import TrainSettings
    from medseg.workflows.workspace import Workspace


def preview_training(place: Workspace, settings: TrainSettings, batch: Path | None, *, as_json: bool) -> None:
    """Write the page of patches and say where it is."""
    from medseg.workflows.preview import preview, preview_batch

    if batch is None:
        made = preview(place, settings, progress=TERMINAL.progress)
    else:
        made = preview_batch(place, settings, batch)
    if as_json:
        TERMINAL.json(json.dumps({"page": str(made.page), "cases": list(made.cases)}, indent=2))
        return
    TERMINAL.result(f"{len(made.cases)} patches: {made.page.resolve()}")
