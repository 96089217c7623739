"""An output folder in the hands of one run; claimed before anything heavy is loaded: a second run ends at once."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.batch import SUMMARY
from medseg.core.errors import UsageError
from medseg.io.files import require_writable
from medseg.io.lock import locked, require_unlocked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medseg.core.batch import Batching

_LOCK = ".lock"


@dataclass(frozen=True)
class Claim:
    """What a run may write into.

    Attributes:
        out: Finished files.
        staging: Files on their way, in the same folder; emptied at both ends.
        summary: File of the batch's summary.
    """

    out: Path
    staging: Path
    summary: Path


def require_no_run(folder: Path) -> None:
    """Refuse a folder in which a training runs, before anything heavy is loaded.

    Raises:
        BatchError: `E-LOCKED`.
    """
    if folder.is_dir():
        require_unlocked(folder / _LOCK)


@contextmanager
def claimed_run(folder: Path, *, emptied: bool) -> Iterator[None]:
    """Hold the folder of a training.

    Args:
        folder: Made when there is none.
        emptied: Throw away what is in it.

    Raises:
        BatchError: `E-LOCKED`.
        InputError: As `require_writable`.
        UsageError: `E-RUN-KIND`, before anything is thrown away.
    """
    require_writable(folder)
    with locked(folder / _LOCK):
        _require_no_run_inside(folder)
        for item in [path for path in folder.iterdir() if emptied and path.name != _LOCK]:
            if item.is_dir():
                shutil.rmtree(item)
            else:
                item.unlink()
        yield


def _require_no_run_inside(folder: Path) -> None:
    """Refuse a folder of several trainings: one of its own would take its model away, and a restart all of them.

    Raises:
        UsageError: `E-RUN-KIND`.
    """
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and _is_run(path))
    if inside:
        raise UsageError(
            f"this name is not of one training but of several ({', '.join(inside)})",
            code="E-RUN-KIND",
            file=folder,
            remedy="Add --folds to go on with a cross-validation or to restart it, or choose another --name.",
        )


def require_no_single_run(folder: Path, record: str) -> None:
    """Refuse the folder of one training for a cross-validation, whose model would take the place of its own.

    Args:
        folder: Of the cross-validation, if it is one.
        record: File that a finished cross-validation has.

    Raises:
        UsageError: `E-RUN-KIND`.
    """
    if _is_run(folder) and not (folder / record).is_file():
        raise UsageError(
            "this name is of one training, which is not part of a cross-validation",
            code="E-RUN-KIND",
            file=folder,
            remedy="Choose another --name for the folds.",
        )


def _is_run(folder: Path) -> bool:
    from medseg.engine.checkpoint import CHECKPOINT  # here: torch takes seconds; a folder in use is refused without it
    from medseg.io.bundle import MANIFEST

    return any((folder / name).exists() for name in (_LOCK, CHECKPOINT, f"bundle/{MANIFEST}"))


@contextmanager
def claimed(out: Path, batching: Batching) -> Iterator[Claim]:
    """Hold the folder, or one shard of it: shards of one count may share it, anything else may not.

    Raises:
        BatchError: `E-LOCKED`.
        InputError: As `require_writable`.
    """
    require_writable(out)
    number, count = batching.part
    for other in out.glob(f".medseg-*-of-*{_LOCK}"):
        if not other.stem.endswith(f"-of-{count}"):
            require_unlocked(other)
            shutil.rmtree(other.with_suffix(""), ignore_errors=True)
    staging = out / f".medseg-{number}-of-{count}"
    with locked(staging.with_suffix(_LOCK)):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            yield Claim(out, staging, out / f"{SUMMARY}{f'-{number}-of-{count}' if count > 1 else ''}.json")
        finally:
            shutil.rmtree(staging, ignore_errors=True)
