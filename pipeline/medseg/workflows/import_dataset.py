"""`medseg import`: another layout -> a manifest."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.reading import Containment
from medseg.data.importers import import_dataset
from medseg.io.contained import contained

if TYPE_CHECKING:
    from medseg.core.case import Dataset


def import_manifest(path: Path, out: Path, *, dry_run: bool = False, **choices: Any) -> Dataset:
    """Make a manifest; `choices` are those of `medseg.data.importers.import_dataset`.

    Args:
        path: What to import.
        out: Manifest to write.
        dry_run: Write nothing that stays.
        **choices: Name, channels, labels, classes, ordered, targets, images, masks, absent_is_unlabelled, reading and
            progress.
    """
    with contained(Containment()):
        if not dry_run:
            return import_dataset(path, out=out, **choices)
        with tempfile.TemporaryDirectory() as folder:
            return import_dataset(path, out=Path(folder) / out.name, **choices)
