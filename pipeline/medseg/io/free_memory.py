"""How much memory this process may still take: what the machine has, within the limits of its container."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_KIB = 1024
_UNTOLD = 8 * 2**30  # where the system does not say


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that can be taken without pushing anything out; on Linux what its control groups leave.

    Args:
        root: Of the file system.
    """
    if sys.platform != "linux":
        return _total()
    meminfo = dict(line.split(":", 1) for line in _lines(root / "proc/meminfo"))
    free = int(meminfo["MemAvailable"].split()[0]) * _KIB if "MemAvailable" in meminfo else _total()
    return max(0, min([free, *_left_by_groups(root)]))


def _total() -> int:
    if not hasattr(os, "sysconf"):
        return _UNTOLD
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_by_groups(root: Path) -> list[int]:
    """Of each control group that holds this process, version 2 (line `0::/path`) or 1 (`N:memory:/path`)."""
    left = []
    for line in _lines(root / "proc/self/cgroup"):
        _, kind, path = line.split(":", 2)
        if kind not in {"", "memory"}:
            continue
        mount = root / "sys/fs/cgroup" / kind
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kind else ("memory.max", "memory.current")
        group = mount / path.lstrip("/")
        # In a container the path may be that of the host, of which only the innermost group is seen, at the mount.
        for folder in {mount, group, *(parent for parent in group.parents if parent.is_relative_to(mount))}:
            most, used = (next(iter(_lines(folder / name)), "max") for name in names)
            if most != "max" and used != "max":
                left.append(int(most) - int(used) + _reclaimable(folder))
    return left


def _reclaimable(folder: Path) -> int:
    """Pages of files that were read once: counted as used, given back when asked for."""
    stat = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat"))
    return int(stat.get("inactive_file", 0))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
