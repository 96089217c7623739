"""The main job on real scans, as a user types it: import, check, preprocess, train, infer, evaluate.

    python benchmarks/bench_real.py hippocampus --data FOLDER [--budget 30m] [--work FOLDER]
    python benchmarks/bench_real.py openkbp --data FOLDER [--budget 20m]
    python benchmarks/bench_real.py adrenal --data FOLDER [--budget 5m] [--seeds 0,1,2] [--work FOLDER]
    python benchmarks/bench_real.py sarcoma_pet --data FOLDER [--budget 6m]
    python benchmarks/bench_real.py hippocampus --data FOLDER --work FOLDER --folds 5 --seeds 0,1,2 --budget 2m,5m,10m

FOLDER holds the dataset. A fifth of the cases (adrenal: the official validation part) is held back from training and
scored on its own grid with `medseg evaluate`. Writes benchmarks/results/NAME.json. `sarcoma_pet` shows whether mask and
class are learnt together without collapse, which its warnings would say; seven cases held back tell no accuracy.

With --folds every case is scored by the fold that did not see it (`medseg train --folds`); with --seeds everything is
trained again with each seed. Several budgets give the curve of the score against minutes, each point a training planned
for that time. Writes NAME_folds.json or NAME_seeds.json after every run, and keeps the budgets there that are not asked
for again; with --work the same command again goes on where it was stopped, and keeps what is done.

Of adrenal three seeds are always trained, for 98 judged cases leave an area under the ROC curve uncertain by some .09.
The mean of their answers and the classical baselines (`medseg baseline`, with the first seed's encoder) stand in
adrenal.json as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
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
    "sarcoma_pet": ("--labels", "tumour=1", "--classes", "none,metastasis"),
}  # fmt: skip
BUDGETS = {"hippocampus": "30m", "openkbp": "20m", "adrenal": "5m", "sarcoma_pet": "6m"}
SEEDS = {"adrenal": "0,1,2"}


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


def prepare(options: argparse.Namespace, work: Path) -> Path:
    """The manifest; import and preprocessing are done once."""
    manifest = work / f"{options.name}.json"
    if not (work / "store" / "index.json").exists():
        medseg("import", options.data, "--out", manifest, *IMPORT_OPTIONS[options.name])
        if not options.folds:
            hold_back(manifest)
        medseg("preprocess", "--manifest", manifest, "--workspace", work, *settings(options))
    return manifest


def settings(options: argparse.Namespace) -> list[str]:
    return [part for assignment in options.set for part in ("--set", assignment)]


def cross_validation(options: argparse.Namespace, work: Path, *, budget: str, seed: int) -> dict:
    """Out-of-fold scores of one training in folds."""
    name = f"{budget}-seed{seed}"
    seconds = medseg(
        "train", "--workspace", work, "--folds", options.folds, "--budget", budget, "--seed", seed, "--name", name,
        "--set", "evaluate.pictures=false", *settings(options),
    )  # fmt: skip
    found = json.loads((work / "runs" / name / "cross-validation.json").read_text())
    pooled = found["pooled"]
    folds = [fold["scores"] for fold in found["folds"] if fold["scores"] is not None]
    return {
        "seconds_in_all": seconds,
        "mean_dice": pooled["mean_dice"],
        "mean_dice_by_fold": [fold["mean_dice"]["mean"] for fold in folds if fold["mean_dice"]],
        "labels": table(pooled["labels"]),
        "classes": [summary(head) for head in pooled["classes"]],
        "calibration": [
            {key: one[key] for key in ("head", "temperature", "nll", "ece")} for one in found["calibration"]
        ],
        "failures": found["failures"],
    }


def held_back_scores(options: argparse.Namespace, work: Path, *, budget: str, seed: int) -> dict:
    """Scores of one training on the cases that the manifest holds back."""
    name = f"{budget}-seed{seed}"
    seconds = medseg(
        "train", "--workspace", work, "--budget", budget, "--seed", seed, "--name", name, *settings(options)
    )
    return {"seconds_in_all": seconds, **judged(options, work, name)}


def judged(options: argparse.Namespace, work: Path, name: str) -> dict:
    """Scores of a run's model on the cases that the manifest holds back."""
    manifest, bundle = work / f"{options.name}.json", work / "runs" / name / "bundle"
    place = {kind: work / kind / name for kind in ("predictions", "reports")}
    medseg("infer", "--input", manifest, "--split", "val", "--bundle", bundle, "--out", place["predictions"])
    medseg(
        "evaluate", "--manifest", manifest, "--split", "val", "--predictions", place["predictions"],
        "--out", place["reports"], "--set", "evaluate.pictures=false",
    )  # fmt: skip
    report = json.loads((place["reports"] / "cohort.json").read_text())
    return {
        "mean_dice": report["mean_dice"],
        "labels": table(report["labels"]),
        "classes": [summary(head) for head in report["classes"]],
    }


def beside(options: argparse.Namespace, work: Path, *, budget: str, seeds: list[str]) -> dict:
    """What the seeds answer together, and the baselines on the same cases in the first seed's report."""
    names = [f"{budget}-seed{seed}" for seed in seeds]
    found: dict = {}
    if len(names) > 1:
        members = (work / "runs" / name / "bundle" for name in names)
        medseg("ensemble", *members, "--out", work / "runs" / f"{budget}-together" / "bundle")
        found["together"] = judged(options, work, f"{budget}-together")["classes"]
    out = work / "reports" / names[0]
    medseg(
        "baseline", "--manifest", work / f"{options.name}.json", "--workspace", work,
        "--bundle", work / "runs" / names[0] / "bundle", "--out", out,
    )  # fmt: skip
    (head,) = json.loads((out / "baseline.json").read_text())["heads"]
    told = ("family", "features", "num_features", "training_auroc")
    found["baselines"] = [{key: one[key] for key in told} | summary(one["summary"]) for one in head["models"]]
    found["verdict"] = head["contrast"]["sentence"]
    return found


