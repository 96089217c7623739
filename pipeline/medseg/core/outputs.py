"""In which formats a mask is written, and how it is named for a hospital's systems."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from medseg.core.document import Document
from medseg.core.segments import SegmentationKind

Format = Literal["nifti", "nrrd", "seg-nrrd", "mha", "dicom-seg", "dicom-rtstruct", "dicom-sr"]

SUFFIX_OF: dict[Format, str] = {
    "nifti": ".nii.gz",
    "nrrd": ".nrrd",
    "seg-nrrd": ".seg.nrrd",
    "mha": ".mha",
    "dicom-seg": ".seg.dcm",
    "dicom-rtstruct": ".rtstruct.dcm",
    "dicom-sr": ".sr.dcm",
}
DICOM_FORMATS: tuple[Format, ...] = ("dicom-seg", "dicom-rtstruct", "dicom-sr")


class Outputs(Document):
    """What is written of a mask."""

    formats: tuple[Format, ...] = Field(
        default=("nifti",), min_length=1, description=f"any of {', '.join(SUFFIX_OF)}; a report needs its segmentation"
    )
    seg_kind: SegmentationKind = Field(default="binary", description="DICOM SEG: binary, or labelmap (fewer viewers)")
    per_lesion: bool = Field(default=True, description="DICOM: one segment for each lesion, not for each label")
    terminology: Path | None = Field(default=None, description="DICOM: codes of labels, laid over the known ones")
    private_codes: bool = Field(default=False, description="DICOM: write labels without a SNOMED code all the same")

    @field_validator("formats", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """`nifti,dicom-seg` as well as a list; a report brings the segmentation that it refers to."""
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            return value
        words = [part.strip() for text in parts for part in str(text).split(",") if part.strip()]
        if "dicom-sr" in words:
            words.append("dicom-seg")
        return tuple(dict.fromkeys(words))

    @property
    def dicom(self) -> tuple[Format, ...]:
        return tuple(name for name in self.formats if name in DICOM_FORMATS)

    @property
    def voxels(self) -> tuple[Format, ...]:
        return tuple(name for name in self.formats if name not in DICOM_FORMATS)
