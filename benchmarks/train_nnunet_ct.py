"""Trains an nnU-Net of the usual size on two CTs, for the benchmarks that need a trained network of nnU-Net's own.

Needs nnunetv2. DATA holds the CTs of TotalSegmentator's tests, a torso of 3 mm (`example_ct.nii.gz`) and a slab of the
abdomen as it left the scanner (`example_ct_dicom`), with the organs that TotalSegmentator found in them, of which bone,
muscle and liver are taught at 1.5 mm: features 32 to 320 in six stages, patches of 64^3, afterwards run in windows of
128^3. FOLDER receives nnU-Net's raw, preprocessed and results folders; the model is
FOLDER/results/Dataset010_CT/nnUNetTrainer__nnUNetPlans__3d_fullres.

    python benchmarks/train_nnunet_ct.py DATA FOLDER [--minutes 60]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from medseg.core.volume import LabelMap, Volume
from medseg.data.regrid import onto_grid
from medseg.io.volumes import read_labels, read_volume, write_labels, write_volume

TASK = "Dataset010_CT"
LABELS = {"background": 0, "bone": 1, "muscle": 2, "liver": 3}
TAUGHT = {1: (*range(25, 51), *range(69, 79), *range(91, 117)), 2: tuple(range(80, 90)), 3: (5,)}
SCANS = {"example_ct.nii.gz": "example_seg_fast_force_split.nii.gz", "example_ct_dicom": "example_seg_dicom.nii.gz"}
SPACING_MM = 1.5
WINDOW = 128


def make_dataset(data: Path, raw: Path) -> None:
    folder = raw / TASK
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, labels in SCANS.items():
        image = read_volume(data / name)
        organs, _ = onto_grid(read_labels(data / labels), image.geometry)
        taught = np.zeros(organs.array.shape, np.uint8)
        for value, members in TAUGHT.items():
            taught[np.isin(organs.array, members)] = value
        case = name.partition(".")[0]
        write_volume(Volume(image.array.astype(np.int16), image.geometry), folder / "imagesTr" / f"{case}_0000.nii.gz")
        write_labels(LabelMap(taught, organs.geometry), folder / "labelsTr" / f"{case}.nii.gz")
    description = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": len(SCANS), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))


def plan(preprocessed: Path) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([10], num_processes=1, check_dataset_integrity=False)
    plan_experiments([10], overwrite_target_spacing=(SPACING_MM,) * 3)
    path = preprocessed / TASK / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    chosen = plans["configurations"]["3d_fullres"]
    stages = 6
    chosen |= {"patch_size": [64] * 3, "batch_size": 2, "spacing": [SPACING_MM] * 3}
    chosen["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": [32, 64, 128, 256, 320, 320],
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    plans["configurations"] = {"3d_fullres": chosen}
    path.write_text(json.dumps(plans, indent=1))
    preprocess([10], configurations=("3d_fullres",), num_processes=(1,))


def in_reduced_precision(network: torch.nn.Module) -> None:
    """bf16, but for the deepest stage: there, 2 voxels deep, the CPU gets the weight gradient of bf16 wrong."""
    deepest = network.encoder.stages[-1]
    forward, whole = deepest.forward, network.forward

    def exact(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(x.float())

    def reduced(x: torch.Tensor) -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return [answer.float() for answer in whole(x)]

    deepest.forward, network.forward = exact, reduced


def train(minutes: float) -> None:
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args("10", "3d_fullres", "all", device=torch.device("cpu"))
    start, seconds, steps = time.monotonic(), minutes * 60, 0

    def adamw() -> tuple:
        optimizer = torch.optim.AdamW(trainer.network.parameters(), lr=1e-3)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)

    trainer.configure_optimizers = adamw
    trainer.on_train_start()
    in_reduced_precision(trainer.network)
    trainer.network.train()
    while (share := (time.monotonic() - start) / seconds) < 1:
        for group in trainer.optimizer.param_groups:
            group["lr"] = 1e-3 * max(0.02, (1 - share) ** 0.9)
        loss = trainer.train_step(next(trainer.dataloader_train))["loss"]
        steps += 1
        if steps % 50 == 0:
            print(f"step {steps}, {share:.0%}, loss {loss:.3f}", flush=True)
            trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
    trainer.save_checkpoint(str(Path(trainer.output_folder, "checkpoint_final.pth")))
    plans = Path(trainer.output_folder_base, "plans.json")
    content = json.loads(plans.read_text())
    content["configurations"]["3d_fullres"]["patch_size"] = [WINDOW] * 3
    plans.write_text(json.dumps(content, indent=1))
    print(f"{steps} steps: {trainer.output_folder_base}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    folders = {name: (options.folder / name).resolve() for name in ("raw", "preprocessed", "results")}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder)
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}
    if not (folders["preprocessed"] / TASK / "nnUNetPlans_3d_fullres").is_dir():
        make_dataset(options.data, folders["raw"])
        plan(folders["preprocessed"])
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - as nnU-Net names it; its planner wants one
    train(options.minutes)


if __name__ == "__main__":
    main()
