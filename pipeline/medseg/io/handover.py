"""What a reading process hands to the one that asked: words as JSON, voxels as memory that both can map.

Neither side unpickles anything: the reader of a hostile file is not believed either.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from typing import Any, Literal
from urllib.parse import quote, unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from medseg.core import errors
from medseg.core.document import Document
from medseg.core.errors import MedsegError
from medseg.io.decoded import Decoded

LENGTH = struct.Struct("<I")
DType = Literal["|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8"]
Row = tuple[float, float, float, float]


def quoted(text: str) -> str:
    """Text in letters that JSON always carries: the name of a file may hold bytes that are no Unicode."""
    return quote(text.encode(errors="surrogateescape"))


def unquoted(text: str) -> str:
    """The text again."""
    return unquote_to_bytes(text).decode(errors="surrogateescape")


class Refusal(Document):
    """A MedsegError in words, each of them quoted.

    Attributes:
        kind: Its class, one of core/errors.py.
    """

    kind: str
    message: str
    code: str
    remedy: str
    file: str | None

    @classmethod
    def of(cls, error: MedsegError) -> Refusal:
        return cls(
            kind=type(error).__name__,
            message=quoted(error.message),
            code=error.code,
            remedy=quoted(error.remedy),
            file=None if error.file is None else quoted(str(error.file)),
        )

    def error(self) -> MedsegError:
        found = getattr(errors, self.kind, None)
        kind = found if isinstance(found, type) and issubclass(found, MedsegError) else MedsegError
        file = None if self.file is None else unquoted(self.file)
        return kind(unquoted(self.message), code=self.code, remedy=unquoted(self.remedy), file=file)


class Handed(Document):
    """What a decoder gave, but for the voxels, which lie in a file of their own.

    Attributes:
        dtype: Of the voxels.
        stored: Their shape as they lie in memory, slowest axis first.
        axes: Which axis of the array each of these is.
        affine: As of `Decoded`.
        warnings: As of `Decoded`.
        unit: As of `Decoded`.
        modality: As of `Decoded`.
    """

    dtype: DType
    stored: tuple[int, ...]
    axes: tuple[int, ...]
    affine: tuple[Row, Row, Row, Row]
    warnings: tuple[str, ...]
    unit: str | None
    modality: str | None = None

    @property
    def num_bytes(self) -> int:
        return math.prod(self.stored) * np.dtype(self.dtype).itemsize


class Answer(Document):
    """Either of the two."""

    refusal: Refusal | None = None
    handed: Handed | None = None


def hand_over(decoded: Decoded) -> tuple[Handed, int]:
    """Describe what was decoded and put its voxels, in their order, into a file that only lives in memory.

    Returns:
        The description, and the open file's descriptor.
    """
    array = decoded.array
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    stored = np.ascontiguousarray(array.transpose(axes))
    handed = Handed.model_validate(
        {
            "dtype": stored.dtype.str,
            "stored": stored.shape,
            "axes": axes,
            "affine": decoded.affine.tolist(),
            "warnings": decoded.warnings,
            "unit": decoded.unit,
            "modality": decoded.modality,
        }
    )
    descriptor = os.memfd_create("medseg-voxels")
    left = stored.reshape(-1).view(np.uint8).data
    while left:
        left = left[os.write(descriptor, left) :]
    return handed, descriptor


def take_over(handed: Handed, descriptor: int) -> Decoded:
    """What was decoded, on the same memory.

    Raises:
        ValueError: The voxels are not what the description says.
    """
    if os.fstat(descriptor).st_size != handed.num_bytes or sorted(handed.axes) != list(range(len(handed.stored))):
        message = "the voxels do not fit their description"
        raise ValueError(message)
    array: NDArray[Any] = np.frombuffer(mmap.mmap(descriptor, handed.num_bytes), handed.dtype)
    array = array.reshape(handed.stored).transpose(np.argsort(handed.axes))
    return Decoded(array, np.array(handed.affine), handed.warnings, handed.unit, handed.modality)
