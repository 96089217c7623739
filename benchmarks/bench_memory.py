"""Peak memory and time of `medseg infer` on a 512 x 512 x 300 int16 CT with 3 labels.

The network is the size that a plan for a CPU has at 1.5 mm; its weights are fresh, which costs the same. The peak is
the operating system's account of the whole process. Writes benchmarks/results/memory.json.

    python benchmarks/bench_memory.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from medseg.core.findings import Provenance
from medseg.core.geometry import Geometry
from medseg.core.plan import NetworkPlan, Normalisation, Plan
from medseg.core.volume import Volume
from medseg.io.bundle import BundleManifest, write_bundle
from medseg.io.volumes import write_volume
from medseg.nn.build import build_network

SHAPE = (512, 512, 300)
SPACING_MM = (0.8, 0.8, 1.5)


def make_case(path: Path, shape: tuple[int, int, int] = SHAPE) -> None:
    rng = np.random.default_rng(0)
    array = np.empty(shape, np.int16)
    i, j = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    outside = (i / 0.78) ** 2 + (j / 0.59) ** 2 > 1
    for plane in np.moveaxis(array, 2, 0):  # one after the other: nothing larger than the image is ever held
        plane[...] = np.where(outside, -1000, rng.normal(0, 20, outside.shape))
    geometry = Geometry.from_parts(shape, SPACING_MM, np.diag([-1.0, -1.0, 1.0]), (200, 200, -100))
    write_volume(Volume(array[None], geometry), path)


def make_bundle(
    folder: Path,
    *,
    labels: tuple[str, ...] = ("liver", "spleen", "kidney"),
    spacing_mm: float = 1.5,
    features: tuple[int, ...] = (16, 32, 64, 128, 160),
    window: tuple[int, int, int] = (64, 64, 64),
) -> None:
    stages = len(features)
    network = NetworkPlan(
        features=features,
        strides=((1, 1, 1), *((2, 2, 2),) * (stages - 1)),
        kernels=((3, 3, 3),) * stages,
        blocks=(2,) * stages,
    )
    plan = Plan(
        dataset="memory",
        channels=("CT",),
        labels={name: value for value, name in enumerate(labels, start=1)},
        spacing_mm=(spacing_mm,) * 3,
        crop="none",
        normalisation=(Normalisation(scheme="fixed", lower=-100, upper=200, mean=50, std=50),),
        coarse_axis=None,
        patch_size=window,
        batch_size=2,
        mirror_axes=(),
        network=network,
    )
    manifest = BundleManifest(
        name="memory",
        dataset="memory",
        labels=plan.labels,
        heads={},
        channels=plan.channels,
        num_training_cases=0,
        num_validation_cases=0,
        training_cases=(),
        validation={},
        finished=True,
        sha256={},
        provenance=Provenance(medseg_version="", created=""),
    )
    write_bundle(folder, manifest, plan, weights=[build_network(plan, seed=0).state_dict()], metrics="{}", card="")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_case(folder / "case.nii.gz")
        make_bundle(folder / "bundle")
        command = [sys.executable, "-m", "medseg", "infer", "--volume", str(folder / "case.nii.gz")]
        command += ["--bundle", str(folder / "bundle"), "--out", str(folder / "out"), "--overlap", "0.25"]
        start = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        found = json.loads((folder / "out" / "case.json").read_text())
    result = {
        "what": "medseg infer, 512x512x300 int16 CT, 3 labels, 1.5 mm, whole process",
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        "wall_s": round(time.perf_counter() - start, 1),
        "stages_s": found["seconds"],
    }
    Path(__file__).with_name("results").joinpath("memory.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
