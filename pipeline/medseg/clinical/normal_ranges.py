"""Volumes of organs beside customary ones: a remark about size, with its source, never a diagnosis."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medseg.core.document import Document
from medseg.core.measurements import Comparison, NormalRange


class _Organ(Document):
    labels: tuple[str, ...] = Field(min_length=1, description="names of labels that mean this organ, in lower case")
    low_ml: float = Field(gt=0)
    high_ml: float = Field(gt=0)
    population: str = Field(min_length=1)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> _Organ:
        if not self.low_ml < self.high_ml:
            message = f"low_ml must be below high_ml, got {self.low_ml} and {self.high_ml}"
            raise ValueError(message)
        return self


class NormalTable(Document):
    """`configs/normal_ranges.yaml`."""

    schema_version: Literal[1] = 1
    edition: str = Field(min_length=1)
    scope: str = Field(min_length=1)
    organs: dict[str, _Organ] = Field(min_length=1)


def compare_with_normal(
    label: str, volume_ml: float, uncertainty_ml: float, *, table: NormalTable
) -> NormalRange | None:
    """Where a volume lies in the table's range for the label; None when the table does not speak of it."""
    organ = next((organ for organ in table.organs.values() if label.lower() in organ.labels), None)
    if organ is None:
        return None
    reached = {_place(volume_ml + change, organ) for change in (-uncertainty_ml, 0.0, uncertainty_ml)}
    return NormalRange(
        low_ml=organ.low_ml,
        high_ml=organ.high_ml,
        comparison=reached.pop() if len(reached) == 1 else "at the limit",
        population=organ.population,
        source=organ.source,
    )


def _place(volume_ml: float, organ: _Organ) -> Comparison:
    return "below" if volume_ml < organ.low_ml else "above" if volume_ml > organ.high_ml else "within"
