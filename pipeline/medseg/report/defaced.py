"""A head before and after its face was cut away: three slices and the view from the front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.volume import Volume
from medseg.io.files import atomic_path

_AIR_SHARE = 0.15


def draw_defaced(before: Volume, after: Volume, path: Path) -> None:
    """Write a PNG. The upper row shows the patient's face.

    Args:
        before: Its first channel is shown.
        after: On the same grid.
        path: Where.

    Raises:
        InputError: As `atomic_path`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4)
    spacing_mm = before.geometry.canonical().spacing_mm
    images = [_canonical(volume) for volume in (before, after)]
    low, high = (float(value) for value in np.percentile(images[0], (1, 99.5)))
    for row, (image, title) in enumerate(zip(images, ("before", "after"), strict=True)):
        for column, (plane, aspect, name) in enumerate(_planes(image, spacing_mm, low, high)):
            view = axes[row, column]
            limits = (low, high) if name != "from the front" else (0.0, 1.0)
            view.imshow(plane.T, origin="lower", aspect=aspect, cmap="gray", vmin=limits[0], vmax=limits[1])
            view.set_title(f"{name}, {title}", fontsize=9)
            view.set_axis_off()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90, metadata={"Software": None})


def _canonical(volume: Volume) -> NDArray[np.float32]:
    order, flips = volume.geometry.canonical_axes()
    return np.asarray(np.flip(volume.array[0].transpose(order), flips), np.float32)


def _planes(
    image: NDArray[Any], spacing_mm: tuple[float, float, float], low: float, high: float
) -> list[tuple[NDArray[Any], float, str]]:
    """Each with the height of a pixel by its width."""
    x, y, z = spacing_mm
    i, _, k = image.shape
    return [
        (image[i // 2], z / y, "sagittal"),
        (image[min(i - 1, i // 2 + round(32 / x))], z / y, "through the right eye"),
        (image[:, :, int(k * 0.35)], y / x, "axial"),
        (_from_the_front(image > low + _AIR_SHARE * (high - low), spacing_mm), z / x, "from the front"),
    ]


def _from_the_front(body: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """(I, K) the skin lit from the front: how far it faces the viewer, 0 where there is none."""
    depth_mm = np.argmax(body[:, ::-1, :], axis=1) * spacing_mm[1]
    slopes = np.gradient(depth_mm, spacing_mm[0], spacing_mm[2])
    shade = 1 / np.sqrt(1 + np.square(slopes[0]) + np.square(slopes[1]))
    return np.where(body.any(axis=1), 0.15 + 0.85 * shade, 0.0)
