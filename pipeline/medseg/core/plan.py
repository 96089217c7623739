"""What a dataset looks like (Fingerprint) and how it is therefore processed (Plan)."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from medseg.core.clinical import ClinicalColumn
from medseg.core.document import Document
from medseg.core.geometry import Shape, Vector
from medseg.core.terminology import Term
from medseg.core.values import Target, ValueRange

Pooling = Literal["foreground", "global", "attention"]

IGNORE_INDEX = 255  # network index of voxels that neither teach nor score
MISSING_CLASS = -1  # class index of a case whose class is not known

NetworkKind = Literal["plain", "residual", "swin-unetr", "segresnet", "attention-unet"]


class ChannelStatistics(Document):
    """Intensities inside the labelled foreground (inside the crop when there are no labels) over all training cases."""

    mean: float
    std: float
    median: float
    percentile_00_5: float
    percentile_99_5: float
    minimum: float
    maximum: float
    two_valued: bool = Field(default=False, description="nothing but two values: a shape, not an image")


class CaseFingerprint(Document):
    """One case, axes in RAS order."""

    id: str
    shape: Shape
    spacing_mm: Vector
    cropped_shape: Shape
    label_voxels: dict[str, int]
    label_sides: dict[str, float] = Field(
        description="where a label's centre lies, -1 left edge of the image, +1 right edge"
    )
    intensities: tuple[Vector, ...] = Field(
        default=(), description="of each channel: 0.5th, 50th and 99.5th percentile of the whole image"
    )


class Fingerprint(Document):
    schema_version: Literal[1] = 1
    num_cases: int
    median_spacing_mm: Vector
    coarse_spacing_mm: Vector = Field(description="10th percentile along each axis")
    median_shape: Shape = Field(description="voxels after cropping, at each case's own spacing")
    median_extent_mm: Vector
    crop_share: float = Field(description="median share of voxels kept by the foreground crop")
    channels: tuple[ChannelStatistics, ...]
    class_counts: dict[str, dict[str, int]]
    values: dict[str, ValueRange] = Field(default_factory=dict, description="by target, where any case has a value")
    cases: tuple[CaseFingerprint, ...]


class Decision(Document):
    """One choice of the plan, in words."""

    what: str
    value: str
    reason: str


class Normalisation(Document):
    """Intensities of one channel to network units: clip to [lower, upper] (either may be open), subtract, divide.

    `fixed` takes mean and std from the training set (CT, or any calibrated unit), `per_image` from the image itself,
    over the body (nonzero in any channel, holes filled) when `nonzero` is set; `range` maps the image's minimum and
    maximum to 0 and 1. `correct_bias_field` (N4) and `equalise` (adaptive histogram equalisation) come before.
    """

    scheme: Literal["fixed", "per_image", "range"]
    lower: float | None = None
    upper: float | None = None
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    nonzero: bool = False
    correct_bias_field: bool = False
    equalise: bool = False


class NetworkPlan(Document):
    """A 3D segmentation network, stage by stage from fine to coarse: our U-Nets, or one of MONAI's."""

    kind: NetworkKind = "plain"
    features: tuple[int, ...] = Field(min_length=2)
    strides: tuple[Shape, ...] = Field(description="of each stage's first convolution; the first is (1, 1, 1)")
    kernels: tuple[Shape, ...]
    blocks: tuple[int, ...] = Field(
        description="convolutions (plain) or residual blocks (residual) of each encoder stage"
    )
    decoder_blocks: int = Field(default=2, ge=1, description="convolutions of each decoder stage")
    deep_supervision: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> NetworkPlan:
        lengths = {len(self.features), len(self.strides), len(self.kernels), len(self.blocks)}
        if len(lengths) > 1:
            message = "features, strides, kernels and blocks must have one entry per stage each"
            raise ValueError(message)
        numbers = (*self.features, *self.blocks, *(number for stage in self.strides for number in stage))
        if min(numbers) < 1 or max(self.strides[0]) > 1:
            message = "features, blocks and strides must be positive, and the first stride (1, 1, 1)"
            raise ValueError(message)
        if not all(number > 0 and number % 2 for stage in self.kernels for number in stage):
            message = f"kernels must be odd, got {self.kernels}"
            raise ValueError(message)
        if problem := self._foreign_problem():
            raise ValueError(problem)
        return self

    def _foreign_problem(self) -> str:
        """What MONAI's networks cannot be built with: their shape is fixed but for width and depth."""
        if self.kind in {"plain", "residual"}:
            return ""
        ratios = {
            "swin-unetr": (1, 1, 2, 4, 8, 16),
            "segresnet": tuple(2**stage for stage in range(len(self.features))),
        }.get(self.kind)
        width = self.features[0]
        if ratios and self.features != tuple(width * ratio for ratio in ratios):
            return f"features of {self.kind} must be {'x, '.join(map(str, ratios))}x the first, got {self.features}"
        if ratios and set(self.strides[1:]) != {(2, 2, 2)}:
            return f"{self.kind} halves every axis at every stage, got strides {self.strides}"
        if self.kind == "swin-unetr" and width % 12:
            return f"the first features of swin-unetr must be a multiple of 12, got {width}"
        return "" if set(self.kernels) == {(3, 3, 3)} else f"kernels of {self.kind} are (3, 3, 3), got {self.kernels}"

    @property
    def factors(self) -> Shape:
        """How much each axis shrinks from the finest stage to the coarsest."""
        i, j, k = (math.prod(stride[axis] for stride in self.strides) for axis in range(3))
        return (i, j, k)

    @property
    def any_patch(self) -> bool:
        """Whether patches of any size are taken; the others must be divided by `factors`."""
        return self.kind in {"plain", "residual"}


