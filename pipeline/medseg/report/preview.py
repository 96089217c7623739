"""The page of patches as a training sees them: rows of pictures, the first of each row as it was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medseg.core.findings import Provenance
from medseg.core.geometry import Geometry, Vector
from medseg.core.volume import LabelMap, Volume
from medseg.report.html import render
from medseg.report.outlines import UNITS_PER_VOXEL
from medseg.report.pictures import Picture, slice_pictures
from medseg.report.planes import telling_slices
from medseg.report.windows import Window


@dataclass(frozen=True, eq=False)
class Patch:
    """One patch.

    Attributes:
        title: What was done to it.
        image: (I, J, K) the first channel, in network units.
        labels: (I, J, K) network indices.
    """

    title: str
    image: NDArray[np.float32]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PatchRow:
    """Variants of one patch, the one as drawn first: it sets the window of the row."""

    case: str
    note: str
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class Preview:
    """What the page says.

    Attributes:
        dataset: Its name.
        heading: What is shown.
        facts: Figures at the top, by name.
        labels: Names by network index, from 1.
        spacing_mm: Of the network grid.
        provenance: What made it.
    """

    dataset: str
    heading: str
    facts: dict[str, str]
    labels: tuple[str, ...]
    spacing_mm: Vector
    provenance: Provenance


def render_preview(preview: Preview, rows: Sequence[PatchRow]) -> str:
    """One self-contained HTML page."""
    drawn = [(row, _drawn(row, preview)) for row in rows]
    outlined = {outline.label: outline.colour for _, (p, _) in drawn for picture in p for outline in picture.prediction}
    return render(
        "preview.html",
        {
            "title": f"{preview.dataset} · training preview",
            "report": preview,
            "rows": [(row, pictures, window) for row, (pictures, window) in drawn],
            "colours": dict(sorted(outlined.items(), key=lambda item: item[1])),
            "units": UNITS_PER_VOXEL,
        },
    )


def _drawn(row: PatchRow, preview: Preview) -> tuple[tuple[Picture, ...], Window]:
    finite = row.patches[0].image[np.isfinite(row.patches[0].image)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    window = Window("network units", float(low), float(high))
    return tuple(_picture(patch, row.case, preview, window) for patch in row.patches), window


def _picture(patch: Patch, case: str, preview: Preview, window: Window) -> Picture:
    """The slice that shows most of every label, in the plane of the finest voxels."""
    grid = Geometry(patch.image.shape, np.diag((*preview.spacing_mm, 1.0)))
    labels = {name: index for index, name in enumerate(preview.labels, start=1)}
    mask = np.where(np.isin(patch.labels, list(labels.values())), patch.labels, 0).astype(np.uint8)
    slices = telling_slices([mask])
    pictures = slice_pictures(
        Volume(patch.image[None], grid), LabelMap(mask, grid), labels, slices=slices, window=window
    )
    finest = min(pictures, key=lambda picture: picture.size_mm[0] * picture.size_mm[1] / np.prod(picture.size_voxels))
    lost = int(np.count_nonzero(~np.isfinite(patch.image)))
    title = f"{patch.title}{f', {lost} values not finite' if lost else ''}"
    names = ", ".join(outline.label for outline in finest.prediction) or "no label"
    return replace(finest, title=title, alt=f"Case {case}, {title}: {finest.title}, {names} outlined")
