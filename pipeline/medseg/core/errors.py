"""The error family, on one page.

MedsegError                 exit code 1   anything medseg refuses to do
├── UsageError              exit code 2   an option, a config key or a manifest field is wrong
├── InputError              exit code 3   a file is missing, damaged or not what it claims to be
│   └── GeometryError       exit code 4   grids that do not agree, orientation that cannot be trusted
├── ModelError              exit code 5   no model, a damaged one, or one that does not fit the input
├── ResourceError           exit code 6   out of memory
└── BatchError              exit code 7   some cases of a batch failed, the others are done

Every error carries a stable `code` (`E-GZ-CRC`), the file and the case it is about, what was wrong, and what to do.
"""

from __future__ import annotations

import re
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator

# What reads and writes files with headers of patients, and what brings exceptions of other processes.
_READS = re.compile(r"/(medseg/io|pydicom|highdicom|pynetdicom|nibabel|SimpleITK|itk|concurrent/futures)/")


class MedsegError(Exception):
    """A refusal that a user can act on.

    Args:
        message: What must hold and what was found, in one sentence without a full stop.
        code: Stable identifier, `E-` and upper-case words; listed in docs/errors.md.
        remedy: What to do next, as a sentence.
        file: The file at fault.
        case: The case at fault; `case_context` fills it in when the raiser does not know it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, message: str, *, code: str, remedy: str = "", file: Path | str | None = None, case: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.remedy = remedy
        self.file = None if file is None else Path(file)
        self.case = case

    def __str__(self) -> str:
        place = ", ".join(
            part for part in (f"case {self.case}" if self.case else "", str(self.file) if self.file else "") if part
        )
        text = f"[{self.code}] {place + ': ' if place else ''}{self.message}"
        line = f"{text}. {self.remedy}" if self.remedy else text
        return "".join(character if character.isprintable() else repr(character)[1:-1] for character in line)

    def record(self) -> dict[str, str | None]:
        """The same facts for JSON: code, case, file, message, remedy."""
        return {
            "code": self.code,
            "case": self.case,
            "file": str(self.file) if self.file else None,
            "message": self.message,
            "remedy": self.remedy or None,
        }


class UsageError(MedsegError):
    exit_code = 2


class InputError(MedsegError):
    exit_code = 3


class GeometryError(InputError):
    exit_code = 4


class ModelError(MedsegError):
    exit_code = 5


class ResourceError(MedsegError):
    exit_code = 6


class BatchError(MedsegError):
    exit_code = 7


def told(error: BaseException) -> str:
    """What may be shown and kept of an exception that is not ours.

    What a reader of files raises quotes the file, which may name the patient: of that only the kind and the place.
    """
    if isinstance(error, MedsegError | OSError):
        return f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    if not any(_READS.search(Path(frame.filename).as_posix()) for frame in frames):
        return f"{type(error).__name__}: {error}"
    return f"{type(error).__name__} in {Path(frames[-1].filename).name}, line {frames[-1].lineno}"


def told_at_length(error: BaseException) -> str:
    """The traceback of an exception and of those that led to it, each with what may be shown of it."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    ahead = f"{told_at_length(before)}\nwhich led to\n\n" if before is not None else ""
    notes = "".join(f"{note}\n" for note in getattr(error, "__notes__", ()))
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"{ahead}Traceback (most recent call last):\n{frames}{told(error)}\n{notes}"


@contextmanager
def case_context(case_id: str) -> Iterator[None]:
    """Name the case in any error that passes through."""
    try:
        yield
    except MedsegError as error:
        error.case = error.case or case_id
        raise
    except Exception as error:
        error.add_note(f"while working on case {case_id}")
        raise
