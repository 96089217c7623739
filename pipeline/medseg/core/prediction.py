"""What the network says of one case."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from medseg.core.volume import LabelMap


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
        windows: How many the members of the model were given, those left out included.
        skipped_windows: How many of these held nothing, and were background without the network.
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
