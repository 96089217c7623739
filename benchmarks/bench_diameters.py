"""Long axis, short axis and Feret diameter: medseg beside brute force over all corners and beside SimpleITK.

A lesion of about 10,000 voxels on an oblique grid, and an organ of a million. Writes benchmarks/results/diameters.json.

    python benchmarks/bench_diameters.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from itertools import product
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own customary name
from scipy.spatial.distance import cdist, pdist
from scipy.spatial.transform import Rotation

from medseg.clinical.diameters import axial_diameters, feret_diameter
from medseg.core.geometry import Geometry, lps_to_ras

SPACING_MM = (0.7, 0.7, 1.5)
RADII = {"lesion": (16, 12, 12.5), "organ": (75, 62, 53)}  # voxels


def ellipsoid(radii):
    """A wavy ellipsoid: its border is neither smooth nor convex."""
    shape = tuple(int(2 * radius) + 7 for radius in radii)
    at = (np.indices(shape).transpose(1, 2, 3, 0) - (np.array(shape) - 1) / 2) / radii
    wave = 1 + 0.08 * np.sin(9 * at[..., 0]) * np.cos(7 * at[..., 1])
    direction = Rotation.from_euler("xyz", (8, -6, 20), degrees=True).as_matrix()
    return (at**2).sum(-1) <= wave, Geometry.from_parts(shape, SPACING_MM, direction, (-20, 30, -400))


def brute_axial(mask, geometry):
    """Every pair of corners of every slice."""
    best = 0.0
    for k in np.flatnonzero(mask.any(axis=(0, 1))):
        at = np.argwhere(mask[:, :, k])
        corners = np.unique(np.concatenate([at + offset for offset in product((-0.5, 0.5), repeat=2)]), axis=0)
        best = max(best, float(pdist(corners @ geometry.affine[:3, :2].T).max()))
    return best


def brute_feret(mask, geometry):
    """Every pair of corners on the border."""
    inner = mask.copy()
    for axis in range(3):
        inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    at = np.argwhere(mask & ~inner)
    corners = np.unique(np.concatenate([at + offset for offset in product((-0.5, 0.5), repeat=3)]), axis=0)
    points = corners @ geometry.affine[:3, :3].T
    return max(float(cdist(points[start : start + 500], points).max()) for start in range(0, len(points), 500))


def simpleitk_feret(mask, geometry):
    """SimpleITK's, between voxel centres."""
    image = sitk.GetImageFromArray(mask.transpose(2, 1, 0).astype(np.uint8))
    lps = lps_to_ras(geometry.affine)
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / geometry.spacing_mm).ravel().tolist())
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.ComputeFeretDiameterOn()
    shapes.Execute(image)
    return float(shapes.GetFeretDiameter(1))


TOOLS = {
    "medseg long and short axis": lambda m, g: axial_diameters(m, g).long_axis.length_mm,
    "brute force long axis": brute_axial,
    "medseg Feret": lambda m, g: feret_diameter(m, g).length_mm,
    "brute force Feret": brute_feret,
    "SimpleITK Feret": simpleitk_feret,
}
TOO_SLOW = {"organ": {"brute force long axis", "brute force Feret", "SimpleITK Feret"}}


def timed(tool, mask, geometry, rounds):
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        answer = tool(mask, geometry)
        seconds.append(time.perf_counter() - start)
        if seconds[0] > 5:
            break
    return {"mm": answer, "median_ms": round(1000 * statistics.median(seconds), 2), "rounds": len(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "diameters.json")
    given = parser.parse_args()
    result = {
        "spacing_mm": SPACING_MM,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
    }
    for name, radii in RADII.items():
        mask, geometry = ellipsoid(np.array(radii))
        rows = {
            tool: timed(run, mask, geometry, given.rounds)
            for tool, run in TOOLS.items()
            if tool not in TOO_SLOW.get(name, ())
        }
        result[name] = {"voxels": int(mask.sum()), "tools": rows}
        for tool, row in rows.items():
            print(f"{name}, {int(mask.sum())} voxels, {tool}: {row['median_ms']} ms, {row['mm']:.6f} mm", flush=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
