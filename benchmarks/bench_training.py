"""Samples per second of a training on CPU cores or a GPU: medseg beside nnU-Net v2's own trainer.

The same cases, patches, batch and network (plain U-Net, deep supervision); loading, augmentation, forward, backward and
update of both included. Each tool lives in a process of its own, as its users run it, so that neither's memory serves
the other; blocks of steps in turn, never two at once. nnU-Net trains in fp32 on a CPU, without torch.compile (its own
choice there), and augments in the process that trains (no workers: the cores are busy anyway); medseg takes bf16 where
the CPU has it, and runs a second time in fp32. Seconds of the clock are told beside seconds of the processor: on a
machine that others use too, only the latter mean something.

With `--device cuda` both train on the GPU in mixed precision, nnU-Net with its own choices there (torch.compile, as
many workers that augment as it takes by itself), medseg with the cases in the GPU's memory; patches of 128^3 and a
network of the usual size. nvidia-smi tells five times a second how busy the GPU is. Only the clock counts then.

Needs nnunetv2. Writes benchmarks/results/training.json, on a GPU training_cuda.json.

    python benchmarks/bench_training.py [--rounds 4] [--steps 2] [--threads 2] [--device cuda --steps 50]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
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

TASK, NUM_CASES = "Dataset901_Bench", 4


@dataclass(frozen=True)
class Setup:
    """What is trained on a device: cases of `edge` voxels a side, and the tools, of which the last is the peer."""

    device: str
    tools: tuple[str, ...]
    patch: tuple[int, int, int]
    batch: int
    edge: int
    features: tuple[int, ...]


SETUPS = (
    Setup("cpu", ("medseg", "medseg in fp32", "nnU-Net"), (40, 56, 40), 4, 72, (32, 64, 128, 256)),
    Setup("cuda", ("medseg", "medseg compiled", "nnU-Net"), (128, 128, 128), 2, 160, (32, 64, 128, 256, 320, 320)),
)


def make_case(seed: int, edge: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of noise with two bright balls, and their labels."""
    random = default_rng(seed)
    image = random.normal(size=(edge,) * 3).astype(np.float32)
    axes = np.meshgrid(*[np.arange(edge)] * 3, indexing="ij")
    labels = np.zeros((edge,) * 3, np.uint8)
    for value, centre in enumerate(random.integers(25, edge - 25, (2, 3)), start=1):
        labels[sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True)) < 12**2] = value
    return image + labels, labels


