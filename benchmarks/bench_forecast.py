"""The memory that `medseg train --dry-run` foretells, beside what the training then takes.

Eight synthetic cases a configuration, imported and prepared as a user does it; then the dry run, and the training, each
a process of its own. Measured is the operating system's account of the whole process, from its start to the bundle.
Writes benchmarks/results/forecast.json.

    python benchmarks/bench_forecast.py [NAME ...] [--steps 9]     # keeps the configurations that are not named
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from large_case import kept, write_result

from medseg.core.case import Case, Dataset
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.data.manifest import write_manifest
from medseg.io.volumes import write_labels, write_volume

CASES, JUDGED = 8, 2


class Setup(NamedTuple):
    """What is varied; `classes` with the background, `side` of the cases and `patch` in voxels."""

    patch: int = 32
    batch: int = 2
    channels: int = 1
    classes: int = 3
    network: str = "plain"
    options: tuple[str, ...] = ()
    side: int = 64


SETUPS = {
    "small": Setup(),
    "usual": Setup(patch=48, batch=4),
    "usual in fp32": Setup(patch=48, batch=4, options=("--no-amp",)),
    "large patch": Setup(patch=64),
    "many patches": Setup(batch=12),
    "in parts": Setup(batch=12, options=("--accumulate", "4")),
    "channels": Setup(channels=4),
    "classes": Setup(classes=40),
    "residual": Setup(network="residual"),
    "data in memory": Setup(side=160, channels=2),
    "data in files": Setup(side=160, channels=2, options=("--ram-gib", "0")),
}


def make_cases(folder: Path, setup: Setup) -> Path:
    """Noise, with organs in blocks; the manifest."""
    geometry = Geometry.from_parts((setup.side,) * 3, (1.0, 1.0, 1.0))
    random, cases = np.random.default_rng(0), []
    for number in range(CASES):
        blocks = random.integers(setup.classes, size=(setup.side // 8,) * 3)
        labels = blocks.repeat(8, 0).repeat(8, 1).repeat(8, 2).astype(np.uint8)
        images = tuple(folder / f"{number}_{channel}.nii.gz" for channel in range(setup.channels))
        for path in images:
            write_volume(Volume(random.normal(labels, 1.0)[None].astype(np.float32), geometry), path)
        label = folder / f"{number}_label.nii.gz"
        write_labels(LabelMap(labels, geometry), label)
        split = "val" if number < JUDGED else "train"
        cases.append(Case(id=f"case_{number}", images=images, label=label, split=split))
    names = {f"organ_{value}": value for value in range(1, setup.classes)}
    dataset = Dataset(name="forecast", channels=("MRI",) * setup.channels, labels=names, cases=tuple(cases))
    write_manifest(dataset, folder / "manifest.json")
    return folder / "manifest.json"


def medseg(*arguments: object) -> tuple[str, float]:
    """What a command says on stdout, and the MiB of its process at its peak."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, "-m", "medseg", *map(str, arguments)], stdout=said)
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        said.seek(0)
        return said.read(), usage.ru_maxrss / 1024


def beside(setup: Setup, steps: int) -> dict:
    """Forecast and measurement of one configuration, MiB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = ("--workspace", folder / "work")
        choices = {"patch_size": [setup.patch] * 3, "network": setup.network, "target": "cpu"}
        chosen = [word for key, value in choices.items() for word in ("--set", f"preprocess.{key}={value}")]
        medseg("preprocess", "--manifest", make_cases(folder, setup), *work, *chosen)
        length = ("--epochs", math.ceil(steps / math.ceil((CASES - JUDGED) / setup.batch)))
        training = ("train", *work, "--batch-size", setup.batch, *length, *setup.options)
        rows = json.loads(medseg(*training, "--dry-run", "--json")[0])
        told = float(rows["memory"].split()[1].replace(",", ""))
        _, measured = medseg(*training)
    return {
        **setup._asdict(),
        "forecast_mib": told,
        "measured_mib": round(measured),
        "forecast_over_measured": round(told / measured, 2),
        "told": rows["memory"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of configurations; all by default")
    parser.add_argument("--steps", type=int, default=9)
    options = parser.parse_args()
    setups = kept("forecast").get("setups", {})
    for name in options.names or SETUPS:
        setups[name] = beside(SETUPS[name], options.steps)
        print(name, setups[name], flush=True)
        ratios = [row["forecast_over_measured"] for row in setups.values()]
        write_result(
            "forecast",
            {
                "what": "medseg train --dry-run on the memory of a training, beside the training: MiB of the process, "
                f"{CASES} synthetic cases, about {options.steps} steps",
                "device": "cpu",
                "lowest": min(ratios),
                "highest": max(ratios),
                "setups": setups,
            },
        )


if __name__ == "__main__":
    main()
