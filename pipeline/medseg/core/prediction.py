"""What the network says of one case."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from medseg.core.document import Document
from medseg.core.geometry import Shape

if TYPE_CHECKING:
    from medseg.core.volume import LabelMap


class Region(Document):
    """Where a coarse pass found something; outside it everything is background."""

    found: bool = Field(description="False: the coarse pass found nothing, and the whole image was looked at closely")
    start: Shape = Field(description="first voxel on the image's grid")
    stop: Shape = Field(description="one past the last voxel")
    coarse_windows: int = Field(description="given to the members of the model to find the region")
    left_out_windows: int = Field(description="that they were spared afterwards")


@dataclass(frozen=True, eq=False)
class Prediction:
    """Answers on the source's grid.

    Attributes:
        labels: Mask with the dataset's own label values; None for a classification-only model.
        classes: Head to {class name: probability}, each summing to 1.
        probabilities: (labels + 1, I, J, K) float16 on the source's grid when asked for, background first.
        seconds: Wall time by stage.
        backend: Who ran the network.
        flags: `W-...` remarks on how the answer came about.
        features: (F,) what the classification head reads, member after member of an ensemble; when asked for.
        windows: How many the members of the model were given, blank ones included.
        skipped_windows: How many of these held nothing, and were background without the network.
        region: What was looked at closely, when a coarse pass came first.
        values: Target to its number, in its unit.
    """

    labels: LabelMap | None
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    probabilities: NDArray[np.float16] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    backend: str = "torch"
    flags: tuple[str, ...] = ()
    features: NDArray[np.float32] | None = None
    windows: int = 0
    skipped_windows: int = 0
    region: Region | None = None
    values: dict[str, float] = field(default_factory=dict)
