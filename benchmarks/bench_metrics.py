"""Dice, HD, HD95, ASSD and NSD of ten labels in 512 x 512 x 300 voxels: medseg beside MONAI and surface-distance.

One process, the tools in turn, label maps in, numbers out. Writes benchmarks/results/metrics.json.

    python benchmarks/bench_metrics.py [--rounds 3] [--skip-monai]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

from medseg.ops.metrics import segmentation_metrics

SHAPE = (512, 512, 300)
SPACING_MM = (0.8, 0.8, 1.5)
NUM_LABELS = 10
TOLERANCE_MM = 1.0
NUMBERS = ("dice", "hd_mm", "hd95_mm", "assd_mm", "nsd")


def organs(seed: int, *, moved_voxels: float) -> np.ndarray:
    """Ten ellipsoids, the first the size of a liver (2.3 l); `moved_voxels` displaces and rescales them."""
    rng, change = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    centres = rng.uniform([120, 120, 60], [390, 390, 240], (NUM_LABELS, 3))
    radii = rng.uniform(15, 75, (NUM_LABELS, 3)) * [1, 1, 0.7]
    radii[0] = (110, 90, 60)
    centres = centres + moved_voxels * change.normal(size=centres.shape)
    radii = radii * (1 + 0.02 * moved_voxels * change.normal(size=radii.shape))
    mask = np.zeros(SHAPE, np.uint8)
    for value, (centre, radius) in enumerate(zip(centres, radii, strict=True), start=1):
        box = tuple(
            slice(max(0, int(c - r) - 1), min(n, int(c + r) + 2)) for c, r, n in zip(centre, radius, SHAPE, strict=True)
        )
        axes = [((np.arange(b.start, b.stop) - c) / r) ** 2 for b, c, r in zip(box, centre, radius, strict=True)]
        mask[box][axes[0][:, None, None] + axes[1][:, None] + axes[2] <= 1] = value
    return mask


def with_medseg(prediction, reference):
    rows = segmentation_metrics(prediction, reference, spacing_mm=SPACING_MM, tolerance_mm=TOLERANCE_MM)
    return [[getattr(row, name) for name in NUMBERS] for row in rows]


def with_surface_distance(prediction, reference):
    import surface_distance as peer

    rows = []
    for value in range(1, NUM_LABELS + 1):
        first, second = prediction == value, reference == value
        found = peer.compute_surface_distances(second, first, SPACING_MM)
        areas = found["surfel_areas_pred"], found["surfel_areas_gt"]
        distances = found["distances_pred_to_gt"], found["distances_gt_to_pred"]
        rows.append(
            [
                peer.compute_dice_coefficient(second, first),
                peer.compute_robust_hausdorff(found, 100),
                peer.compute_robust_hausdorff(found, 95),
                sum(d @ a for d, a in zip(distances, areas, strict=True)) / sum(a.sum() for a in areas),
                peer.compute_surface_dice_at_tolerance(found, TOLERANCE_MM),
            ]
        )
    return rows


def with_monai(prediction, reference):
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )
    from monai.networks.utils import one_hot

    masks = [one_hot(torch.from_numpy(mask)[None, None], NUM_LABELS + 1) for mask in (prediction, reference)]
    given = {"include_background": False, "spacing": SPACING_MM}
    columns = [
        compute_dice(*masks, include_background=False),
        compute_hausdorff_distance(*masks, **given),
        compute_hausdorff_distance(*masks, percentile=95, **given),
        compute_average_surface_distance(*masks, symmetric=True, **given),
        compute_surface_dice(*masks, class_thresholds=[TOLERANCE_MM] * NUM_LABELS, **given),
    ]
    return torch.stack([column[0] for column in columns], dim=1).tolist()


TOOLS = {"medseg": with_medseg, "surface-distance": with_surface_distance, "monai": with_monai}


def peak_gb() -> float:
    """Highest resident memory of this process since `forget_peak`."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1e6


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-monai", action="store_true")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "metrics.json")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    tools = {name: tool for name, tool in TOOLS.items() if not (given.skip_monai and name == "monai")}
    reference, prediction = organs(0, moved_voxels=0), organs(0, moved_voxels=1.5)
    small = prediction[200:240, 200:240, 100:140], reference[200:240, 200:240, 100:140]
    if "monai" in tools:
        with_monai(*small)  # imports are not what is measured
    with_medseg(*small)

    seconds: dict[str, list[float]] = {name: [] for name in tools}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in tools}
    peaks, answers = dict.fromkeys(tools, 0.0), {}
    for turn in range(given.rounds):
        for name, tool in tools.items():
            forget_peak()
            before, start, cpu_start = peak_gb(), time.perf_counter(), time.process_time()
            answers[name] = tool(prediction, reference)
            seconds[name].append(time.perf_counter() - start)
            cpu_seconds[name].append(time.process_time() - cpu_start)
            peaks[name] = max(peaks[name], peak_gb() - before)
            print(f"round {turn + 1} {name}: {seconds[name][-1]:.2f} s, +{peaks[name]:.2f} GB", flush=True)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    theirs = np.subtract(answers["medseg"], answers["surface-distance"])
    result = {
        "what": "Dice, HD, HD95, ASSD, NSD; label maps in, numbers out",
        "shape": SHAPE,
        "spacing_mm": SPACING_MM,
        "num_labels": NUM_LABELS,
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load": os.getloadavg()[0],
        },
        "versions": {
            name: version(name) for name in ("medseg", "monai", "surface-distance", "numpy", "scipy", "torch")
        },
        "tools": {
            name: {
                "seconds": [round(value, 3) for value in values],
                "median_s": round(medians[name], 3),
                "min_s": round(min(values), 3),
                "max_s": round(max(values), 3),
                "median_cpu_s": round(statistics.median(cpu_seconds[name]), 3),
                "peak_gb": round(peaks[name], 3),
            }
            for name, values in seconds.items()
        },
        "times_faster_than": {name: round(medians[name] / medians["medseg"], 1) for name in tools if name != "medseg"},
        "times_less_cpu_than": {
            name: round(statistics.median(values) / statistics.median(cpu_seconds["medseg"]), 1)
            for name, values in cpu_seconds.items()
            if name != "medseg"
        },
        "largest_difference_to_surface_distance": dict(zip(NUMBERS, np.abs(theirs).max(axis=0).tolist(), strict=True)),
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("times_faster_than", "times_less_cpu_than")}))


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
