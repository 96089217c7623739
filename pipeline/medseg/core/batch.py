"""Many cases: how they are shared out, which inputs a result was made from, and what became of each."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from medseg.core.document import Document
from medseg.core.errors import UsageError

SUMMARY = "predictions"
_SUMMARY_NAME = re.compile(rf"{SUMMARY}(-\d+-of-\d+)?", re.IGNORECASE)
_SHARD = re.compile(r"([1-9]\d*)/([1-9]\d*)")


class Engine(Document):
    """Who works on the cases; it changes no result."""

    engine: Literal["local", "ray"] = Field(default="local", description="ray: several workers, here or on a cluster")
    workers: int | None = Field(default=None, ge=1, description="ray: how many work at a time; absent: 2")
    address: str | None = Field(default=None, description="ray: a running cluster instead of workers on this machine")

    def require_local(self) -> None:
        """Refuse Ray where nobody would start it, instead of working here as if it had not been asked for.

        Raises:
            UsageError: `E-ENGINE`.
        """
        if self.engine != "local":
            raise UsageError(
                f"engine {self.engine} was asked for, and this call works in its own process only",
                code="E-ENGINE",
                remedy="Use the commands infer, preprocess and evaluate, or medseg.preprocess and medseg.evaluate; "
                "elsewhere leave `engine` out.",
            )


class Batching(Engine):
    """How the work on many cases is done; none of it changes a result."""

    overwrite: bool = Field(default=False, description="redo cases that are done and verified")
    shard: str | None = Field(default=None, description="3/8: the third of eight parts of the cases")

    @field_validator("shard")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            match = _SHARD.fullmatch(value)
            if match is None or int(match[1]) > int(match[2]):
                message = "must be NUMBER/COUNT with NUMBER from 1 to COUNT, such as 3/8"
                raise ValueError(message)
        return value

    @property
    def part(self) -> tuple[int, int]:
        """(number from 1, count) of the shard."""
        number, _, count = (self.shard or "1/1").partition("/")
        return int(number), int(count)


def is_summary(name: str) -> bool:
    """Whether a file of this stem would be the summary of a batch or of one of its parts."""
    return _SUMMARY_NAME.fullmatch(name) is not None


class InputSeal(Document):
    """What an input was when a result was made from it; a folder is all of its files."""

    name: str
    stamp: str = Field(description="digest of the files' names, sizes and times: when it holds, nothing is read again")
    sha256: str = Field(description="of the content")


class CaseState(Document):
    """What became of one case."""

    case: str
    state: Literal["done", "failed", "pending"]
    skipped: bool = Field(default=False, description="it was done before, and verified")
    redone: str | None = Field(default=None, description="why an earlier result was not kept")
    code: str | None = None
    message: str | None = None
    seconds: float | None = None
    mask: str | None = None
    mask_sha256: str | None = None


class BatchSummary(Document):
    """`predictions.json`: the whole batch at a glance; of a shard, `predictions-3-of-8.json`."""

    schema_version: Literal[1] = 1
    model: str
    weights_sha256: str
    finished: bool = Field(description="False while it runs, and when it was stopped: the same command goes on")
    cases: tuple[CaseState, ...]
