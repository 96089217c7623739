"""Files on disk: what may be read, and writing that leaves either the old file or the new one, never a part."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TOO_LONG = "The path is longer than this system allows: use a shorter name or folder."
_UNFINISHED = ".tmp-"
_STAGING = re.compile(rf"[\\/]{re.escape(_UNFINISHED)}[0-9a-f]+([\\/]new)?(?=[\\/]|$)")


def require_file(path: Path | str) -> Path:
    """Make sure that `path` is a regular file that may be read, without opening it.

    Raises:
        InputError: `E-NOT-FOUND`, `E-SYMLINK-LOOP`, `E-PATH-TOO-LONG`, `E-PERM`, `E-IS-DIR` or `E-NOT-REGULAR`.
    """
    path = Path(path)
    mode = require_path(path).st_mode
    if stat.S_ISDIR(mode):
        raise InputError(
            "expected a file, found a folder",
            code="E-IS-DIR",
            file=path,
            remedy="Name a file inside it; only DICOM series are given as folders.",
        )
    if not stat.S_ISREG(mode):
        raise _not_regular(path)
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise _no_permission(path)
    return path


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Make sure that a file, or every file of a folder, is the same at the end as at the beginning.

    When it is not, that is the cause of whatever went wrong in between.

    Raises:
        InputError: `E-INPUT-CHANGED`, or as `require_path`.
    """
    before = _identity(path)
    try:
        yield
    finally:
        try:
            is_same = _identity(path) == before
        except InputError:
            is_same = False
        if not is_same:
            raise changed(path)


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading; it must not change meanwhile.

    Raises:
        InputError: `E-NOT-REGULAR` when a pipe or a device took its place, `E-INPUT-CHANGED`, or as `require_path`.
    """
    with unchanged(path):
        # a pipe would block whoever opens it
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _not_regular(path)
            yield file


def changed(path: Path) -> InputError:
    """`E-INPUT-CHANGED`."""
    message = "it was replaced or written to while it was read"
    return InputError(message, code="E-INPUT-CHANGED", file=path, remedy="Wait until it is complete, then try again.")


def _identity(path: Path) -> tuple[object, ...]:
    """Which file it is and when it was last written; a folder is its files."""
    found = require_path(path)
    if stat.S_ISDIR(found.st_mode):
        return tuple(_identity(file) for file in sorted(path.rglob("*")) if file.is_file())
    return path.resolve(), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _not_regular(path: Path) -> InputError:
    message = "expected a regular file, found a pipe, socket or device"
    return InputError(message, code="E-NOT-REGULAR", file=path, remedy="Save the data to a file first.")


def require_path(path: Path) -> os.stat_result:
    """Stat a file or folder, links followed.

    Raises:
        InputError: `E-NOT-FOUND`, `E-SYMLINK-LOOP`, `E-PATH-TOO-LONG` or `E-PERM`.
    """
    try:
        return path.stat()
    except OSError as error:
        raise _missing(path, error) from None


def _missing(path: Path, error: OSError) -> InputError:
    if error.errno == errno.ELOOP:
        return InputError(
            "its symbolic links form a loop", code="E-SYMLINK-LOOP", file=path, remedy="Point the link at a real file."
        )
    if error.errno == errno.ENAMETOOLONG:
        message = f"the path has {len(str(path))} characters"
        return InputError(message, code="E-PATH-TOO-LONG", file=str(path)[:120] + "...", remedy=_TOO_LONG)
    if error.errno in {errno.EACCES, errno.EPERM}:
        return _no_permission(path)
    found = f"is a link to {path.readlink()}, which does not exist" if path.is_symlink() else "does not exist"
    return InputError(found, code="E-NOT-FOUND", file=path, remedy="Check the path for a typing error.")


def _no_permission(path: Path) -> InputError:
    return InputError(
        "there is no permission to read it",
        code="E-PERM",
        file=path,
        remedy="Change its permissions (chmod u+r) or run as a user who may read it.",
    )


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Write to the yielded path; on a clean exit it takes the place of `path` in one step, safe against power loss.

    The temporary file lies in the same folder and ends in the same suffixes, so writers recognise the format.

    Raises:
        InputError: `E-NOT-WRITABLE`, `E-DISK-FULL` or `E-PATH-TOO-LONG`; the old file is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f"{_UNFINISHED}{secrets.token_hex(6)}{''.join(path.suffixes[-2:])}"[:200])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_folder(path)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield temporary
        _flush(temporary, os.O_RDWR)
        temporary.replace(path)
        if os.name == "posix":
            _flush(path.parent, os.O_RDONLY)
    except OSError as error:
        if error.errno in _FULL or error.errno == errno.ENAMETOOLONG:
            raise unwritable(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Take away what writers that were killed have left in a folder in which nobody writes now."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Name the file in what the system says of a full disk; for files that grow line by line.

    Raises:
        InputError: `E-DISK-FULL`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise unwritable(path, error) from error
        raise


@contextmanager
def staged_folder(folder: Path | str) -> Iterator[Path]:
    """Write into the yielded folder; on a clean exit each thing in it takes the place of its namesake in `folder`.

    What was in `folder` before stays until then, and for good when anything fails; other things in it are not touched.

    Raises:
        InputError: `E-NOT-WRITABLE`, `E-DISK-FULL` or `E-PATH-TOO-LONG`.
    """
    folder = Path(folder)
    staging = folder / f".tmp-{secrets.token_hex(6)}"
    try:
        (staging / "new").mkdir(parents=True)
        (staging / "old").mkdir()
    except OSError as error:
        raise unwritable(staging, error) from error
    try:
        yield staging / "new"
        for made in sorted((staging / "new").iterdir(), key=lambda path: path.is_file()):
            if (folder / made.name).exists():
                (folder / made.name).replace(staging / "old" / made.name)
            made.replace(folder / made.name)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter, safe against power loss.

    Raises:
        InputError: `E-NOT-WRITABLE` or `E-DISK-FULL`.
    """
    try:
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
            if os.name == "posix":
                _flush(folder.parent, os.O_RDONLY)
        folder.chmod(0o700)
    except OSError as error:
        raise unwritable(folder, error) from error


def require_writable(folder: Path | str) -> None:
    """Make an output folder, and refuse one that cannot be written before any work is put into it.

    Raises:
        InputError: `E-NOT-WRITABLE` or `E-DISK-FULL`.
    """
    probe = Path(folder) / ".writable"
    with atomic_path(probe):
        pass
    probe.unlink(missing_ok=True)  # another run may look at the same folder at the same time


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder has this name")


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path, error: OSError) -> InputError:
    """Why a file cannot be written, in words: `E-DISK-FULL`, `E-PATH-TOO-LONG` or `E-NOT-WRITABLE`."""
    path = Path(_STAGING.sub("", str(path)))  # where it was to lie in the end
    if error.errno in _FULL:
        message = f"the disk of {path.parent} is full; nothing was written"
        return InputError(message, code="E-DISK-FULL", file=path, remedy="Free some space or choose another folder.")
    if error.errno == errno.ENAMETOOLONG:
        message = f"the name has {len(path.name)} characters; nothing was written"
        return InputError(message, code="E-PATH-TOO-LONG", file=path, remedy=_TOO_LONG)
    reason = (error.strerror or str(error)).lower()
    return InputError(
        f"cannot write into the folder {path.parent}: {reason}",
        code="E-NOT-WRITABLE",
        file=path,
        remedy="Choose an output folder in which files may be created.",
    )


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write bytes atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with opened(require_file(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
