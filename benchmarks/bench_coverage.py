"""Does the 95 % interval of a cohort's mean cover the true mean in 95 of 100 cohorts? And how long a summary takes.

1,000 simulated cohorts each of 20, 50 and 200 patients. Writes benchmarks/results/coverage.json.

    python benchmarks/bench_coverage.py [--repeats 1000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from medseg.core.findings import LabelMetrics
from medseg.ops.statistics import estimate, summarise_labels


def normal(rng, sizes):
    """Patients differ as much as the cases of one."""
    return np.repeat(rng.normal(size=len(sizes)), sizes) + rng.normal(size=sizes.sum())


def dice(rng, sizes):
    """Left-skewed: patient means from Beta(18, 2), cases Beta around them."""
    centres = np.repeat(rng.beta(18, 2, len(sizes)), sizes)
    return rng.beta(40 * centres, 40 * (1 - centres))


def distance(rng, sizes):
    """Right-skewed like HD95: log-normal, log-sd .5 between and .4 within patients."""
    return np.exp(np.repeat(rng.normal(1, 0.5, len(sizes)), sizes) + rng.normal(0, 0.4, sizes.sum()))


def dice_with_failures(rng, sizes):
    """One case in ten fails (Dice uniform to .4), the others are Beta(30, 3)."""
    failed = rng.random(sizes.sum()) < 0.1
    return np.where(failed, rng.uniform(0, 0.4, failed.size), rng.beta(30, 3, failed.size))


COHORTS = {
    "normal": (normal, 0.0),
    "dice": (dice, 0.9),
    "distance": (distance, float(np.exp(1 + 0.5**2 / 2 + 0.4**2 / 2))),
    "dice_with_failures": (dice_with_failures, 0.1 * 0.2 + 0.9 * 30 / 33),
}


def coverage(draw, truth: float, *, num_patients: int, cases: tuple[int, int], repeats: int) -> dict[str, float]:
    rng = np.random.default_rng(20)
    covered, widths = 0, []
    for _ in range(repeats):
        sizes = rng.integers(cases[0], cases[1] + 1, num_patients)
        patients = np.repeat([str(number) for number in range(num_patients)], sizes)
        answer = estimate(draw(rng, sizes), patients, seed=int(rng.integers(2**31)))
        covered += answer.low <= truth <= answer.high
        widths.append(answer.high - answer.low)
    return {"covered_percent": round(100 * covered / repeats, 1), "median_width": round(float(np.median(widths)), 4)}


def summary_seconds(num_cases: int = 1000, num_labels: int = 10) -> float:
    rng = np.random.default_rng(0)
    names = [name for name, field in LabelMetrics.model_fields.items() if field.annotation is float]
    rows = [
        (
            f"patient-{case // 2}",
            LabelMetrics(label=str(label), presence="both", **dict.fromkeys(names, rng.beta(9, 1))),
        )
        for case in range(num_cases)
        for label in range(num_labels)
    ]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        summarise_labels(rows)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "coverage.json")
    given = parser.parse_args()
    result: dict[str, object] = {
        "repeats": given.repeats,
        "summary_of_1000_cases_10_labels_s": round(summary_seconds(), 2),
    }
    for name, (draw, truth) in COHORTS.items():
        for cases in ((1, 1), (1, 3)):
            for num_patients in (20, 50, 200):
                key = f"{name}, {num_patients} patients, {cases[0]}-{cases[1]} cases each"
                result[key] = coverage(draw, truth, num_patients=num_patients, cases=cases, repeats=given.repeats)
                print(key, result[key], flush=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
