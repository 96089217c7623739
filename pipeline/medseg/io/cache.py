"""Files that can always be made again: what was measured or compiled on this machine, for this user alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from medseg.io.files import write_text


def cache_folder(*parts: str) -> Path | None:
    """A folder under the user's cache, closed to others; None where there is no place for one.

    Args:
        *parts: Names below `medseg`.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medseg"
    folder = root.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)
        owner = root.stat().st_uid
    except OSError:
        return None
    # What another user can write is not read back.
    return folder if not hasattr(os, "getuid") or owner == os.getuid() else None


def remember(folder: Path | None, name: str, values: dict[str, Any]) -> None:
    """Keep a few values under a name, if there is a place for them."""
    if folder is not None:
        write_text(folder / f"{name}.json", json.dumps(values) + "\n")


def recall(folder: Path | None, name: str) -> dict[str, Any]:
    """What `remember` kept; nothing when it is absent or damaged: it will be made again."""
    try:
        values = {} if folder is None else json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
