"""The files that come with the package: settings, windows, tables, manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from medseg.core.errors import InputError
from medseg.core.settings import Window
from medseg.io.files import require_file

# ten times as fast where PyYAML was built with it
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def named_windows() -> dict[str, Window]:
    """The CT windows of configs/windows.yaml, in HU."""
    return {
        name: (float(low), float(high)) for name, (low, high) in read_yaml(packaged("configs", "windows.yaml")).items()
    }


def packaged(*parts: str) -> Path:
    """A file of `configs/` or `data_manifests/`: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package.joinpath(*parts)
    return inside if inside.exists() else package.parents[1].joinpath(*parts)


def read_yaml(path: Path) -> dict[str, Any]:
    """Raises: InputError: E-YAML when the file is not a mapping in YAML."""
    try:
        values = yaml.load(require_file(path).read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506 it is a safe one
    except yaml.YAMLError as error:
        raise InputError(
            f"not valid YAML: {' '.join(str(error).split())}", code="E-YAML", file=path, remedy="Mend the file."
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError("must hold sections with keys", code="E-YAML", file=path, remedy="See configs/default.yaml.")
    return values
