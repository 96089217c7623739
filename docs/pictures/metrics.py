"""Draws docs/pictures/metrics.png: what the segmentation metrics measure. `python docs/pictures/metrics.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from medseg.ops.metrics import segmentation_metrics
from medseg.ops.surfaces import surface_distances

mpl.use("Agg")
from matplotlib import pyplot as plt

SPACING_MM = (1.0, 1.0, 2.5)
TOLERANCE_MM = 2.0
MIDDLE = 12


def ellipsoid(centre: tuple[float, ...], radii_mm: tuple[float, ...]) -> np.ndarray:
    axes = np.ogrid[:64, :64, :25]
    return sum(((axis - c) * s / r) ** 2 for axis, c, s, r in zip(axes, centre, SPACING_MM, radii_mm, strict=True)) <= 1


def elements(mask: np.ndarray) -> np.ndarray:
    """(N, 3) grid corners that carry a surface element, in the order of `surface_distances`."""
    padded = np.pad(mask.astype(int), 1)
    filled = sum(padded[i : i + 65, j : j + 65, k : k + 26] for i in (0, 1) for j in (0, 1) for k in (0, 1))
    return np.argwhere((filled > 0) & (filled < 8)) - 0.5


def main() -> None:
    reference = ellipsoid((30, 30, MIDDLE), (20, 15, 22))
    prediction = ellipsoid((32, 31, MIDDLE), (19, 16, 22)) | ellipsoid((50, 44, MIDDLE), (5, 5, 6))
    (row,) = segmentation_metrics(prediction, reference, spacing_mm=SPACING_MM, tolerance_mm=TOLERANCE_MM)
    distances = surface_distances(prediction, reference, spacing_mm=SPACING_MM).to_reference.distances_mm
    places = elements(prediction)
    here = np.abs(places[:, 2] - MIDDLE) < 1
    places, distances = places[here], distances[here]

    figure, panels = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
    for panel in panels:
        panel.contour(reference[:, :, MIDDLE].T, [0.5], colors="#1b1b1b", linewidths=1.6)
        panel.set(xlim=(5, 60), ylim=(8, 55), aspect="equal", xticks=[], yticks=[])
    both = np.where(reference, np.where(prediction, 1, 2), np.where(prediction, 3, 0))[:, :, MIDDLE].T
    colours = mpl.colors.ListedColormap(["#ffffff", "#7fb8a4", "#e0b15a", "#c9786b"])
    panels[0].imshow(both, cmap=colours, vmin=0, vmax=3, origin="lower")
    panels[0].set_title(
        f"Dice {row.dice:.3f}   IoU {row.iou:.3f}\nprecision {row.precision:.3f}   recall {row.recall:.3f}"
    )
    panels[0].set_xlabel("green: common, yellow: missed, red: too much")
    shown = panels[1].scatter(*places[:, :2].T, c=distances, s=9, cmap="viridis")
    figure.colorbar(shown, ax=panels[1], label="mm to the reference", shrink=0.8)
    panels[1].set_title(f"HD {row.hd_mm:.1f} mm   HD95 {row.hd95_mm:.1f} mm\nASSD {row.assd_mm:.2f} mm")
    panels[1].set_xlabel("black: reference; dots: predicted surface")
    near = distances <= TOLERANCE_MM
    panels[2].scatter(*places[near, :2].T, color="#2f7d63", s=9)
    panels[2].scatter(*places[~near, :2].T, color="#b3402f", s=14, marker="x", linewidths=1)
    panels[2].set_title(f"NSD {row.nsd:.3f} at {TOLERANCE_MM:g} mm\n")
    panels[2].set_xlabel("green: within the tolerance, red crosses: beyond")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=80)


if __name__ == "__main__":
    main()
