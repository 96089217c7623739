"""What every segmentation network offers, whoever wrote it: features on the way down, logits on the way up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence


class Segmenter(nn.Module, ABC):
    """An encoder whose stages a classification head can read, and a decoder.

    Shape legend: B batch, C input channels, K segmentation outputs, F features, one per stage of the plan.
    """

    @property
    @abstractmethod
    def decodes(self) -> bool:
        """Whether there is a decoder: a network that only classifies has none."""

    @abstractmethod
    def encode(self, image: Tensor) -> list[Tensor]:
        """(B, C, I, J, K) to one (B, F, ...) per stage, fine to coarse."""

    @abstractmethod
    def decode(self, skips: Sequence[Tensor], *, all_scales: bool) -> list[Tensor]:
        """Logits (B, K, ...) fine to coarse: all supervised scales, or the finest alone."""
