"""Samples per second of a training on CPU cores: medseg beside nnU-Net v2's own trainer.

The same cases, patches, batch and network (plain U-Net, deep supervision); loading, augmentation, forward, backward and
update of both included. Each tool lives in a process of its own, as its users run it, so that neither's memory serves
the other; blocks of steps in turn, never two at once. nnU-Net trains in fp32 on a CPU, without torch.compile (its own
choice there), and augments in the process that trains (no workers: the cores are busy anyway); medseg takes bf16 where
the CPU has it, and runs a second time in fp32. Seconds of the clock are told beside seconds of the processor: on a
machine that others use too, only the latter mean something. Needs nnunetv2. Writes benchmarks/results/training.json.

    python benchmarks/bench_training.py [--rounds 4] [--steps 2] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.random import default_rng

from medseg.core.plan import NetworkPlan, Normalisation, Plan
from medseg.core.settings import TrainSettings
from medseg.data.patches import PatchSampler
from medseg.data.store import LoadedCase, StoredCase
from medseg.engine.devices import freed_memory_kept
from medseg.engine.machine import build_machine
from medseg.engine.step import Pace, train_step

PATCH, BATCH, EDGE, NUM_CASES = (40, 56, 40), 4, 72, 4
FEATURES = (32, 64, 128, 256)
TASK = "Dataset901_Bench"
TOOLS = ("medseg", "medseg in fp32", "nnU-Net")


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


def serve(tool: str, threads: int, pipe: Connection) -> None:
    """Build a tool, then make so many steps as asked for, again and again; 0 ends it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    with ExitStack() as stack, redirect_stdout(sys.stderr):
        if tool == "nnU-Net":
            trainer = nnunet_trainer(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            network, dtype = trainer.network, torch.float32

            def step(_: int) -> None:
                trainer.train_step(next(trainer.dataloader_train))

        else:
            stack.enter_context(freed_memory_kept(torch.device("cpu")))
            step, machine = medseg_side(amp=tool == "medseg")
            network, dtype = machine.network, machine.dtype
        step(0)
        weights = sum(value.numel() for value in network.parameters()) / 1e6
        pipe.send({"million_weights": round(weights, 3), "precision": str(dtype or torch.float32)})
        answer(step, pipe)


def answer(step: Callable[[int], None], pipe: Connection) -> None:
    done = 1
    while steps := pipe.recv():
        clock, processor = time.perf_counter(), time.process_time()
        for number in range(done, done + steps):
            step(number)
        done += steps
        pipe.send(((time.perf_counter() - clock) / steps, (time.process_time() - processor) / steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "training.json")
    given = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    told: dict[str, dict[str, object]] = {}
    for name in TOOLS:
        pipes[name], theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(name, given.threads, theirs)).start()
        theirs.close()  # so that the end of one that fails is noticed
        told[name] = pipes[name].recv()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in TOOLS}
    for turn in range(given.rounds):
        for name, pipe in pipes.items():
            pipe.send(given.steps)
            seconds[name].append(pipe.recv())
            clock, processor = seconds[name][-1]
            print(f"round {turn + 1} {name}: {clock:.2f} s a step, {processor:.2f} s of processor", flush=True)
    for pipe in pipes.values():
        pipe.send(0)
    result = {
        "what": f"training on {given.threads} threads, batch {BATCH} of {PATCH}, features {FEATURES}; "
        "loading, augmentation included",
        **{f"by_{what}": summary(seconds, column) for column, what in enumerate(("clock", "processor"))},
        **{key: {name: told[name][key] for name in TOOLS} for key in ("precision", "million_weights")},
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "versions": {name: version(name) for name in ("torch", "nnunetv2", "batchgeneratorsv2")},
    }
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def summary(seconds: dict[str, list[tuple[float, float]]], column: int) -> dict[str, object]:
    """Samples per second, and how many times nnU-Net's, round by round."""
    taken = {name: [times[column] for times in rounds] for name, rounds in seconds.items()}
    ratios = {
        name: [theirs / own for own, theirs in zip(taken[name], taken["nnU-Net"], strict=True)]
        for name in taken
        if name != "nnU-Net"
    }
    return {
        "samples_per_second": {name: round(BATCH / statistics.median(values), 3) for name, values in taken.items()},
        "times_faster_than_nnunet": {
            name: {"median": round(statistics.median(values), 2), "rounds": [round(value, 2) for value in values]}
            for name, values in ratios.items()
        },
    }


if __name__ == "__main__":
    main()
