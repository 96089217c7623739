"""Preparing a 512x512x300 CT (read, crop, resample to 1.5 mm, normalise): nnU-Net's preprocessor and medseg's, in turn.

Needs nnunetv2 and a model of `train_nnunet_ct.py`, whose plan both follow. Each run is a process of its own; seconds do
not count starting it. With and without labels. Writes benchmarks/results/preprocess.json.

    python benchmarks/bench_preprocess.py RESULTS_FOLDER DATA [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from large_case import (
    both,
    in_child,
    measured,
    nnunet_predictor,
    ratio,
    resampled_ct,
    resampled_labels,
    spread,
    write_result,
)

from medseg.io.bundle import read_bundle
from medseg.io.volumes import read_labels, read_volume
from medseg.ops.prepare import to_network
from medseg.workflows.import_nnunet import import_nnunet


def theirs(results: Path, image: Path, labels: Path | None, out: Path) -> dict:
    predictor = nnunet_predictor(results)
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    kept = []

    def work() -> dict:
        data, _, _ = preprocessor.run_case(
            [str(image)],
            str(labels) if labels else None,
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.dataset_json,
        )
        kept.append(data)
        return {}

    found = measured(work)
    np.save(out, kept[0][0].transpose(2, 1, 0).astype(np.float32))
    return found


def ours(bundle: Path, image: Path, labels: Path | None, out: Path) -> dict:
    plan = read_bundle(bundle).plan
    kept = []

    def work() -> dict:
        volume = read_volume(image)
        kept.append(to_network(volume, plan, labels=read_labels(labels) if labels else None))
        return {}

    found = measured(work)
    np.save(out, kept[0].image[0].numpy())
    return found


def child(tool: str, model: str, image: str, labels: str, out: str) -> None:
    run = theirs if tool == "nnunet" else ours
    print(json.dumps(run(Path(model), Path(image), Path(labels) if labels != "none" else None, Path(out))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    result: dict = {"what": "512x512x300 int16 CT to 1.5 mm, from file; medians of processes of their own"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        resampled_ct(options.data, folder / "ct.nii.gz")
        resampled_labels(options.data, folder / "labels.nii.gz")
        import_nnunet(options.results, folder / "bundle")
        models = {"nnunet": options.results, "medseg": folder / "bundle"}
        for kind, labels in (("image", "none"), ("image and labels", folder / "labels.nii.gz")):
            runs: dict[str, list[dict]] = {tool: [] for tool in models}
            for _ in range(options.rounds):
                for tool, model in models.items():
                    runs[tool].append(
                        in_child(__file__, tool, model, folder / "ct.nii.gz", labels, folder / f"{tool}.npy")
                    )
            times = {tool: both(found) for tool, found in runs.items()}
            first, second = (np.load(folder / f"{tool}.npy") for tool in models)
            std = read_bundle(folder / "bundle").plan.normalisation[0].std
            result[kind] = {
                **times,
                "peak_mib": {tool: spread([run["peak_mib"] for run in found]) for tool, found in runs.items()},
                "faster": ratio(times["nnunet"], times["medseg"]),
                "rms_hu": round(float(np.sqrt(np.mean((first - second) ** 2))) * std, 3),
                "shapes": [list(first.shape), list(second.shape)],
            }
    write_result("preprocess", result)


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