def table(rows: list[dict]) -> dict:
    return {
        row["label"]: {
            "dice": row["dice"]["mean"],
            "hd95_mm": row["hd95_mm"]["mean"],
            "nsd_1mm": row["nsd"]["mean"],
            "n": row["dice"]["n"],
            "missed": row["num_missed"],
        }
        for row in rows
    }


def cores() -> str:
    """What this run may use, which can be less than the machine has."""
    return f"{len(os.sched_getaffinity(0))} CPU core(s)"


def summary(head: dict) -> dict:
    return {
        key: head[key] for key in ("head", "n", "accuracy", "balanced_accuracy", "auroc", "auroc_low", "auroc_high")
    }


def repeated(options: argparse.Namespace, work: Path) -> None:
    """Every budget with every seed, the result written after each."""
    import torch

    from medseg.core.settings import seconds

    prepare(options, work)
    score = cross_validation if options.folds else held_back_scores
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cores()
    where = f"{options.folds} folds, the budget is each fold's" if options.folds else "on the held-back cases"
    name = (
        f"{options.name}_folds" if options.folds else options.name if options.name in SEEDS else f"{options.name}_seeds"
    )
    target = Path(__file__).with_name("results") / f"{name}.json"
    told = {"what": f"{options.name}, {where}, {device}", "settings": options.set}
    before = json.loads(target.read_text()) if target.exists() else {}
    same = all(before.get(key) == value for key, value in told.items())
    result: dict = before if same else told | {"budgets": {}, "curve": []}
    for budget in (options.budget or BUDGETS[options.name]).split(","):
        runs = result["budgets"][budget] = {"seeds": {}}
        seeds = (options.seeds or "0").split(",")
        for seed in seeds:
            runs["seeds"][seed] = score(options, work, budget=budget, seed=int(seed))
            runs["spread"] = spread(list(runs["seeds"].values()))
            point = {"minutes": seconds(budget) / 60, **{key: one["mean"] for key, one in runs["spread"].items()}}
            others = (one for one in result["curve"] if one["minutes"] != point["minutes"])
            result["curve"] = sorted([*others, point], key=lambda one: one["minutes"])
            target.write_text(json.dumps(result, indent=2) + "\n")
        if options.name in SEEDS and not options.folds:
            runs |= beside(options, work, budget=budget, seeds=seeds)
            target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({"curve": result["curve"]}, indent=2))


def spread(runs: list[dict]) -> dict:
    """Mean, standard deviation and range over seeds, of each score."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if run["mean_dice"]:
            found.setdefault("mean_dice", []).append(run["mean_dice"]["mean"])
        for label, row in run["labels"].items():
            found.setdefault(f"{label} hd95_mm", []).append(row["hd95_mm"])
        for head in run["classes"]:
            for key in ("auroc", "balanced_accuracy"):
                if head[key] is not None:
                    found.setdefault(f"{head['head']} {key}", []).append(head[key])
    return {
        name: {
            "mean": statistics.mean(values),
            "deviation": statistics.stdev(values) if len(values) > 1 else None,
            "least": min(values),
            "most": max(values),
            "n": len(values),
        }
        for name, values in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(BUDGETS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--budget", help="of a training; several separated by commas with --folds or --seeds")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--folds", type=int, help="cross-validate in so many folds")
    parser.add_argument("--seeds", help="separated by commas: train everything again with each")
    parser.add_argument("--set", action="append", default=[], help="as medseg's, with --folds or --seeds")
    options = parser.parse_args()
    options.seeds = options.seeds or (None if options.folds else SEEDS.get(options.name))
    work = options.work or Path(tempfile.mkdtemp(prefix="medseg-bench-"))
    work.mkdir(parents=True, exist_ok=True)
    if options.folds or options.seeds:
        repeated(options, work)
        return
    budget = options.budget or BUDGETS[options.name]
    manifest = work / f"{options.name}.json"
    seconds = {"import": medseg("import", options.data, "--out", manifest, *IMPORT_OPTIONS[options.name])}
    num_held_back = hold_back(manifest)
    seconds["check"] = medseg("check", "--manifest", manifest)
    seconds["preprocess"] = medseg("preprocess", "--manifest", manifest, "--workspace", work)
    seconds["train"] = medseg("train", "--workspace", work, "--budget", budget)
    seconds["infer"] = medseg("infer", "--input", manifest, "--split", "val", "--workspace", work)
    seconds["evaluate"] = medseg("evaluate", "--manifest", manifest, "--split", "val", "--workspace", work)
    report = json.loads((work / "reports" / "cohort.json").read_text())
    cases = [path for path in (work / "predictions").glob("*.json") if path.name != "predictions.json"]
    found = [json.loads(path.read_text())["seconds"] for path in cases]
    result = {
        "what": f"{options.name}, {budget} of training on {cores()}, {num_held_back} cases held back",
        "seconds": seconds,
        "infer_seconds_per_case": round(sum(sum(one.values()) for one in found) / len(found), 3),
        "mean_dice": report["mean_dice"],
        "labels": table(report["labels"]),
        "classes": report["classes"],
        "warnings": json.loads((work / "runs" / "main" / "bundle" / "bundle.json").read_text())["warnings"],
    }
    target = Path(__file__).with_name("results") / f"{options.name}.json"
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    if options.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