class ClassificationPlan(Document):
    """How the case-level diagnosis is made.

    `view` is what the head sees of a case: a patch centred on the foreground, or the whole case shrunk to a patch.
    """

    heads: dict[str, tuple[str, ...]]
    ordered: tuple[str, ...] = Field(default=(), description="heads whose classes are steps of one scale, lowest first")
    targets: dict[str, Target] = Field(default_factory=dict, description="numbers answered beside the classes")
    view: Literal["foreground", "whole"]
    pooling: Pooling = Field(
        default="foreground",
        description="features are pooled under the predicted pool_labels, over the whole view (global), or over the "
        "places of the whole case that the network has learnt to look at (attention)",
    )
    pool_labels: tuple[str, ...] = Field(description="labels under whose predicted probability features are pooled")
    shape_channels: tuple[int, ...] = Field(
        default=(),
        description="channels of two values (-1 and 1 on the network grid): outlines, measured as regions are",
    )
    directed: bool = Field(
        default=False, description="regions and outlines are measured direction by direction too: thickness and tilt"
    )
    thickness: bool = Field(
        default=False,
        description="regions and outlines are measured too by what is left of them when they are worn away",
    )
    margin: bool = Field(
        default=False, description="regions are measured above one half, and how the image changes across their edge"
    )
    teaches_encoder: bool = Field(
        default=True, description="the encoder learns from the classes too; else from the segmentation alone"
    )
    dropout: float = Field(default=0.4, ge=0, lt=1)
    clinical: tuple[ClinicalColumn, ...] = Field(
        default=(), description="columns of the manifest's attributes that the heads read beside the image"
    )

    @model_validator(mode="after")
    def _consistent(self) -> ClassificationPlan:
        names = [column.name for column in self.clinical]
        if len(set(names)) < len(names):
            message = f"a clinical column is given twice: {', '.join(names)}"
            raise ValueError(message)
        return self

    @property
    def gathers(self) -> bool:
        """Whether the head reads the whole case tile by tile, and attention weighs the places of all tiles together."""
        return self.pooling == "attention" and self.view == "foreground"


