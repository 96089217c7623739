"""What a network took over from another one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.core.document import Document


class Layer(Document):
    """One tensor of the new network."""

    name: str
    state: Literal["loaded", "partly", "fresh"] = Field(description="partly: some of its channels, labels or classes")
    why: str = Field(default="", description="of what was not loaded")


class Transfer(Document):
    """Layer by layer, where the weights came from."""

    schema_version: Literal[1] = 1
    bundle: str
    weights_sha256: str
    layers: tuple[Layer, ...]
    left: tuple[str, ...] = Field(description="tensors of the source that have no place in the new network")
    differences: tuple[str, ...] = Field(description="of the two plans, that the weights were not trained for")

    def counts(self) -> dict[str, int]:
        """How many layers are in each state."""
        states = [layer.state for layer in self.layers]
        return {state: states.count(state) for state in ("loaded", "partly", "fresh")}
