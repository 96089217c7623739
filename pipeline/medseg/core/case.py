"""A dataset as a table: which files belong to which case of which patient, and what is known of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from medseg.core.document import Document
from medseg.core.reading import AS_IT_IS, Reading
from medseg.core.terminology import Term

Split = Literal["train", "val", "test"]

_LONGEST_ID = 128
_MOST_LABELS = 254  # network indices are bytes: 0 is background, 255 is ignored


def case_id(text: str) -> str:
    """The nearest id that a case may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip("._-")[:_LONGEST_ID] or "case"


class Case(Document):
    """One examination.

    Paths are absolute in memory and relative to the manifest on disk.
    """

    id: str = Field(min_length=1, max_length=_LONGEST_ID, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    patient: str = Field(default="", description="groups cases that must not be split; defaults to the case's id")
    images: tuple[Path, ...] = Field(
        description="one file per channel, or one file with all channels; none only where masks alone are compared"
    )
    missing: tuple[int, ...] = Field(
        default=(),
        description="places among the dataset's channels that this case has no file for; `images` holds the "
        "others, or null in these places",
    )
    label: Path | None = Field(default=None, description="reference segmentation on the image's grid")
    labelled: tuple[str, ...] | None = Field(
        default=None, description="labels that were annotated in this case; absent: all of the dataset's"
    )
    classes: dict[str, str] = Field(default_factory=dict, description="case-level class by classification head")
    values: dict[str, FiniteFloat] = Field(default_factory=dict, description="case-level number by target, in its unit")
    split: Split | None = None
    fold: int | None = Field(default=None, ge=0)
    attributes: dict[str, str] = Field(default_factory=dict, description="site, sex, age, scanner, date ...")
    series: str | None = Field(
        default=None, description="DICOM: which series of the image's folder, where it holds several; as in Reading"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_gaps(cls, values: Any) -> Any:
        images = values.get("images") if isinstance(values, dict) else None
        if not isinstance(images, list | tuple) or None not in images:
            return values
        gaps = [place for place, image in enumerate(images) if image is None]
        present = [image for image in images if image is not None]
        return {**values, "images": present, "missing": [*values.get("missing", ()), *gaps]}

    @property
    def group(self) -> str:
        """What a split keeps together."""
        return self.patient or self.id


class Generator(Document):
    """A dataset that the package makes itself."""

    name: Literal["phantom"]
    seed: int = 20
    num_cases: int = Field(default=90, ge=2, le=10000)
    class_noise: float = Field(
        default=0.0, ge=0, le=0.5, description="share of the cases of each class, test cases apart, given the other one"
    )


class Dataset(Document):
    """A manifest: what the labels, channels and classes are called, and the cases.

    Labels map a name to the value in the mask files, background (0) left out.
    """

    schema_version: Literal[1] = 1
    name: str = Field(min_length=1)
    description: str = ""
    licence: str = ""
    channels: tuple[str, ...] = Field(
        default=("CT",), min_length=1, description="modality per channel: CT, MRI, PET, US"
    )
    labels: dict[str, int] = Field(default_factory=dict)
    terms: dict[str, Term] = Field(
        default_factory=dict, description="SNOMED codes and colours of labels that configs/terminology.yaml lacks"
    )
    ignore_value: int | None = Field(default=None, description="mask value of voxels that teach and score nothing")
    lesion_labels: tuple[str, ...] = Field(default=(), description="labels made of separate lesions, scored one by one")
    heads: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="classification head to its class names"
    )
    ordered: tuple[str, ...] = Field(
        default=(), description="heads whose classes are steps of one scale, the lowest first: stages, grades"
    )
    targets: dict[str, str] = Field(
        default_factory=dict, description="case-level numbers to be answered, such as an age, to their unit"
    )
    reading: Reading = Field(default=AS_IT_IS, description="how the images are read where their files do not decide")
    generator: Generator | None = None
    cases: tuple[Case, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Dataset:
        for name, value in self.labels.items():
            if not 1 <= value <= 65535:
                message = f"label {name!r} must have a value of 1 to 65535, got {value}"
                raise ValueError(message)
        if len(self.labels) > _MOST_LABELS:
            message = f"at most {_MOST_LABELS} labels, got {len(self.labels)}"
            raise ValueError(message)
        if self.ignore_value is not None and not 0 <= self.ignore_value <= 65535:
            message = f"ignore_value must be 0 to 65535, got {self.ignore_value}"
            raise ValueError(message)
        if self.ignore_value in self.labels.values():
            message = f"ignore_value {self.ignore_value} is also the value of a label: {self.labels}"
            raise ValueError(message)
        if len(set(self.labels.values())) < len(self.labels):
            message = f"two labels share one value: {self.labels}"
            raise ValueError(message)
        for head, names in self.heads.items():
            if len(names) < 2 or len(set(names)) < len(names):
                message = f"classification head {head!r} needs at least two different class names, got {list(names)}"
                raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _about_labels(self) -> Dataset:
        if unknown := set(self.ordered) - set(self.heads):
            message = (
                f"ordered names {', '.join(sorted(unknown))}, not among the heads: {', '.join(self.heads) or 'none'}"
            )
            raise ValueError(message)
        if twice := set(self.targets) & set(self.heads):
            message = f"{', '.join(sorted(twice))} is both a classification head and a target"
            raise ValueError(message)
        for field, names in (("terms", self.terms), ("lesion_labels", self.lesion_labels)):
            if unknown := set(names) - set(self.labels):
                message = f"{field} are given for {', '.join(sorted(unknown))}, which are no labels"
                raise ValueError(message)
        return self

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names by network index: index 0 is background, index n is `label_names[n - 1]`."""
        return tuple(sorted(self.labels, key=self.labels.__getitem__))

    def reading_of(self, case: Case) -> Reading:
        """How the images of a case are read: its own series, and what the dataset says of all of them."""
        return Reading(series=case.series).over(self.reading)

    def case(self, case_id: str) -> Case:
        return next(case for case in self.cases if case.id == case_id)
