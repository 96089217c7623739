"""How to read images where a file alone does not decide."""

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


AS_IT_IS = Reading()
