"""Which names of an archive's members may become files on any system, and that no two of them are the same file."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath

from medseg.core.errors import InputError

_MOST_MEMBERS = 100_000
_LONGEST_PART = 255
_DRIVE = re.compile(r"[A-Za-z]:")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
UNPACK = "Do not unpack it unseen; if you trust it, unpack it yourself and give the folder."


class MemberNames:
    """The members of one archive so far.

    Names are looked at as the most lenient system would see them: Unicode's compatibility forms replaced (a full-width
    dot is a dot), backslashes as separators, upper and lower case equal, dots and spaces at the end left out.
    """

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._count = 0
        self._files: set[tuple[str, ...]] = set()
        self._folders: set[tuple[str, ...]] = set()

    def add(self, name: str, *, is_folder: bool = False) -> PurePosixPath:
        """Check one more member and return where it belongs, relative to the folder that it is unpacked into.

        Raises:
            InputError: `E-PATH-ESCAPE`, `E-ARCHIVE-MEMBER`, `E-PATH-TOO-LONG` or `E-TOO-LARGE`.
        """
        self._count += 1
        if self._count > _MOST_MEMBERS:
            message = f"it has more than {_MOST_MEMBERS} members"
            raise InputError(message, code="E-TOO-LARGE", file=self._archive, remedy=UNPACK)
        self._require_inside(name)
        parts = [part for part in name.replace("\\", "/").split("/") if part not in {"", "."}]
        key = tuple(_seen_as(part) for part in parts)
        if not key:
            return PurePosixPath()
        self._require_file_names(name, parts)
        parents = {key[:depth] for depth in range(1, len(key))}
        if self._files & parents or key in self._files or (not is_folder and key in self._folders):
            raise self.refusal(name, "is there twice, or differs from another only in case or spelling")
        self._folders |= parents | ({key} if is_folder else set())
        if not is_folder:
            self._files.add(key)
        return PurePosixPath(*parts)

    def refusal(self, name: str, found: str) -> InputError:
        """`E-ARCHIVE-MEMBER`."""
        message = f"its member {name!r:.120} {found}"
        return InputError(message, code="E-ARCHIVE-MEMBER", file=self._archive, remedy=UNPACK)

    def _require_inside(self, name: str) -> None:
        plain = _compatible(name)
        parts = plain.split("/")
        climbs = any(len(part) > 1 and not part.strip(". ") for part in parts)
        if plain.startswith("/") or _DRIVE.match(plain) or climbs:
            message = f"its member {name!r:.120} would be unpacked outside its folder"
            raise InputError(message, code="E-PATH-ESCAPE", file=self._archive, remedy=UNPACK)

    def _require_file_names(self, name: str, parts: list[str]) -> None:
        for part in parts:
            if any(unicodedata.category(character) == "Cc" for character in part):
                raise self.refusal(name, "has control characters in its name")
            if _DEVICE.fullmatch(_seen_as(part)):
                raise self.refusal(name, "has the name of a device on Windows")
            if len(part.encode(errors="surrogateescape")) > _LONGEST_PART:
                message = f"its member {name!r:.120} has a name longer than {_LONGEST_PART} bytes"
                raise InputError(message, code="E-PATH-TOO-LONG", file=self._archive, remedy=UNPACK)


def _compatible(name: str) -> str:
    return unicodedata.normalize("NFKC", name).replace("\\", "/")


def _seen_as(part: str) -> str:
    return unicodedata.normalize("NFKC", part).casefold().rstrip(". ")
