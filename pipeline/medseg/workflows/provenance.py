"""What made a result."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version

import medseg
from medseg.core.document import Document
from medseg.core.findings import Provenance

_PACKAGES = ("torch", "monai", "numpy", "nibabel", "SimpleITK", "pydicom")


def make_provenance(dataset: str, settings: Document | None = None) -> Provenance:
    """Versions, time and the settings in force; no path, no host and no user name."""
    values = {} if settings is None else settings.model_dump(mode="json")
    plain = {
        key: value if isinstance(value, str | int | float | bool) or value is None else str(value)
        for key, value in values.items()
        if key not in {"manifest", "plan", "terminology"}
    }
    return Provenance(
        medseg_version=medseg.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=dataset,
        packages={name: version(name) for name in _PACKAGES},
        settings=plain,
    )
