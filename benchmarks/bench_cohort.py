"""How long the summary of a cohort takes, from the case reports to the written page, and how large the page is.

1,000 cases of 800 patients, 10 labels, lesions, two heads, four attributes. Writes benchmarks/results/cohort.json.

    python benchmarks/bench_cohort.py [--cases 1000]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from medseg.core.case import Dataset
from medseg.core.detection import LesionDetection, LesionMatch
from medseg.core.findings import CaseReport, ClassAnswer, GridSummary, LabelMetrics, Provenance
from medseg.core.settings import EvaluateSettings
from medseg.report.cohort import cohort_csv, render_cohort
from medseg.workflows.cohort_report import cohort_report

LABELS = {f"organ_{value}": value for value in range(1, 11)}
HEADS = {"finding": ("benign", "malignant"), "grade": ("low", "middle", "high")}
GRID = GridSummary(shape=(512, 512, 300), spacing_mm=(0.8, 0.8, 1.5), axis_codes="LPS")
MADE = Provenance(medseg_version="0", created="2026-01-01T00:00:00Z")


def make_case(number: int, rng: np.random.Generator) -> CaseReport:
    answers = []
    for head, names in HEADS.items():
        truth = int(rng.integers(len(names)))
        scores = rng.random(len(names)) + 0.8 * np.eye(len(names))[truth]
        probabilities = dict(zip(names, (scores / scores.sum()).tolist(), strict=True))
        answers.append(ClassAnswer(head=head, probabilities=probabilities, reference=names[truth]))
    attributes = {"site": "ABCDE"[number % 5], "sex": "FM"[number % 2], "age": str(rng.integers(20, 90))}
    if number % 7:
        attributes["scanner"] = f"model {number % 4}"
    return CaseReport(
        case=f"case_{number:04d}",
        patient=f"patient_{number % 800}",
        grid=GRID,
        volumes_ml={},
        metrics=tuple(make_row(label, rng) for label in LABELS),
        lesions=(make_lesions(rng),),
        classes=tuple(answers),
        attributes=attributes,
        provenance=MADE,
        scoring=MADE,
    )


def make_row(label: str, rng: np.random.Generator) -> LabelMetrics:
    missed = rng.random() < 0.03
    shares = dict.fromkeys(("dice", "iou", "precision", "recall", "nsd"), 0.0 if missed else float(rng.beta(18, 2)))
    lengths = {name: 500.0 if missed else float(rng.lognormal(1, 0.5)) for name in ("hd_mm", "hd95_mm", "assd_mm")}
    volume_ml = float(rng.lognormal(3, 1))
    return LabelMetrics(
        label=label,
        presence="missed" if missed else "both",
        **shares,
        **lengths,
        tolerance_mm=1.0,
        volume_ml=0.0 if missed else volume_ml * rng.uniform(0.9, 1.1),
        reference_volume_ml=volume_ml,
        relative_volume_error=-1.0 if missed else 0.02,
    )


def make_lesions(rng: np.random.Generator) -> LesionDetection:
    lesions = tuple(
        LesionMatch(
            status="matched" if rng.random() < 0.7 else "missed",
            centre_mm=(1.0, 2.0, 3.0),
            slice_number=5,
            volume_ml=1.0,
            reference_volume_ml=1.0,
            dice=0.8,
            iou=0.7,
        )
        for _ in range(rng.integers(0, 8))
    )
    found = sum(one.status == "matched" for one in lesions)
    return LesionDetection(
        label="organ_10",
        criterion="iou",
        threshold=0.1,
        num_reference=len(lesions),
        num_predicted=found + 1,
        num_matched=found,
        **dict.fromkeys(("sensitivity", "precision", "f1", "panoptic_quality"), 0.5),
        lesions=lesions,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "cohort.json")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    reports = [make_case(number, rng) for number in range(given.cases)]
    dataset = Dataset(name="cohort", labels=LABELS, heads=HEADS)
    steps: dict[str, list[float]] = {"summarise": [], "write JSON": [], "write CSV": [], "write page": [], "all": []}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            marks = [time.perf_counter()]
            report = cohort_report(dataset, reports, [], EvaluateSettings())
            marks.append(time.perf_counter())
            written = {"cohort.json": report.to_json()}
            (Path(folder) / "cohort.json").write_text(written["cohort.json"], encoding="utf-8")
            marks.append(time.perf_counter())
            written["cohort.csv"] = cohort_csv(report)
            (Path(folder) / "cohort.csv").write_text(written["cohort.csv"], encoding="utf-8")
            marks.append(time.perf_counter())
            written["index.html"] = render_cohort(
                report, case_pages={one.case: f"cases/{one.case}.html" for one in reports}
            )
            (Path(folder) / "index.html").write_text(written["index.html"], encoding="utf-8")
            marks.append(time.perf_counter())
            for name, start, stop in zip(steps, marks, marks[1:], strict=False):
                steps[name].append(stop - start)
            steps["all"].append(marks[-1] - marks[0])
            sizes = {name: len(text.encode()) for name, text in written.items()}
    result = {
        "what": f"{given.cases} case reports, {len(LABELS)} labels, {len(HEADS)} heads, 4 attributes",
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "median_s": {name: round(statistics.median(values), 2) for name, values in steps.items()},
        "max_s": {name: round(max(values), 2) for name, values in steps.items()},
        "bytes": sizes,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