class Plan(Document):
    """Everything that turns a volume into network input and back; edit it by hand, then preprocess again."""

    schema_version: Literal[1] = 1
    dataset: str
    channels: tuple[str, ...]
    labels: dict[str, int]
    terms: dict[str, Term] = Field(default_factory=dict, description="codes of labels, from the dataset's manifest")
    spacing_mm: Vector = Field(description="network grid, axes in RAS order")
    crop: Literal["nonzero", "none"]
    normalisation: tuple[Normalisation, ...]
    orientation: Literal["RAS", "stored"] = Field(
        default="RAS", description="axes of the network grid: the patient's, or as the file stores them"
    )
    coarse_axis: int | None = Field(description="axis interpolated linearly because its voxels are > 3 x longer")
    nearest_slices: bool = Field(
        default=False,
        description="along an axis whose voxels are > 3 x longer (in the source, else in the network grid) take the "
        "nearest slice, of image and answer, instead of interpolating",
    )
    within_range: bool = Field(
        default=False,
        description="cut off what the spline overshoots the range of the image by, or that of the slice with "
        "`nearest_slices`",
    )
    patch_size: Shape
    batch_size: int = Field(ge=1)
    mirror_axes: tuple[int, ...]
    left_right_pairs: tuple[tuple[str, str], ...] = ()
    regions: dict[str, tuple[int, ...]] = Field(
        default_factory=dict,
        description="overlapping targets, each with an output of its own, as the mask values that they unite; painted "
        "in the order of the labels, later over earlier",
    )
    skip_constant_windows: bool = Field(
        default=False,
        description="answer windows that hold nothing but air with background; set by preprocess where no labelled "
        "voxel of the training cases could be lost",
    )
    blending: Literal["even", "nnunet"] = Field(
        default="even",
        description="weights of overlapping windows: a Gaussian about the centre, at least a thousandth; or nnU-Net's",
    )
    network: NetworkPlan
    classification: ClassificationPlan | None = None
    decisions: tuple[Decision, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if len(self.normalisation) != len(self.channels):
            message = f"normalisation needs one entry per channel ({len(self.channels)}), got {len(self.normalisation)}"
            raise ValueError(message)
        if min(self.spacing_mm) <= 0 or min(self.patch_size) < 1:
            message = f"spacing_mm {self.spacing_mm} and patch_size {self.patch_size} must be positive"
            raise ValueError(message)
        coarsest = [edge / factor for edge, factor in zip(self.patch_size, self.network.factors, strict=True)]
        if not self.network.any_patch and (any(edge % 1 for edge in coarsest) or math.prod(coarsest) < 2):
            message = (
                f"{self.network.kind} takes patches that {self.network.factors} divides, and not its equal; "
                f"got patch_size {self.patch_size}"
            )
            raise ValueError(message)
        axes = {*self.mirror_axes, *(() if self.coarse_axis is None else (self.coarse_axis,))}
        if not axes <= {0, 1, 2}:
            message = f"mirror_axes and coarse_axis are axes 0, 1 or 2, got {sorted(axes)}"
            raise ValueError(message)
        named = {name for pair in self.left_right_pairs for name in pair}
        named |= set(self.classification.pool_labels if self.classification else ())
        if unknown := named - set(self.labels):
            message = f"left_right_pairs and pool_labels must name labels, got {', '.join(sorted(unknown))}"
            raise ValueError(message)
        if self.regions and len(self.regions) != len(self.labels):
            message = f"regions need one label each, got {len(self.regions)} regions and {len(self.labels)} labels"
            raise ValueError(message)
        return self

    @property
    def clinical(self) -> tuple[ClinicalColumn, ...]:
        """Columns that the diagnosis reads beside the image."""
        return self.classification.clinical if self.classification else ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names by network index, background left out."""
        return tuple(sorted(self.labels, key=self.labels.__getitem__))

    @property
    def paint_order(self) -> tuple[int, ...]:
        """Network index that each region's output paints, in the order of painting; empty without regions."""
        return tuple(self.label_names.index(name) + 1 for name in self.labels) if self.regions else ()

    @property
    def num_outputs(self) -> int:
        """Output channels of the segmentation: each region, or background and each label; none without labels."""
        if self.regions:
            return len(self.regions)
        return len(self.labels) + 1 if self.labels else 0
