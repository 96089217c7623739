"""Pseudonyms from a secret key: the same key gives the same ones, without it nobody can tell or guess them."""

from __future__ import annotations

import base64
import hmac
import os
import re
import secrets
import stat
from datetime import date, timedelta
from pathlib import Path

from medseg.core.errors import InputError
from medseg.io.files import require_file

WELL_KNOWN = "1.2.840.10008."
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_MOST_UID_CHARACTERS = 64
_KEY_BYTES = 32
_MOST_SHIFT_DAYS = 3650
_LEAST_SHIFT_DAYS = 30


class Pseudonyms:
    """Names, UIDs and shifts that follow from the key by HMAC-SHA256 (RFC 2104)."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def patient(self, identity: str) -> str:
        return f"P-{self._word('patient', identity)}"

    def case(self, name: str) -> str:
        return f"C-{self._word('case', name)}"

    def uid(self, original: str) -> str:
        """A UID from a UUID of version 8 (PS3.5 B.2, RFC 9562); those that the standard itself defines stay."""
        if original.startswith(WELL_KNOWN) and is_uid(original):
            return original
        number = int.from_bytes(self._digest("uid", original)[:16])
        return f"2.25.{number & ~(0xF << 76) & ~(0x3 << 62) | (0x8 << 76) | (0x2 << 62)}"

    def shift_days(self, patient: str) -> int:
        """How many days earlier everything of this pseudonym happens: 30 to 3650."""
        number = int.from_bytes(self._digest("days", patient)[:8])
        return _LEAST_SHIFT_DAYS + number % (_MOST_SHIFT_DAYS - _LEAST_SHIFT_DAYS + 1)

    def moved(self, day: date, patient: str) -> date | None:
        """The same day in the shifted time of this pseudonym; None before the year 1."""
        try:
            return day - timedelta(days=self.shift_days(patient))
        except OverflowError:
            return None

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.digest(self._key, f"{kind}\0{text}".encode(errors="surrogateescape"), "sha256")

    def _word(self, kind: str, text: str) -> str:
        """80 bits: among a million patients, two share one with a chance of one in a trillion."""
        return base64.b32encode(self._digest(kind, text)[:10]).decode()


def is_uid(text: str) -> bool:
    """Digits and dots only, as a UID must be: nothing that could lead anywhere as the name of a file."""
    return len(text) <= _MOST_UID_CHARACTERS and _UID.fullmatch(text) is not None


def throwaway_key() -> bytes:
    return secrets.token_bytes(_KEY_BYTES)


def read_key(path: Path) -> bytes:
    """The key in a file; where there is none, a new one is made that only its owner may read.

    Raises:
        InputError: `E-DEID-KEY` when it is too short or others may read it, and as `require_file`.
    """
    if not path.exists() and not path.is_symlink():
        _make_key(path)
    require_file(path)
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(
            "others than its owner may read or change this key",
            code="E-DEID-KEY",
            file=path,
            remedy="chmod 600 it, if nobody can have read it; else leave it out and let a new one be made.",
        )
    key = path.read_bytes().strip()
    if len(key) < _KEY_BYTES:
        raise InputError(
            f"a key has at least {_KEY_BYTES} characters, found {len(key)}",
            code="E-DEID-KEY",
            file=path,
            remedy="Name a file that does not exist yet: a good key is made there.",
        )
    return key


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner may read, over an older one of the same name.

    Raises:
        InputError: `E-NOT-WRITABLE`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123 - a descriptor
            file.write(text)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"it cannot be written: {reason}", code="E-NOT-WRITABLE", file=path, remedy="Choose another place."
        ) from error


def _make_key(path: Path) -> None:
    write_secret(path, secrets.token_hex(_KEY_BYTES) + "\n")
