"""Arrays that know where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.core.geometry import Geometry

SUV = "SUVbw"


@dataclass(frozen=True, eq=False)
class Volume:
    """An image: (C, I, J, K), real numbers, in the patient.

    Attributes:
        array: (C, I, J, K); integer or floating, in the units of the modality (HU, SUV, arbitrary).
        geometry: Grid of the last three axes.
        source: The file or folder it was read from.
        warnings: `W-...` flags raised while reading; they travel into the report.
        unit: What one step of a value is (`HU`, `SUVbw`, `BQML`), where the file says so.
        modality: As DICOM names it (`CT`, `MR`, `PT`, `US`), where the file says so.
        missing: Channels that the case lacks; the array holds zeros there.
    """

    array: NDArray[Any]
    geometry: Geometry
    source: Path | None = None
    warnings: tuple[str, ...] = ()
    unit: str | None = None
    modality: str | None = None
    missing: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[1:] != self.geometry.shape:
            message = f"array must be (C, {', '.join(map(str, self.geometry.shape))}), got {self.array.shape}"
            raise ValueError(message)

    @property
    def num_channels(self) -> int:
        return int(self.array.shape[0])


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A segmentation: (I, J, K) non-negative integers, 0 is background.

    Attributes:
        array: (I, J, K).
        geometry: Its grid.
        source: The file it was read from.
        warnings: `W-...` flags raised while reading; they travel into the report.
    """

    array: NDArray[Any]
    geometry: Geometry
    source: Path | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            message = f"array must be {self.geometry.shape}, got {self.array.shape}"
            raise ValueError(message)
        if not np.issubdtype(self.array.dtype, np.integer):
            message = f"labels must be integers, got {self.array.dtype}"
            raise ValueError(message)


def require_same_grid(first: Volume | LabelMap, second: Volume | LabelMap, *, tolerance_mm: float = 0.1) -> None:
    """Refuse two arrays whose voxels do not lie on the same places.

    Raises:
        GeometryError: `E-GRID-MISMATCH`, both grids named.
    """
    if first.geometry.agrees_with(second.geometry, tolerance_mm=tolerance_mm):
        return
    expected, found = first.geometry, second.geometry
    if not expected.canonical().agrees_with(found.canonical(), tolerance_mm=tolerance_mm):
        # more than the order of the axes differs: shown in one order, so that the places can be compared
        expected, found = expected.canonical(), found.canonical()
    message = (
        f"not on the grid of {first.source or 'its image'}: expected {expected.describe()}; found {found.describe()}"
    )
    raise GeometryError(
        message,
        code="E-GRID-MISMATCH",
        file=second.source,
        remedy="Resample it onto the image's grid (nearest neighbour), or pair it with the right image.",
    )
