"""What an exported model says of itself: `export.json`."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from medseg.core.document import Document
from medseg.core.findings import Provenance
from medseg.core.geometry import Shape, Vector
from medseg.core.plan import Normalisation

Format = Literal["onnx", "openvino", "torch-export", "monai-bundle"]
FORMATS: tuple[Format, ...] = get_args(Format)
RECORD = "export.json"


class Port(Document):
    """One input or output of a file; float32."""

    name: str
    shape: tuple[int, ...]
    meaning: str


class Part(Document):
    """One network in files."""

    what: Literal["segmentation", "classification"]
    member: int = Field(ge=1, description="of the ensemble, counted from 1")
    files: dict[str, str] = Field(description="SHA-256 by name; the file to open comes first")
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


class Check(Document):
    """How an exported member answered beside the original, in fp32 on a whole case."""

    member: int
    largest_difference: float = Field(description="of any logit of any voxel")
    relative_difference: float = Field(description="size of the difference over the size of the logits, both L2")
    dice: dict[str, float] = Field(description="masks on the network grid, by label; 1 where both are empty")
    class_difference: float = Field(description="largest, of any class probability")


class Tolerance(Document):
    """Beyond it nothing is exported."""

    relative_difference: float = 1e-3
    dice: float = Field(default=0.99, description="of every label")
    class_difference: float = 1e-3
    pipeline_dice: float = Field(
        default=0.8,
        description="of the foreground, where other software also reads, resamples and stitches: tells gross faults",
    )


class ExportRecord(Document):
    """`export.json`, written last."""

    schema_version: Literal[1] = 1
    format: Format
    model: str
    licence: str
    weights_sha256: str
    plan_sha256: str
    versions: dict[str, str] = Field(description="of the format and of what wrote and checked it")
    parts: tuple[Part, ...]
    channels: tuple[str, ...]
    labels: dict[str, int]
    outputs: tuple[str, ...] = Field(description="channels of the segmentation's logits, in their order")
    heads: dict[str, tuple[str, ...]]
    spacing_mm: Vector
    orientation: Literal["RAS", "stored"]
    crop: Literal["nonzero", "none"]
    normalisation: tuple[Normalisation, ...]
    window: Shape
    overlap: float
    how_to_run: tuple[str, ...]
    left_out: tuple[str, ...]
    differences: tuple[str, ...] = Field(default=(), description="why `pipeline_dice` is not 1")
    checked_on: str
    checks: tuple[Check, ...]
    pipeline_dice: dict[str, float] = Field(
        default_factory=dict,
        description="MONAI's masks beside medseg's on the source's grid, by label and `foreground`",
    )
    tolerance: Tolerance
    provenance: Provenance
