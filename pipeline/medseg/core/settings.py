"""What a user may choose for each verb: defaults < config file < command line.

The resolved values travel with the results.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medseg.core.baseline import BaselineSettings
from medseg.core.batch import Batching, Engine
from medseg.core.detection import Criterion
from medseg.core.document import Document
from medseg.core.errors import UsageError
from medseg.core.geometry import Shape, Vector
from medseg.core.listening import ListenSettings
from medseg.core.outputs import Outputs
from medseg.core.plan import NetworkKind, Pooling
from medseg.core.reading import Containment, Reading

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")

Window = tuple[float, float]
NetworkChoice = Literal[NetworkKind, "resenc-m", "resenc-l", "resenc-xl"]
Positive = Annotated[float, Field(gt=0)]
Percentile = Annotated[float, Field(gt=0, le=100)]


class PreprocessSettings(Reading, Containment, Engine):
    """`medseg preprocess`."""

    manifest: Path | None = Field(default=None, description="dataset; the embedded phantom cohort when absent")
    plan: Path | None = Field(default=None, description="use this plan instead of making one")
    target: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="machine that the network is sized for")
    window: str | None = Field(default=None, description="named CT window (configs/windows.yaml) or `low,high` in HU")
    spacing_mm: Vector | None = Field(default=None, description="network grid instead of the plan's own choice")
    patch_size: Shape | None = Field(default=None, description="patch in voxels instead of the plan's own choice")
    network: NetworkChoice | None = Field(default=None, description="kind of network, and its size by a preset's name")
    memory_gib: float | None = Field(
        default=None, gt=0, description="of the device that will train, which no step may exceed; absent: this one's"
    )
    correct_bias_field: bool = Field(default=False, description="N4 bias-field correction of MRI channels")
    pooling: Pooling | None = Field(
        default=None, description="of the diagnosis: foreground, global or attention; absent: foreground"
    )
    directed: bool | None = Field(
        default=None,
        description="measure the diagnosis's regions direction by direction too; absent: only shapes without labels",
    )
    clinical: tuple[str, ...] = Field(
        default=(), description="columns of the manifest's attributes that join the diagnosis: age,sex"
    )
    equalise: bool = Field(default=False, description="adaptive histogram equalisation of uncalibrated channels")

    @field_validator("clinical", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        parts = [value] if isinstance(value, str) else value or ()
        return tuple(name.strip() for part in parts for name in str(part).split(",") if name.strip())

    @field_validator("spacing_mm", "patch_size")
    @classmethod
    def _positive(cls, value: Vector | Shape | None) -> Vector | Shape | None:
        if value is not None and not all(0 < part < math.inf for part in value):
            message = "must be three positive numbers"
            raise ValueError(message)
        return value


class TrainSettings(Document):
    """`medseg train`."""

    budget: str | None = Field(default="30m", description="wall time of the whole training, such as 90s, 20m, 1h30m")
    epochs: int | None = Field(default=None, ge=1, description="length in passes over the cases, instead of a budget")
    fold: int | None = Field(
        default=None, ge=0, description="which part of the cases is held back; absent: the manifest's own, or part 0"
    )
    num_folds: int = Field(default=5, ge=2)
    stratify_by: str = Field(
        default="class", description="what is dealt evenly into folds: class, none, or an attribute such as site"
    )
    batch_size: int | None = Field(default=None, ge=1, description="patches of a step instead of the plan's number")
    seed: int = Field(default=0, ge=0)
    recipe: Literal["adamw", "sgd"] = Field(default="adamw", description="optimiser; sgd: nesterov, as nnU-Net trains")
    learning_rate: float | None = Field(default=None, gt=0, description="peak; absent: the recipe's, as the next two")
    weight_decay: float | None = Field(default=None, ge=0)
    warmup_steps: int = Field(default=50, ge=0)
    ema_decay: float = Field(default=0.995, ge=0, lt=1, description="of the averaged weights that become the model")
    gradient_clip: float | None = Field(default=None, gt=0)
    accumulate: int = Field(default=1, ge=1, description="parts in which a step's batch goes through the network")
    compile: bool | None = Field(default=None, description="torch.compile; absent: on CUDA")
    class_weight: float = Field(
        default=0.1, ge=0, description="of the classification loss once it is ramped up, beside a segmentation"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N or mps")
    amp: bool = Field(default=True, description="mixed precision where the device gains from it")
    deterministic: bool = Field(default=False, description="same result every time on the same machine")
    augment: bool = True
    channel_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of patches that lose a channel, each by itself; never all of them"
    )
    init_from: Path | None = Field(default=None, description="bundle whose weights the training starts with")
    freeze_encoder: float = Field(
        default=0.0, ge=0, le=1, description="share of the training during which the encoder stays as init_from gave it"
    )
    ram_gib: float | None = Field(
        default=None, ge=0, description="of memory that the cases may take; absent: half of what is free"
    )
    rank_timeout_s: float = Field(
        default=600.0, gt=0, description="with torchrun: a process that does not answer for this long is lost"
    )
    elastic: bool = Field(default=False, description="also deform a fifth of the patches elastically")

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("epochs") is not None and "budget" not in values:
            return {**values, "budget": None}
        return values

    @field_validator("budget")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            seconds(value)
        return value

    @model_validator(mode="after")
    def _has_length(self) -> TrainSettings:
        if (self.budget is None) == (self.epochs is None):
            message = "give either budget or epochs"
            raise ValueError(message)
        if self.freeze_encoder and self.init_from is None:
            message = "freeze_encoder needs init_from: an encoder of random weights would never learn"
            raise ValueError(message)
        return self

    @property
    def budget_s(self) -> float | None:
        return None if self.budget is None else seconds(self.budget)


class InferSettings(Reading, Containment, Outputs, Batching):
    """`medseg infer`."""

    overlap: float = Field(default=0.5, ge=0, le=0.9, description="share of a window that its neighbour repeats")
    roi: bool = Field(
        default=False, description="find the region of interest in a pass without overlap; the rest is background"
    )
    roi_margin_mm: float = Field(default=20.0, ge=0, description="of the region around all that the first pass found")
    tta: bool = Field(default=False, description="average over mirrored copies along the plan's mirror axes")
    device: str = "auto"
    amp: bool = True
    backend: Literal["auto", "torch", "compiled", "openvino", "onnx"] = Field(
        default="auto", description="who runs the network; auto: what is installed and measured fastest here"
    )
    save_probabilities: bool = False


class EvaluateSettings(Containment, Engine):
    """`medseg evaluate`."""

    tolerance_mm: float = Field(default=1.0, gt=0, description="of the normalised surface Dice")
    tolerances_mm: dict[str, Positive] = Field(default_factory=dict, description="by label, instead of tolerance_mm")
    percentiles: tuple[Percentile, ...] = Field(default=(), description="of the distances, beside the 95th")
    mode: Literal["surface", "voxel"] = Field(default="surface", description="voxel: the distances MONAI computes")
    split: Literal["all", "train", "val", "test"] = "all"
    pictures: bool = True
    label_map: tuple[str, ...] = Field(default=(), description="NAME=[REFERENCE:]PREDICTED, as liver=1:5")
    labels: dict[str, int] = Field(default_factory=dict, description="names of the values in a folder of references")
    resample_reference: bool = Field(default=False, description="score on the prediction's grid where grids differ")
    lesions: tuple[str, ...] | None = Field(
        default=None, description="labels scored lesion by lesion; absent: lesion_labels of the manifest"
    )
    lesion_criterion: Criterion = Field(default="iou", description="what pairs two lesions: iou or overlap")
    lesion_threshold: float = Field(default=0.1, gt=0, le=1, description="least criterion of a pair")
    min_lesion_ml: float = Field(default=0.0, ge=0, description="smaller parts of a mask are no lesions")
    jobs: int | None = Field(default=None, ge=1, description="processes; absent: one per core for a large cohort")


class Settings(Document):
    """A config file: one section per verb."""

    preprocess: PreprocessSettings = PreprocessSettings()
    train: TrainSettings = TrainSettings()
    infer: InferSettings = InferSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    baseline: BaselineSettings = BaselineSettings()
    listen: ListenSettings = ListenSettings()


def seconds(duration: str) -> float:
    """`90s`, `20m`, `1h30m`, or a bare number of seconds.

    Raises:
        ValueError: Not a duration, not positive, or without end.
    """
    match = _DURATION.fullmatch(duration.strip().lower())
    if match and any(match.groups()):
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        total = 3600 * hours + 60 * minutes + rest
    else:
        try:
            total = float(duration)
        except ValueError:
            message = f"must be a duration such as 90s, 20m or 1h30m, got {duration!r}"
            raise ValueError(message) from None
    if not 0 < total < math.inf:
        message = f"must be longer than nothing and come to an end, got {duration!r}"
        raise ValueError(message)
    return total


def merge(settings: Settings, section: str, given: dict[str, Any]) -> Settings:
    """Lay explicit choices (None left out) over one section."""
    chosen = {key: value for key, value in given.items() if value is not None}
    values = {**getattr(settings, section).model_dump(), **chosen}
    if chosen.get("epochs") is not None and chosen.get("budget") is None:
        values["budget"] = None
    elif chosen.get("budget") is not None and chosen.get("epochs") is None:
        values["epochs"] = None
    model = type(getattr(settings, section))
    return settings.model_copy(update={section: model.parse(values)})


def parse_window(text: str, named: dict[str, Window]) -> Window:
    """A window's name or `low,high` in HU.

    Raises:
        UsageError: E-WINDOW.
    """
    if text in named:
        return named[text]
    parts = text.split(",")
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        low, high = 0.0, 0.0
    if not -math.inf < low < high < math.inf:
        raise UsageError(
            f"window {text!r} is neither a known name nor `low,high` in HU",
            code="E-WINDOW",
            remedy=f"Known names: {', '.join(sorted(named))}.",
        )
    return low, high