def nnunet_trainer(folder: Path, setup: Setup):
    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir()
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    for name in ("imagesTr", "labelsTr"):
        (folder / "raw" / TASK / name).mkdir(parents=True)
    for number in range(NUM_CASES + 1):
        image, labels = make_case(number, setup.edge)
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
    chosen, stages = plans["configurations"]["3d_fullres"], len(setup.features)
    chosen |= {"patch_size": list(setup.patch), "batch_size": setup.batch, "batch_dice": True}
    chosen["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": list(setup.features),
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    plans["configurations"] = {"3d_fullres": chosen}
    path.write_text(json.dumps(plans))
    plans["continue_training"] = False
    preprocess([901], configurations=("3d_fullres",), num_processes=(1,))
    if setup.device == "cpu":
        os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - its own spelling
    trainer = nnUNetTrainer(
        plans, "3d_fullres", 0, json.loads((path.parent / "dataset.json").read_text()), torch.device(setup.device)
    )
    trainer.on_train_start()
    trainer.network.train()
    return trainer


def medseg_side(setup: Setup, *, amp: bool, compiled: bool = False):
    stages = len(setup.features)
    network = NetworkPlan(
        features=setup.features,
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
        patch_size=setup.patch,
        batch_size=setup.batch,
        mirror_axes=(0, 1, 2),
        network=network,
    )
    cases = []
    for number in range(NUM_CASES):
        image, labels = (torch.from_numpy(array) for array in make_case(number, setup.edge))
        places = labels.nonzero()[::10]
        points = torch.cat([labels[tuple(places.T)][:, None], places], dim=1).short()
        entry = StoredCase(
            id=str(number),
            patient=str(number),
            file="",
            sha256="",
            shape=(setup.edge,) * 3,
            known=(True,) * 3,
            classes={},
        )
        image = ((image - image.mean()) / image.std())[None].half()
        cases.append(LoadedCase(entry, image.to(setup.device), labels.to(setup.device), points))
    settings = TrainSettings(epochs=1, device=setup.device, amp=amp, recipe="sgd", compile=compiled)
    machine, sampler = build_machine(plan, settings), PatchSampler(cases, plan, seed=0)
    pace = Pace(class_weight=1.0, reference_share=0.0)

    def step(number: int) -> None:
        train_step(machine, sampler.batch(number), seed=(0, number), pace=pace, settings=settings)

    return step, machine


def serve(tool: str, setup: Setup, threads: int, pipe: Connection) -> None:
    """Build a tool, then make so many steps as asked for, again and again; 0 ends it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    with ExitStack() as stack, redirect_stdout(sys.stderr):
        if tool == "nnU-Net":
            trainer = nnunet_trainer(Path(stack.enter_context(tempfile.TemporaryDirectory())), setup)
            network, dtype = trainer.network, torch.float32 if setup.device == "cpu" else torch.float16

            def step(_: int) -> None:
                trainer.train_step(next(trainer.dataloader_train))

        else:
            stack.enter_context(freed_memory_kept(torch.device(setup.device)))
            step, machine = medseg_side(setup, amp=tool != "medseg in fp32", compiled=tool == "medseg compiled")
            network, dtype = machine.network, machine.dtype
        step(0)
        weights = sum(value.numel() for value in network.parameters()) / 1e6
        pipe.send({"million_weights": round(weights, 3), "precision": str(dtype or torch.float32)})
        answer(step, pipe)


def answer(step: Callable[[int], None], pipe: Connection) -> None:
    done = 1
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    while steps := pipe.recv():
        clock, processor = time.perf_counter(), time.process_time()
        for number in range(done, done + steps):
            step(number)
        wait()
        done += steps
        pipe.send(((time.perf_counter() - clock) / steps, (time.process_time() - processor) / steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=[setup.device for setup in SETUPS], default="cpu")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    setup = next(setup for setup in SETUPS if setup.device == given.device)
    name = "training.json" if setup.device == "cpu" else f"training_{setup.device}.json"
    output = given.output or Path(__file__).parent / "results" / name
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    told: dict[str, dict[str, object]] = {}
    for name in setup.tools:
        pipes[name], theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(name, setup, given.threads, theirs)).start()
        theirs.close()  # so that the end of one that fails is noticed
        told[name] = pipes[name].recv()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in setup.tools}
    busy: dict[str, list[float]] = {name: [] for name in setup.tools}
    for turn in range(given.rounds):
        for name, pipe in pipes.items():
            with gpu_watched(setup.device, busy[name]):
                pipe.send(given.steps)
                seconds[name].append(pipe.recv())
            clock, processor = seconds[name][-1]
            print(f"round {turn + 1} {name}: {clock:.3f} s a step, {processor:.3f} s of processor", flush=True)
    for pipe in pipes.values():
        pipe.send(0)
    result = {
        "what": f"training on {setup.device} with {given.threads} threads, batch {setup.batch} of {setup.patch}, "
        f"features {setup.features}; loading, augmentation included",
        **{f"by_{what}": summary(seconds, column, setup) for column, what in enumerate(("clock", "processor"))},
        **{key: {name: told[name][key] for name in setup.tools} for key in ("precision", "million_weights")},
        "gpu_percent": {name: round(statistics.fmean(values), 1) for name, values in busy.items() if values},
        "machine": {
            "device": torch.cuda.get_device_name() if setup.device == "cuda" else "cpu",
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load": os.getloadavg()[0],
        },
        "versions": {name: version(name) for name in ("torch", "nnunetv2", "batchgeneratorsv2")},
    }
    output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


@contextmanager
def gpu_watched(device: str, percents: list[float]) -> Iterator[None]:
    """Add how busy the GPU was, five times a second."""
    if device != "cuda":
        yield
        return
    words = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watch:
        yield
        watch.terminate()
        percents += [float(line) for line in watch.communicate()[0].split()]


def summary(seconds: dict[str, list[tuple[float, float]]], column: int, setup: Setup) -> dict[str, object]:
    """Samples per second, and how many times nnU-Net's, round by round."""
    taken = {name: [times[column] for times in rounds] for name, rounds in seconds.items()}
    ratios = {
        name: [theirs / own for own, theirs in zip(taken[name], taken["nnU-Net"], strict=True)]
        for name in taken
        if name != "nnU-Net"
    }
    return {
        "samples_per_second": {
            name: round(setup.batch / statistics.median(values), 3) for name, values in taken.items()
        },
        "times_faster_than_nnunet": {
            name: {"median": round(statistics.median(values), 2), "rounds": [round(value, 2) for value in values]}
            for name, values in ratios.items()
        },
    }


if __name__ == "__main__":
    main()
