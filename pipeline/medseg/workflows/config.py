"""Settings from a YAML file and `--set section.key=value`, and the files that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from medseg.core.document import suggest
from medseg.core.errors import UsageError
from medseg.core.settings import Settings
from medseg.io.packaged import named_windows as named_windows
from medseg.io.packaged import packaged as packaged
from medseg.io.packaged import read_yaml as read_yaml

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
