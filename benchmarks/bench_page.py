"""The page of one case: 512 x 512 x 300 voxels, ten labels, a noisy CT; from masks in memory to HTML.

Writes benchmarks/results/page.json: seconds (wall and CPU) and megabytes.

    python benchmarks/bench_page.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
from bench_metrics import NUM_LABELS, SHAPE, SPACING_MM, organs

from medseg.core.findings import CaseReport, GridSummary, Provenance
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.ops.metrics import compare_labels
from medseg.report.case import render_case
from medseg.report.pictures import case_pictures

LABELS = {f"organ {value}": value for value in range(1, NUM_LABELS + 1)}


def make_page(image: Volume, prediction: LabelMap, reference: LabelMap) -> str:
    geometry = image.geometry
    compared = compare_labels(
        prediction.array, reference.array, spacing_mm=geometry.spacing_mm, labels=LABELS, tolerance_mm=1.0
    )
    pictures = case_pictures(image, prediction=prediction, reference=reference, labels=LABELS, modality="CT")
    report = CaseReport(
        case="case",
        patient="case",
        grid=GridSummary.of(geometry),
        volumes_ml={one.metrics.label: one.metrics.volume_ml for one in compared},
        metrics=tuple(one.metrics for one in compared),
        provenance=Provenance(medseg_version="0", created="2026-01-01T00:00:00Z"),
    )
    distances = {one.metrics.label: one.distances for one in compared if one.distances is not None}
    return render_case(report, pictures, distances=distances)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    geometry = Geometry.from_parts(SHAPE, SPACING_MM)
    reference, prediction = (LabelMap(organs(0, moved_voxels=moved), geometry) for moved in (0, 2))
    noise = np.random.default_rng(0).normal(0, 30, (1, *SHAPE))
    image = Volume((noise + reference.array * 40).astype(np.int16), geometry)
    wall, cpu, size = [], [], 0
    for _ in range(rounds + 1):
        before = time.perf_counter(), time.process_time()
        size = len(make_page(image, prediction, reference).encode())
        wall.append(time.perf_counter() - before[0])
        cpu.append(time.process_time() - before[1])
    result = {
        "shape": SHAPE,
        "labels": NUM_LABELS,
        "rounds": rounds,
        "load": os.getloadavg()[0],
        "wall_s": {"median": statistics.median(wall[1:]), "min": min(wall[1:]), "max": max(wall[1:])},
        "cpu_s": {"median": statistics.median(cpu[1:]), "min": min(cpu[1:]), "max": max(cpu[1:])},
        "megabytes": size / 1e6,
    }
    print(json.dumps(result, indent=2))
    (Path(__file__).parent / "results" / "page.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
