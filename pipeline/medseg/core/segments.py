"""What is written of a mask into hospital formats: which values are which structures, and who found them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.core.document import Document
from medseg.core.terminology import Term

SegmentationKind = Literal["binary", "labelmap"]


class Algorithm(Document):
    """Who made a mask."""

    name: str = Field(min_length=1, max_length=64)
    version: str = Field(min_length=1, max_length=64)
    kind: Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"] = "AUTOMATIC"
    software_version: str = Field(min_length=1, max_length=64, description="of medseg, which writes the object")


class Segment(Document):
    """One structure of a mask: a label, or one lesion of a label."""

    number: int = Field(ge=1, le=65535, description="its value in the mask that is written")
    label: str = Field(min_length=1, max_length=64, description="what a person reads")
    term: Term
    tracking_id: str | None = Field(default=None, max_length=64)
    tracking_uid: str | None = Field(default=None, description="the same for the same lesion over time")
