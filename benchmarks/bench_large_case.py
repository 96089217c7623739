"""A large CT from file to file: nnU-Net's predictor and medseg with the same trained weights, in turn.

Needs nnunetv2 beside medseg, and a model of `train_nnunet_ct.py`. Three cases: 512x512x300 cut finer from the 3 mm CT
that the model learnt from, and two scans of 512x512xN as they left the scanner, one that it learnt from
(DATA/totalsegmentator) and one unlike both (DATA/pyradiomics). Every run is a process of its own: its peak memory is
all that the process ever held; its seconds run from the image file to the mask file, without starting Python and
loading the model. nnU-Net computes in fp32, and its mask is what medseg's is compared with. --quick plans the same
weights for 3 mm and windows of 64^3. Writes benchmarks/results/large_case.json, in which cases not asked for stay.

    python benchmarks/bench_large_case.py RESULTS_FOLDER DATA [--quick] [--fp32] [--rounds 1] [--cases ct lung]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from large_case import (
    abdomen_ct,
    both,
    coarser,
    in_child,
    kept,
    lung_ct,
    measured,
    nnunet_predictor,
    ratio,
    resampled_ct,
    spread,
    write_result,
)

from medseg.core.settings import InferSettings
from medseg.engine.predict import Predictor
from medseg.io.volumes import write_labels
from medseg.workflows.import_nnunet import import_nnunet

CASES = {"ct": resampled_ct, "abdomen": abdomen_ct, "lung": lung_ct}


def theirs(results: Path, image: Path, out: Path) -> dict:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    predictor = nnunet_predictor(results)

    def work() -> dict:
        array, properties = SimpleITKIO().read_images([str(image)])
        predictor.predict_single_npy_array(array, properties, None, str(out).removesuffix(".nii.gz"), False)
        return {}

    return measured(work)


def ours(bundle: Path, image: Path, out: Path, *, amp: bool = True) -> dict:
    predictor = Predictor(bundle, InferSettings(backend="auto", amp=amp))

    def work() -> dict:
        start = time.perf_counter()
        answer = predictor.predict(image)
        read_s = time.perf_counter() - start - sum(answer.seconds.values())
        start = time.perf_counter()
        write_labels(answer.labels, out)
        stages = {"read": read_s, **answer.seconds, "write": time.perf_counter() - start}
        return {
            "stages_s": {name: round(seconds, 2) for name, seconds in stages.items()},
            "backend": answer.backend,
            "windows": answer.windows,
        }

    return measured(work)


def exactly(bundle: Path, image: Path, out: Path) -> dict:
    """As `ours`, in fp32 as nnU-Net."""
    return ours(bundle, image, out, amp=False)


def calibrate(bundle: Path, *, amp: bool = True) -> dict:
    """Let medseg measure the backends, and keep their graphs, as after its first case on a machine."""
    predictor = Predictor(bundle, InferSettings(backend="auto", amp=amp))
    # noise, because a backend's rounding is blown up by instance norm on a window that is the same everywhere
    window = torch.randn(1, 1, *predictor.bundle.plan.patch_size, generator=torch.Generator().manual_seed(0))
    return measured(lambda: predictor.forward(window, num_windows=100) or {})


def calibrate_exactly(bundle: Path) -> dict:
    """As `calibrate`, in fp32."""
    return calibrate(bundle, amp=False)


def agreement(first: Path, second: Path) -> dict:
    """Of medseg's mask with nnU-Net's."""
    ours_, theirs_ = (np.asarray(nib.load(path).dataobj) for path in (first, second))
    found = {}
    for value in sorted({*np.unique(ours_), *np.unique(theirs_)} - {0}):
        mine, other = ours_ == value, theirs_ == value
        found[str(value)] = round(2 * int((mine & other).sum()) / int(mine.sum() + other.sum()), 5)
    foreground = 2 * int(((ours_ > 0) & (theirs_ > 0)).sum()) / max(int((ours_ > 0).sum() + (theirs_ > 0).sum()), 1)
    return {
        "dice": found,
        "dice_foreground": round(foreground, 5),
        "voxels_changed": int((ours_ != theirs_).sum()),
        "voxels_of_label": {str(value): int((theirs_ == value).sum()) for value in np.unique(theirs_)},
    }


def run_case(models: dict[str, Path], image: Path, folder: Path, rounds: int) -> dict:
    runs: dict[str, list[dict]] = {tool: [] for tool in models}
    calibration = in_child(__file__, "calibrate", models["medseg"])
    if "medseg_fp32" in models:
        in_child(__file__, "calibrate_fp32", models["medseg_fp32"])
    for _ in range(rounds):
        for tool, model in models.items():
            runs[tool].append(in_child(__file__, tool, model, image, folder / f"{tool}.nii.gz"))
    times = {tool: both(found) for tool, found in runs.items()}
    peaks = {tool: spread([run["peak_mib"] for run in found]) for tool, found in runs.items()}

    def beside(tool: str) -> dict:
        return {
            "backend": runs[tool][-1]["backend"],
            "stages_s": runs[tool][-1]["stages_s"],
            "faster": ratio(times["nnunet"], times[tool]),
            "memory_share": round(peaks[tool]["median"] / peaks["nnunet"]["median"], 3),
            **agreement(folder / f"{tool}.nii.gz", folder / "nnunet.nii.gz"),
        }

    return {
        "shape": list(nib.load(image).shape),
        "spacing_mm": [round(float(mm), 3) for mm in nib.load(image).header.get_zooms()],
        "windows": runs["medseg"][-1]["windows"],
        "calibration_s": round(calibration["seconds"], 1),
        **times,
        "peak_mib": peaks,
        "loaded_mib": {tool: found[-1]["before_mib"] for tool, found in runs.items()},
        **beside("medseg"),
        **({"in fp32": beside("medseg_fp32")} if "medseg_fp32" in runs else {}),
    }


def child(tool: str, *paths: str) -> None:
    tools = {"nnunet": theirs, "medseg": ours, "medseg_fp32": exactly}
    tools |= {"calibrate": calibrate, "calibrate_fp32": calibrate_exactly}
    print(json.dumps(tools[tool](*map(Path, paths))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--fp32", action="store_true", help="medseg in full precision, too")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    planned = coarser(options.results, 3.0, 64) if options.quick else nullcontext(options.results)
    name = "large_case_quick" if options.quick else "large_case"
    result = kept(name) | {"what": "nnU-Net and medseg from image file to mask file, the same weights"}
    with tempfile.TemporaryDirectory() as passing, planned as results:
        folder = Path(passing)
        import_nnunet(results, folder / "bundle")
        for case in options.cases:
            image = folder / f"{case}.nii.gz"
            CASES[case](options.data, image)
            models = {"nnunet": results, "medseg": folder / "bundle"}
            models |= {"medseg_fp32": folder / "bundle"} if options.fp32 else {}
            result[case] = run_case(models, image, folder, options.rounds)
            write_result(name, result)


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
