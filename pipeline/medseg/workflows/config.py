"""Settings from a YAML file and `--set section.key=value`, and the files that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import medseg
from medseg.core.document import suggest
from medseg.core.errors import InputError, UsageError
from medseg.core.settings import Settings, Window
from medseg.io.files import require_file

if TYPE_CHECKING:
    from collections.abc import Sequence


def load_settings(config: Path | None = None, assignments: Sequence[str] = ()) -> Settings:
    """Read a config file (the package's defaults without one) and lay `section.key=value` over it.

    Raises:
        UsageError: E-CONFIG naming the key, with the nearest known one.
    """
    values = read_yaml(config or packaged("configs", "default.yaml"))
    for assignment in assignments:
        path, given, text = assignment.partition("=")
        section, dot, key = path.partition(".")
        if not (given and dot):
            raise UsageError(
                f"cannot read {assignment!r}", code="E-CONFIG", remedy="Write --set section.key=value, as train.seed=3."
            )
        if section not in Settings.model_fields:
            raise UsageError(
                f"unknown section {section!r}: {suggest(section, list(Settings.model_fields))}", code="E-CONFIG"
            )
        values[section] = {**values.get(section, {}), key: yaml.safe_load(text)}
    return Settings.parse(values, file=config)


def named_windows() -> dict[str, Window]:
    """The CT windows of configs/windows.yaml, in HU."""
    return {
        name: (float(low), float(high)) for name, (low, high) in read_yaml(packaged("configs", "windows.yaml")).items()
    }


def packaged(*parts: str) -> Path:
    """A file of `configs/` or `data_manifests/`: inside the installed package, or beside it in a checkout."""
    package = Path(medseg.__file__).parent
    inside = package.joinpath(*parts)
    return inside if inside.exists() else package.parents[1].joinpath(*parts)


def read_yaml(path: Path) -> dict[str, Any]:
    """Raises: InputError: E-YAML when the file is not a mapping in YAML."""
    try:
        values = yaml.safe_load(require_file(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(
            f"not valid YAML: {' '.join(str(error).split())}", code="E-YAML", file=path, remedy="Mend the file."
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError("must hold sections with keys", code="E-YAML", file=path, remedy="See configs/default.yaml.")
    return values
