"""What is measured on a mask: sizes, place and intensity of every organ and lesion. The JSON files are these models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.core.document import Document
from medseg.core.findings import GridSummary, Provenance
from medseg.core.geometry import Vector

Side = Literal["left", "right", "midline"]
SideBasis = Literal["name", "organ", "paired labels", "image"]
Comparison = Literal["below", "within", "above", "at the limit"]


class Caliper(Document):
    """A straight line across a structure, as a reader would draw it."""

    length_mm: float = Field(ge=0)
    uncertainty_mm: float = Field(
        ge=0,
        description="half width of the range that the voxel size leaves open: sum over the voxel's edges of |u . e|",
    )
    ends_mm: tuple[Vector, Vector] = Field(description="RAS+")


class Intensity(Document):
    """Values of the image inside a structure, in the image's unit."""

    unit: str = Field(description="HU, SUV, or empty where the scale has no unit")
    mean: float
    minimum: float
    maximum: float
    standard_deviation: float
    suv_peak: float | None = Field(default=None, description="highest mean within a 1 ml sphere; PET in SUV only")
    total_lesion_glycolysis: float | None = Field(default=None, description="SUV mean times volume in ml")


class NormalRange(Document):
    """A volume beside what is customary; a statement about size, not about health."""

    low_ml: float
    high_ml: float
    comparison: Comparison = Field(description="`at the limit` when the uncertainty reaches across a limit")
    population: str
    source: str


class Measurement(Document):
    """One structure: a whole organ, or one lesion. Definitions and formulas in docs/clinical.md."""

    id: str = Field(description="label and number, largest first; the same for the same lesion once it is followed up")
    label: str
    kind: Literal["organ", "lesion"]
    volume_ml: float
    volume_uncertainty_ml: float = Field(description="the border moved by half a voxel, as for the calipers")
    centre_mm: Vector = Field(description="RAS+, centre of gravity")
    is_cut_off: bool = Field(default=False, description="reaches the border of the image: the true size is larger")
    long_axis: Caliper | None = Field(description="longest diameter in an axial plane; None for a whole organ")
    short_axis: Caliper | None = Field(description="longest diameter across the long axis, in the same plane")
    feret: Caliper | None = Field(description="longest diameter in space")
    slice_number: int | None = Field(
        default=None, description="slice of the long axis, counted from 1 along the file's own slice axis"
    )
    instance_number: int | None = Field(default=None, description="that slice's DICOM InstanceNumber, where known")
    intensity: Intensity | None = None
    organ: str | None = Field(default=None, description="label that holds or touches most of the lesion")
    side: Side | None = Field(default=None, description="None when nothing tells where the midline runs")
    side_basis: SideBasis | None = Field(default=None, description="what tells the side")
    touching: tuple[str, ...] = Field(
        default=(), description="other labels that share a voxel face with it, the largest contact first"
    )
    normal_range: NormalRange | None = None
    tracking_uid: str | None = Field(default=None, description="DICOM UID that follows the lesion over time")


class CaseMeasurements(Document):
    """`CASE.measurements.json`: all structures of one case, organs first."""

    schema_version: Literal[1] = 1
    case: str
    grid: GridSummary
    measurements: tuple[Measurement, ...]
    absent: tuple[str, ...] = Field(default=(), description="labels without a single voxel in the mask")
    lesions: tuple[str, ...] = Field(default=(), description="labels that were measured as lesions")
    flags: tuple[str, ...] = ()
    provenance: Provenance

    @property
    def summary(self) -> str:
        """How many lesions there are and how long the longest is; without any, why."""
        lesions = [(one, one.long_axis) for one in self.measurements if one.long_axis is not None]
        if lesions:
            lesion, axis = max(lesions, key=lambda found: found[1].length_mm)
            count = "One lesion" if len(lesions) == 1 else f"{len(lesions)} lesions; the longest"
            place = f" in {lesion.organ}" if lesion.organ else ""
            return f"{count}, {lesion.id}{place}: long axis {axis.length_mm:.1f} ± {axis.uncertainty_mm:.1f} mm."
        if not self.measurements:
            return "The mask is empty: there is nothing to measure."
        if self.lesions:
            return f"No lesion: the mask holds no voxel of {', '.join(self.lesions)}."
        return "No label was taken for a lesion: organs only."
