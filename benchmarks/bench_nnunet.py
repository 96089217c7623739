"""A trained nnU-Net model run by nnU-Net's own predictor and, taken over, by medseg: do the masks agree, and how fast?

Needs nnunetv2 beside medseg. Both read the same files in one process, in turn, with the same threads; Dice is that of
medseg's mask to nnU-Net's. Writes benchmarks/results/nnunet_NAME.json.

    python benchmarks/bench_nnunet.py RESULTS_FOLDER IMAGE [IMAGE ...] [--name plain] [--rounds 3] [--tta]
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
import torch

from medseg.core.settings import InferSettings
from medseg.engine.predict import Predictor
from medseg.workflows.import_nnunet import import_nnunet


def peer(folder: Path, *, tta: bool):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(variable, tempfile.gettempdir())  # it wants them set, and does not use them here
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_mirroring=tta, device=torch.device("cpu"), verbose=False, allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(folder), None, "checkpoint_final.pth")

    def run(path: Path) -> np.ndarray:
        image, properties = SimpleITKIO().read_images([str(path)])
        mask = predictor.predict_single_npy_array(image, properties, None, None, save_or_return_probabilities=False)
        return np.asarray(mask).transpose(2, 1, 0)

    return run


def ours(bundle: Path, *, tta: bool, amp: bool, backend: str):
    predictor = Predictor(bundle, InferSettings(tta=tta, amp=amp, backend=backend))

    def run(path: Path) -> np.ndarray:
        labels = predictor.predict(path).labels
        assert labels is not None
        return labels.array

    return run


def dice(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    scores = {}
    for value in sorted({*np.unique(first), *np.unique(second)} - {0}):
        mine, theirs = first == value, second == value
        scores[str(value)] = 2 * int((mine & theirs).sum()) / int(mine.sum() + theirs.sum())
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--name", default="model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tta", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder, "bundle")
        import_nnunet(options.results, bundle)
        tools = {"nnunet": peer(options.results, tta=options.tta)}
        for name, amp, backend in (("fp32", False, "torch"), ("bf16", True, "torch"), ("openvino", True, "openvino")):
            tools[f"medseg_{name}"] = ours(bundle, tta=options.tta, amp=amp, backend=backend)
        seconds: dict[str, list[float]] = {name: [] for name in tools}
        agreement: dict[str, list[dict[str, float]]] = {name: [] for name in tools if name != "nnunet"}
        sizes = []
        for number in range(options.rounds + 1):
            taken = dict.fromkeys(tools, 0.0)
            for image in options.images:
                masks = {}
                for name, run in tools.items():
                    start = time.perf_counter()
                    masks[name] = run(image)
                    taken[name] += time.perf_counter() - start
                if number == 0:
                    sizes.append(int((masks["nnunet"] > 0).sum()))
                    for name in agreement:
                        agreement[name].append(dice(masks[name], masks["nnunet"]))
            if number:
                for name, value in taken.items():
                    seconds[name].append(value)
    result = {
        "cases": len(options.images),
        "tta": options.tta,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "foreground_voxels": sizes,
        "seconds_all_cases": {
            name: {"median": statistics.median(times), "min": min(times), "max": max(times)}
            for name, times in seconds.items()
        },
        "faster_than_nnunet": {
            name: statistics.median(seconds["nnunet"]) / statistics.median(seconds[name]) for name in agreement
        },
        "dice_to_nnunet": {
            name: {
                "lowest": min(min(case.values()) for case in cases if case),
                "mean": statistics.mean(value for case in cases for value in case.values()),
            }
            for name, cases in agreement.items()
        },
    }
    print(json.dumps(result, indent=2))
    target = Path(__file__).parent / "results" / f"nnunet_{options.name}.json"
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
