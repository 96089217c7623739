"""Augmenting a 96^3 sample: medseg beside the pipeline that nnU-Net v2's trainer builds, which runs on one CPU core.

Both in one process, in turn, from cropped patch to varied patch and label map; nnU-Net's starts from its larger patch,
from which it turns the smaller one out. medseg runs once with its own probabilities and once with nnU-Net's, on one
core too or, with `--device cuda`, on the GPU, where its patches lie in a training; then the clock counts, else the
processor. Needs nnunetv2. Writes benchmarks/results/augment.json, on a GPU augment_cuda.json.

    python benchmarks/bench_augment.py [--rounds 40] [--device cuda]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from medseg.ops import augment as ours
from medseg.ops.augment import Augmentation, augment

EDGE, BATCH = 96, 2
HOW = Augmentation(mirror_axes=(0, 1, 2), swaps=(), rotation_axes=(0, 1, 2))
# a turn or a zoom, of a fifth of the samples each; both kinds of gamma; two of the three act on half of the channels
AS_NNUNET = dataclasses.replace(HOW, rotation_deg=30.0, scaling=(0.7, 1.4), p_spatial=1 - 0.8**2)
PROBABILITIES = {
    "noise": 0.1,
    "blur": 0.1,
    "brightness": 0.15,
    "contrast": 0.15,
    "low_resolution": 0.125,
    "gamma": 1 - 0.9 * 0.7,
}


def sample(edge: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, edge, edge, edge) image of smooth noise and (edge, edge, edge) labels of three balls."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 1, edge // 8, edge // 8, edge // 8, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (edge,) * 3, mode="trilinear")[0]
    axes = torch.meshgrid(*[torch.linspace(-1, 1, edge)] * 3, indexing="ij")
    labels = torch.zeros(edge, edge, edge, dtype=torch.uint8)
    for value, middle in enumerate((-0.4, 0.1, 0.5), start=1):
        labels[sum((axis - middle) ** 2 for axis in axes) < 0.1] = value
    return image + 0.1 * torch.randn(image.shape, generator=generator), labels


def with_medseg(how: Augmentation, step: int, image: torch.Tensor, labels: torch.Tensor) -> None:
    generators = [torch.Generator().manual_seed(1000 * step + slot) for slot in range(BATCH)]
    known = torch.ones(BATCH, 4, dtype=torch.bool, device=image.device)
    augment(image, labels, known, how=how, generators=generators)


def nnunet_pipeline():
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    turn = (-30 / 360 * 2 * np.pi, 30 / 360 * 2 * np.pi)
    start = get_patch_size((EDGE,) * 3, turn, turn, turn, (0.85, 1.25))
    return nnUNetTrainer.get_training_transforms((EDGE,) * 3, turn, None, (0, 1, 2), False, [False]), int(start[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    on_gpu = given.device == "cuda"
    output = given.output or Path(__file__).parent / "results" / ("augment_cuda.json" if on_gpu else "augment.json")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pipeline, start_edge = nnunet_pipeline()
    samples = zip(*(sample(EDGE, seed) for seed in range(BATCH)), strict=True)
    image, labels = (torch.stack(parts).to(given.device) for parts in samples)
    large, large_labels = sample(start_edge, 0)
    own, theirs = ours.CHANGES, tuple((PROBABILITIES[change.__name__], change) for _, change in ours.CHANGES)

    def medseg(step: int) -> None:
        ours.CHANGES = own
        with_medseg(HOW, step, image, labels)

    def medseg_as_nnunet(step: int) -> None:
        ours.CHANGES = theirs
        with_medseg(AS_NNUNET, step, image, labels)

    def nnunet(_step: int) -> None:
        for _ in range(BATCH):
            pipeline(image=large.clone(), segmentation=large_labels[None].to(torch.int16))

    tools = {"medseg": medseg, "medseg, nnU-Net's probabilities": medseg_as_nnunet, "nnU-Net": nnunet}
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - their generator

    def now() -> float:
        if not on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    for tool in tools.values():
        tool(0)
    for step in range(1, given.rounds + 1):
        for name, tool in tools.items():
            start = now()
            tool(step)
            seconds[name].append((now() - start) / BATCH)
    groups = np.array_split(np.arange(given.rounds), 4)
    means = {name: [statistics.fmean(values[i] for i in group) for group in groups] for name, values in seconds.items()}
    result = {
        "what": f"seconds {'by the clock, medseg on the GPU,' if on_gpu else 'of the processor'} to vary one {EDGE}^3 "
        f"sample, mean over {given.rounds * BATCH}; one thread",
        "seconds_per_sample": {name: round(statistics.fmean(values), 4) for name, values in seconds.items()},
        "times_faster_than_nnunet": {
            name: {
                "mean": round(statistics.fmean(seconds["nnU-Net"]) / statistics.fmean(seconds[name]), 2),
                "quarters": [round(b / a, 2) for a, b in zip(means[name], means["nnU-Net"], strict=True)],
            }
            for name in list(tools)[:2]
        },
        "nnunet_start_edge": start_edge,
        "machine": {
            "device": torch.cuda.get_device_name() if on_gpu else "cpu",
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load": os.getloadavg()[0],
        },
        "versions": {name: version(name) for name in ("torch", "nnunetv2", "batchgeneratorsv2")},
    }
    output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
