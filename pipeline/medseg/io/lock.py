"""One run at a time: a file that says who holds a folder, and that the system lets go of when the holder dies."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from medseg.core.document import Document
from medseg.core.errors import BatchError
from medseg.io.files import unwritable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LONGEST = 4096


class Holder(Document):
    """Who holds a lock."""

    pid: int
    host: str
    since: str


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file; a lock of a process of this machine that has died is taken over.

    Raises:
        BatchError: `E-LOCKED` at once when another process holds it, or one of another machine may.
        InputError: `E-NOT-WRITABLE` or `E-DISK-FULL`.
    """
    try:
        descriptor = _take(path)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        if sys.platform == "win32":  # where an open file cannot be removed
            os.close(descriptor)
            path.unlink(missing_ok=True)
        else:  # where a file that was let go may already be another's
            path.unlink(missing_ok=True)
            os.close(descriptor)


def require_unlocked(path: Path) -> None:
    """Refuse when another process holds this lock file.

    Raises:
        BatchError: `E-LOCKED`.
    """
    with locked(path):
        pass


def _take(path: Path) -> int:
    descriptor = None
    while descriptor is None:
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            descriptor = _sign(path, opened)
        finally:
            if descriptor is None:
                os.close(opened)
    return descriptor


def _sign(path: Path, descriptor: int) -> int | None:
    """Put our name into the file; None when its holder removed it between our opening and locking it."""
    holder, host = _holder(descriptor), socket.gethostname()
    if not _lock(descriptor) or (holder is not None and holder.host != host):
        raise _refusal(path, holder)
    if not _is_still_at(path, descriptor):
        return None
    me = Holder(pid=os.getpid(), host=host, since=datetime.now(UTC).isoformat(timespec="seconds"))
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, me.to_json().encode())
    return descriptor


def _lock(descriptor: int) -> bool:
    """The kernel's lock, which ends with the process; elsewhere than on POSIX a file with a holder is held."""
    if sys.platform == "win32":
        return os.fstat(descriptor).st_size == 0
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still_at(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> Holder | None:
    try:
        return Holder.model_validate_json(os.read(descriptor, _LONGEST))
    except ValidationError:
        return None


def _refusal(path: Path, holder: Holder | None) -> BatchError:
    who = "another run" if holder is None else f"process {holder.pid} on {holder.host}, since {holder.since}"
    return BatchError(
        f"this folder is being written by {who}",
        code="E-LOCKED",
        file=path.parent,
        remedy=f"Wait for it, or write elsewhere; if that machine is gone, delete {path.name}.",
    )
