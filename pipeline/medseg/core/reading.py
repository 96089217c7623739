"""How to read images: where a file alone does not decide, and within which limits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.core.document import Document


class Reading(Document):
    """What a person may settle before an image is read; by default nothing is assumed and nothing is repaired."""

    assume_orientation: bool = Field(default=False, description="accept files that do not say where the patient lies")
    prefer: Literal["sform", "qform"] | None = Field(
        default=None, description="which of two contradicting NIfTI transforms to believe"
    )
    series: str | None = Field(default=None, description="DICOM: number in `medseg series`, or SeriesInstanceUID")
    phase: str | None = Field(default=None, description="DICOM: which phase or echo of a series, by number or text")
    fix_geometry: bool = Field(
        default=False, description="DICOM: resample gaps and gantry tilt onto a straight, even grid"
    )
    suv: bool = Field(default=False, description="DICOM PET: standardised uptake value by body weight")

    def over(self, other: Reading) -> Reading:
        """These choices, and the other's where these leave a question open."""
        made = {name: getattr(self, name) for name in Reading.model_fields if getattr(self, name)}
        return Reading(**{**{name: getattr(other, name) for name in Reading.model_fields}, **made})


class Containment(Document):
    """How every verb keeps what a file does to its reader away from the other cases."""

    contain: bool = Field(default=True, description="read each case in a process of its own, with limits (Linux)")
    read_memory_gib: float | None = Field(
        default=None, gt=0, description="that reading one case may take; absent: three quarters of the machine's"
    )
    read_timeout_s: float = Field(default=600, gt=0, description="that reading one case may take")


AS_IT_IS = Reading()
