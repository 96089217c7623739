"""The main job on real scans, as a user types it: import, check, preprocess, train, infer, evaluate.

    python benchmarks/bench_real.py hippocampus --data FOLDER [--budget 30m] [--work FOLDER]
    python benchmarks/bench_real.py openkbp --data FOLDER [--budget 20m]
    python benchmarks/bench_real.py adrenal --data FOLDER [--budget 5m]

FOLDER holds the dataset. A fifth of the cases (adrenal: the official validation part) is held back from training and
scored on its own grid with `medseg evaluate`. Writes benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medseg.data.manifest import read_manifest, write_manifest
from medseg.data.splits import split_cases

IMPORT_OPTIONS = {
    "hippocampus": (),
    "openkbp": (
        "--images", "ct", "--masks", "oar", "--channels", "CT", "--absent-is-unlabelled", "--labels",
        "brainstem=1,spinal_cord=2,right_parotid=3,left_parotid=4,esophagus=5,larynx=6,mandible=7",
    ),
    "adrenal": ("--classes", "normal,hyperplasia"),
}  # fmt: skip
BUDGETS = {"hippocampus": "30m", "openkbp": "20m", "adrenal": "5m"}


def medseg(*arguments: object) -> float:
    """Run one command, show it, and return its wall time."""
    print("$ medseg", *arguments, flush=True)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "medseg", *map(str, arguments)], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return round(time.perf_counter() - start, 2)


def hold_back(manifest: Path) -> int:
    """Mark the validation part of fold 0 as `val` and the rest as `train`, so that every later step agrees on it."""
    dataset = read_manifest(manifest)
    split = split_cases(dataset)
    cases = tuple(
        case.model_copy(update={"split": "val" if case.id in split.val else "train"}) for case in dataset.cases
    )
    write_manifest(dataset.model_copy(update={"cases": cases}), manifest)
    return len(split.val)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=sorted(BUDGETS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--budget")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    budget = options.budget or BUDGETS[options.name]
    work = options.work or Path(tempfile.mkdtemp(prefix="medseg-bench-"))
    work.mkdir(parents=True, exist_ok=True)
    manifest = work / f"{options.name}.json"
    seconds = {"import": medseg("import", options.data, "--out", manifest, *IMPORT_OPTIONS[options.name])}
    num_held_back = hold_back(manifest)
    seconds["check"] = medseg("check", "--manifest", manifest)
    seconds["preprocess"] = medseg("preprocess", "--manifest", manifest, "--workspace", work)
    seconds["train"] = medseg("train", "--workspace", work, "--budget", budget)
    seconds["infer"] = medseg("infer", "--input", manifest, "--split", "val", "--workspace", work)
    seconds["evaluate"] = medseg("evaluate", "--manifest", manifest, "--split", "val", "--workspace", work)
    report = json.loads((work / "reports" / "cohort.json").read_text())
    found = [json.loads(path.read_text())["seconds"] for path in (work / "predictions").glob("*.json")]
    result = {
        "what": f"{options.name}, {budget} of training on {os.cpu_count()} CPU cores, {num_held_back} cases held back",
        "seconds": seconds,
        "infer_seconds_per_case": round(sum(sum(one.values()) for one in found) / len(found), 3),
        "mean_dice": report["mean_dice"],
        "labels": {
            row["label"]: {
                "dice": row["dice"]["mean"],
                "hd95_mm": row["hd95_mm"]["mean"],
                "nsd_1mm": row["nsd"]["mean"],
                "n": row["dice"]["n"],
                "missed": row["num_missed"],
            }
            for row in report["labels"]
        },
        "classes": report["classes"],
    }
    target = Path(__file__).with_name("results") / f"{options.name}.json"
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    if options.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
