"""Classical models beside the network: what `medseg baseline` is asked, and what it writes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from medseg.core.document import Document
from medseg.core.findings import CaseFailure, ClassSummary, Provenance
from medseg.core.reading import Containment

FeatureSet = Literal["radiomics", "encoder"]
Family = Literal["svm", "tree", "forest", "logistic"]
Masks = Literal["predicted", "reference"]
Outcome = Literal["network_better", "baseline_better", "not_distinguishable", "undecided"]


class BaselineSettings(Containment):
    """`medseg baseline`."""

    heads: tuple[str, ...] | None = Field(default=None, description="classification heads; absent: all of the dataset")
    labels: tuple[str, ...] | None = Field(
        default=None, description="labels under whose masks radiomics are taken; absent: all of the dataset"
    )
    features: tuple[FeatureSet, ...] | None = Field(
        default=None, description="radiomics, encoder; absent: what there is, the encoder's where there is a model"
    )
    models: tuple[Family, ...] = Field(default=("svm", "tree", "forest", "logistic"), min_length=1)
    judge: Literal["val", "test"] = Field(default="val", description="val: what training held back; or the test cases")
    masks: Literal["auto", "predicted", "reference"] = Field(
        default="auto", description="of the judged cases; auto: predicted where there is a model that makes masks"
    )
    fold: int | None = Field(default=None, ge=0, description="absent: that of the model, the manifest's own, or part 0")
    num_folds: int | None = Field(default=None, ge=2, description="absent: that of the model, or 5")
    inner_folds: int = Field(default=5, ge=2, description="in which a baseline's settings are chosen, by patient")
    seed: int = Field(default=0, ge=0)
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N or mps")
    amp: bool = Field(default=True, description="mixed precision where the device gains from it")

    @field_validator("heads", "labels", "features", "models", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """`svm,forest` as well as a list."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class BaselineModel(Document):
    """One classical model on one kind of features, judged."""

    family: Family
    features: FeatureSet
    num_features: int
    chosen: dict[str, float] = Field(description="its settings, chosen by cross-validation inside the training cases")
    training_auroc: float = Field(description="out of fold, of the chosen settings, on the training cases")
    summary: ClassSummary

    @property
    def title(self) -> str:
        return f"{TITLES[self.family]} on {FEATURE_TITLES[self.features]}"


class NetworkContrast(Document):
    """The network against the best baseline on the same cases; every difference is network - baseline."""

    baseline: str = Field(description="the one with the largest area under the ROC curve on these cases")
    auroc_difference: float | None
    auroc_low: float | None = Field(description="95 % interval by patient (DeLong); None where nothing bounds it")
    auroc_high: float | None
    balanced_accuracy_difference: float
    balanced_accuracy_low: float = Field(description="95 % interval, patients drawn with replacement")
    balanced_accuracy_high: float
    outcome: Outcome
    sentence: str


class BaselineHead(Document):
    """One classification head."""

    head: str
    classes: tuple[str, ...]
    num_training_cases: int
    num_training_patients: int
    num_judged_cases: int
    num_judged_patients: int
    models: tuple[BaselineModel, ...] = Field(description="best area under the ROC curve first")
    network: ClassSummary | None = Field(default=None, description="the trained network on the same judged cases")
    contrast: NetworkContrast | None = None


class MissingRegion(Document):
    """A label without a voxel, or not annotated, in some cases: their features were filled in by training medians."""

    label: str
    training: tuple[str, ...]
    judged: tuple[str, ...]


class BaselineReport(Document):
    """`baseline.json`."""

    schema_version: Literal[1] = 1
    name: str
    model: str = Field(default="", description="the network's; empty without one")
    judge: Literal["val", "test"]
    regions: tuple[str, ...] = Field(description="labels whose masks were measured; empty: the image itself")
    region_words: str = Field(description="what was measured, in words")
    heads: tuple[BaselineHead, ...]
    missing: tuple[MissingRegion, ...] = ()
    failures: tuple[CaseFailure, ...] = ()
    provenance: Provenance


TITLES: dict[Family, str] = {
    "svm": "Support vector machine",
    "tree": "Decision tree",
    "forest": "Random forest",
    "logistic": "Logistic regression",
}
FEATURE_TITLES: dict[FeatureSet, str] = {"radiomics": "radiomics", "encoder": "the network's encoder features"}
