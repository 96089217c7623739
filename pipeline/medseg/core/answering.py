"""What is done with a model's raw answers before anybody sees them; stored in the bundle."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medseg.core.document import Document

Combination = Literal["logits", "probabilities"]


class Cleanup(Document):
    """What is taken away from one label of a mask: it becomes background."""

    keep_largest: bool = Field(default=False, description="all but the largest 26-connected part")
    min_volume_ml: float = Field(default=0.0, ge=0, description="parts smaller than this")

    def __str__(self) -> str:
        words = ["largest part only"] if self.keep_largest else []
        words += [f"parts under {self.min_volume_ml:g} ml removed"] if self.min_volume_ml else []
        return ", ".join(words) or "as it is"


class Answering(Document):
    """How members are combined, how sure the diagnosis is, how masks are cleaned."""

    combine: Combination = Field(
        default="logits", description="what members of an ensemble are averaged in: nnU-Net averages folds in logits"
    )
    temperatures: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="by classification head: p becomes p^(1/T), made to sum to 1; absent: 1"
    )
    cleanup: dict[str, Cleanup] = Field(default_factory=dict, description="by label")
