"""Samples per second of a training on two CPU cores: medseg beside nnU-Net v2's own trainer.

The same cases, patches, batch and network (plain U-Net, deep supervision); loading, augmentation, forward, backward and
update of both included. One process, blocks of steps in turn. nnU-Net trains in fp32 on a CPU and augments in the
process that trains (no workers: both cores are busy anyway); medseg takes bf16 where the CPU has it, and runs a second
time in fp32. Needs nnunetv2. Writes benchmarks/results/training.json.

    python benchmarks/bench_training.py [--rounds 4] [--steps 2]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.random import default_rng

from medseg.core.plan import NetworkPlan, Normalisation, Plan
from medseg.core.settings import TrainSettings
from medseg.data.patches import PatchSampler
from medseg.data.store import LoadedCase, StoredCase
from medseg.engine.machine import build_machine
from medseg.engine.step import Pace, train_step

PATCH, BATCH, EDGE, NUM_CASES = (40, 56, 40), 4, 72, 4
FEATURES = (32, 64, 128, 256)
TASK = "Dataset901_Bench"


def make_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of noise with two bright balls, and their labels."""
    random = default_rng(seed)
    image = random.normal(size=(EDGE,) * 3).astype(np.float32)
    axes = np.meshgrid(*[np.arange(EDGE)] * 3, indexing="ij")
    labels = np.zeros((EDGE,) * 3, np.uint8)
    for value, centre in enumerate(random.integers(25, EDGE - 25, (2, 3)), start=1):
        labels[sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True)) < 12**2] = value
    return image + labels, labels


def nnunet_trainer(folder: Path):
    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir()
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    for name in ("imagesTr", "labelsTr"):
        (folder / "raw" / TASK / name).mkdir(parents=True)
    for number in range(NUM_CASES + 1):
        image, labels = make_case(number)
        target = folder / "raw" / TASK
        nib.save(nib.Nifti1Image(image, np.eye(4)), target / "imagesTr" / f"c{number}_0000.nii.gz")
        nib.save(nib.Nifti1Image(labels, np.eye(4)), target / "labelsTr" / f"c{number}.nii.gz")
    words = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1, "b": 2}}
    words |= {"numTraining": NUM_CASES + 1, "file_ending": ".nii.gz"}
    (folder / "raw" / TASK / "dataset.json").write_text(json.dumps(words))
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    extract_fingerprints([901], num_processes=1, check_dataset_integrity=False)
    plan_experiments([901])
    path = folder / "preprocessed" / TASK / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    chosen, stages = plans["configurations"]["3d_fullres"], len(FEATURES)
    chosen |= {"patch_size": list(PATCH), "batch_size": BATCH, "batch_dice": True}
    chosen["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": list(FEATURES),
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    plans["configurations"] = {"3d_fullres": chosen}
    path.write_text(json.dumps(plans))
    plans["continue_training"] = False
    preprocess([901], configurations=("3d_fullres",), num_processes=(1,))
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - its own spelling
    trainer = nnUNetTrainer(
        plans, "3d_fullres", 0, json.loads((path.parent / "dataset.json").read_text()), torch.device("cpu")
    )
    trainer.on_train_start()
    trainer.network.train()
    return trainer


def medseg_side(*, amp: bool):
    stages = len(FEATURES)
    network = NetworkPlan(
        features=FEATURES,
        strides=((1, 1, 1), *[(2, 2, 2)] * (stages - 1)),
        kernels=((3, 3, 3),) * stages,
        blocks=(2,) * stages,
    )
    plan = Plan(
        dataset="bench",
        channels=("MRI",),
        labels={"a": 1, "b": 2},
        spacing_mm=(1, 1, 1),
        crop="none",
        normalisation=(Normalisation(scheme="per_image"),),
        coarse_axis=None,
        patch_size=PATCH,
        batch_size=BATCH,
        mirror_axes=(0, 1, 2),
        network=network,
    )
    cases = []
    for number in range(NUM_CASES):
        image, labels = (torch.from_numpy(array) for array in make_case(number))
        places = labels.nonzero()[::10]
        points = torch.cat([labels[tuple(places.T)][:, None], places], dim=1).short()
        entry = StoredCase(
            id=str(number), patient=str(number), file="", sha256="", shape=(EDGE,) * 3, known=(True,) * 3, classes={}
        )
        cases.append(LoadedCase(entry, ((image - image.mean()) / image.std())[None].half(), labels, points))
    settings = TrainSettings(epochs=1, device="cpu", amp=amp, recipe="sgd")
    machine, sampler = build_machine(plan, settings), PatchSampler(cases, plan, seed=0)
    pace = Pace(class_weight=1.0, reference_share=0.0)

    def step(number: int) -> None:
        train_step(machine, sampler.batch(number), seed=(0, number), pace=pace, settings=settings)

    return step, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "training.json")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        trainer = nnunet_trainer(Path(folder))
        (reduced, machine), (plain, _) = medseg_side(amp=True), medseg_side(amp=False)
        sizes = [sum(value.numel() for value in network.parameters()) for network in (machine.network, trainer.network)]
        tools = {
            "medseg": reduced,
            "medseg in fp32": plain,
            "nnU-Net": lambda _: trainer.train_step(next(trainer.dataloader_train)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in tools}
        for tool in tools.values():
            tool(0)
        for turn in range(given.rounds):
            for name, tool in tools.items():
                start = time.perf_counter()
                for number in range(given.steps):
                    tool(1 + turn * given.steps + number)
                seconds[name].append((time.perf_counter() - start) / given.steps)
                print(f"round {turn + 1} {name}: {seconds[name][-1]:.2f} s a step", flush=True)
    ratios = {
        name: [theirs / own for own, theirs in zip(seconds[name], seconds["nnU-Net"], strict=True)]
        for name in list(tools)[:2]
    }
    result = {
        "what": f"training on 2 threads, batch {BATCH} of {PATCH}, features {FEATURES}; loading, augmentation included",
        "samples_per_second": {name: round(BATCH / statistics.median(values), 3) for name, values in seconds.items()},
        "times_faster_than_nnunet": {
            name: {"median": round(statistics.median(values), 2), "rounds": [round(value, 2) for value in values]}
            for name, values in ratios.items()
        },
        "precision": {"medseg": str(machine.dtype), "nnU-Net": "torch.float32"},
        "million_weights": {"medseg": round(sizes[0] / 1e6, 3), "nnU-Net": round(sizes[1] / 1e6, 3)},
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "versions": {name: version(name) for name in ("torch", "nnunetv2", "batchgeneratorsv2")},
    }
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
