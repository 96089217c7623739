"""What made a result."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from medseg.core.batch import Batching
from medseg.core.document import Document
from medseg.core.findings import Provenance

_NOT_TOLD = {"manifest", "plan", "terminology", *Batching.model_fields}  # paths, and what makes no difference
_PACKAGES = ("torch", "monai", "numpy", "nibabel", "SimpleITK", "pydicom")


def make_provenance(dataset: str, settings: Document | None = None) -> Provenance:
    """Versions, time and the settings in force; no path, no host and no user name."""
    values = {} if settings is None else settings.model_dump(mode="json")
    plain = {key: _plain(value) for key, value in values.items() if key not in _NOT_TOLD}
    return Provenance(
        medseg_version=version("medseg"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=dataset,
        packages={name: version(name) for name in _PACKAGES},
        settings=plain,
    )


def _plain(value: Any) -> str | int | float | bool | None:
    """Lists and tables of settings as words."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in value.items())
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
