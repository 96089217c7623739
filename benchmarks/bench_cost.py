"""What a training step costs: seconds and memory over patch, batch, channels, classes, precision; a model of both.

medseg's own `train_step` (augmentation, forward, backward, update, average), on the device at hand, of the network that
a plan for a CPU gives to patches of 32 to 63 voxels. Every point is a process of its own: its memory is the peak less
what Python and its libraries held before the network was built. The model is fitted to the points that vary one thing
at a time, and tried on others, which vary several. Beside them stands what `medseg train --dry-run` would foretell.
Writes benchmarks/results/cost.json and docs/pictures/cost.png.

    python benchmarks/bench_cost.py [--rounds 1] [--steps 4] [--precisions reduced fp32]
    python benchmarks/bench_cost.py --picture          # draws the results again
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from large_case import RESULTS, both, forked, measured, spread, write_result

from medseg.core.plan import NetworkPlan, Normalisation, Plan
from medseg.core.settings import TrainSettings
from medseg.data.batch import Batch
from medseg.engine.devices import amp_dtype, freed_memory_kept, pick_device
from medseg.engine.machine import build_machine
from medseg.engine.step import Pace, train_step
from medseg.engine.trial import try_steps
from medseg.planning.memory import step_bytes

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "cost.png"
FEATURES = (16, 32, 64, 128)
MIB = 2**20


class Point(NamedTuple):
    """A cubic patch of so many voxels a side; classes with the background."""

    edge: int = 32
    batch: int = 2
    channels: int = 1
    classes: int = 3

    @property
    def voxels(self) -> int:
        return self.batch * self.edge**3


BASE = Point()
AXES: dict[str, tuple[Point, ...]] = {
    "patch": tuple(BASE._replace(edge=edge) for edge in (24, 32, 40, 48, 56)),
    "batch": tuple(BASE._replace(batch=batch) for batch in (1, 2, 4, 8)),
    "channels": tuple(BASE._replace(channels=channels) for channels in (1, 2, 4, 8)),
    "classes": tuple(BASE._replace(classes=classes) for classes in (3, 10, 30, 60)),
}
UNSEEN = (Point(40, 4, 2, 10), Point(48, 3, 4, 5), Point(24, 6, 1, 30), Point(40, 2, 1, 40), Point(24, 8, 4, 15))


def plan_of(point: Point) -> Plan:
    stages = len(FEATURES)
    return Plan(
        dataset="cost",
        channels=tuple(f"c{number}" for number in range(point.channels)),
        labels={f"organ {number}": number for number in range(1, point.classes)},
        spacing_mm=(1, 1, 1),
        crop="none",
        normalisation=(Normalisation(scheme="per_image"),) * point.channels,
        coarse_axis=None,
        patch_size=(point.edge,) * 3,
        batch_size=point.batch,
        mirror_axes=(0,),
        network=NetworkPlan(
            features=FEATURES,
            strides=((1, 1, 1), *[(2, 2, 2)] * (stages - 1)),
            kernels=((3, 3, 3),) * stages,
            blocks=(2,) * stages,
        ),
    )


def batch_of(point: Point, number: int) -> Batch:
    """Noise, and labels that lie in blocks as organs do."""
    random = torch.Generator().manual_seed(number)
    shape = (point.batch, 1, *(max(1, point.edge // 8),) * 3)
    blocks = torch.randint(point.classes, shape, generator=random).float()
    labels = torch.nn.functional.interpolate(blocks, (point.edge,) * 3, mode="nearest")[:, 0]
    return Batch(
        torch.randn((point.batch, point.channels, *(point.edge,) * 3), generator=random),
        labels.to(torch.uint8),
        torch.ones((point.batch, point.classes), dtype=torch.bool),
        {},
        ("noise",) * point.batch,
        tuple(range(number * point.batch, (number + 1) * point.batch)),
        torch.zeros(point.batch, 0),
    )


def cost(point: Point, settings: TrainSettings, steps: int) -> dict:
    """Seconds of a step, and the MiB that it takes with network and optimiser."""
    device = pick_device(settings.device)
    times: list[tuple[float, float]] = []

    def train(point: Point, steps: int) -> dict:
        machine, pace = build_machine(plan_of(point), settings), Pace(class_weight=0.0, reference_share=0.0)
        for number in range(steps + 1):
            batch = batch_of(point, number)
            start, cpu = time.perf_counter(), time.process_time()
            train_step(machine, batch, seed=(0, number), pace=pace, settings=settings)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - start, time.process_time() - cpu))
        return {}

    with freed_memory_kept(device):  # libraries that torch loads at the first step are not the step's
        train(Point(edge=16, batch=1), 0)
    with freed_memory_kept(device):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found = measured(lambda: train(point, steps))
    above = found["peak_mib"] - found["before_mib"]
    if device.type == "cuda":
        above = torch.cuda.max_memory_allocated() / MIB
    seconds, cpu_seconds = np.mean(times[-steps:], axis=0)
    return {
        "seconds": float(seconds),
        "cpu_seconds": float(cpu_seconds),
        "mib": above,
        "dry_run": forecast(point, settings),
    }


def forecast(point: Point, settings: TrainSettings) -> dict:
    """What a dry run says of the same step, by processor seconds as all here."""
    plan = plan_of(point)
    sizes = {"num_channels": point.channels, "num_outputs": point.classes}
    mib = step_bytes(plan.network, plan.patch_size, plan.batch_size, **sizes) / MIB
    with patch("time.perf_counter", time.process_time):
        return {"seconds": try_steps(plan, settings).seconds, "mib": mib}


class Model(NamedTuple):
    """fixed + voxels in the batch x (each + per channel x channels + per class x classes)."""

    fixed: float
    voxel: float
    voxel_channel: float
    voxel_class: float

    @classmethod
    def fitted(cls, points: Sequence[Point], values: Sequence[float]) -> Model:
        """With the smallest mean square of relative errors."""
        rows = np.array([cls.terms(point) for point in points])
        scale = np.array(values)
        found, *_ = np.linalg.lstsq(rows / scale[:, None], np.ones(len(points)), rcond=None)
        return cls(*map(float, found))

    @staticmethod
    def terms(point: Point) -> tuple[float, ...]:
        return 1.0, point.voxels, point.voxels * point.channels, point.voxels * point.classes

    def of(self, point: Point) -> float:
        return float(np.dot(self, self.terms(point)))

    def errors(self, points: Sequence[Point], values: Sequence[float]) -> dict[str, float]:
        """How far off it is, in shares of what was measured."""
        off = [abs(self.of(point) / value - 1) for point, value in zip(points, values, strict=True)]
        return {"mean": round(float(np.mean(off)), 3), "worst": round(max(off), 3)}


def modelled(rows: dict[Point, dict]) -> dict:
    """Fitted to the axes, tried on what no axis holds."""
    taught = [point for point in rows if point not in UNSEEN]
    result = {}
    for key in ("cpu_seconds", "mib"):
        values = {point: row[key]["median"] for point, row in rows.items()}
        model = Model.fitted(taught, [values[point] for point in taught])
        result[key] = {
            "fixed": float(f"{model.fixed:.3g}"),
            "per_million_voxels": {
                name: float(f"{value * 1e6:.3g}")
                for name, value in zip(("each", "per_channel", "per_class"), model[1:], strict=True)
            },
            "error_where_fitted": model.errors(taught, [values[point] for point in taught]),
            "error_elsewhere": model.errors(UNSEEN, [values[point] for point in UNSEEN]),
        }
    return result


def beside_forecast(runs: list[dict]) -> dict:
    """What a dry run foretells, and how many times what was measured that is."""
    keys = {"seconds": "cpu_seconds", "mib": "mib"}
    told = {key: float(np.median([run["dry_run"][key] for run in runs])) for key in keys}
    real = {key: float(np.median([run[own] for run in runs])) for key, own in keys.items()}
    return {
        **{key: round(value, 3) for key, value in told.items()},
        **{f"{key}_over_measured": round(told[key] / real[key], 2) for key in keys},
    }


def picture(result: dict) -> None:
    """Seconds and memory over each axis: measured, and as the model says."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, len(AXES), figsize=(11, 5), layout="constrained", sharex="col", sharey="row")
    colours = {"reduced": "#1f5fa8", "fp32": "#b4491f"}
    for column, (axis, points) in zip(panels.T, AXES.items(), strict=True):
        for precision, found in result["precisions"].items():
            rows = {Point(*row["point"]): row for row in found["points"]}
            xs = [point.edge if axis == "patch" else getattr(point, axis) for point in points]
            for panel, key in zip(column, ("cpu_seconds", "mib"), strict=True):
                told = found["model"][key]
                model = Model(told["fixed"], *(number / 1e6 for number in told["per_million_voxels"].values()))
                measured_here = [rows[point][key]["median"] for point in points]
                panel.plot(xs, measured_here, "o", color=colours[precision], label=found["dtype"])
                panel.plot(xs, [model.of(point) for point in points], "-", color=colours[precision], lw=1)
        column[1].set_xlabel({"patch": "voxels a side of the patch", "batch": "patches a step"}.get(axis, axis))
        for panel in column:
            panel.grid(visible=True, alpha=0.25)
            panel.set_ylim(bottom=0)
    panels[0, 0].set_ylabel("processor seconds a step")
    panels[1, 0].set_ylabel("MiB beside the libraries")
    panels[0, 2].legend(title="dots measured, lines the model", frameon=False, loc="upper left")
    figure.savefig(PICTURE, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precisions", nargs="+", choices=("reduced", "fp32"), default=["reduced", "fp32"])
    parser.add_argument("--picture", action="store_true", help="only draw what was measured")
    options = parser.parse_args()
    if options.picture:
        picture(json.loads((RESULTS / "cost.json").read_text(encoding="utf-8")))
        return
    points = list(dict.fromkeys([*(point for axis in AXES.values() for point in axis), *UNSEEN]))
    device = pick_device("auto")
    dtypes = {"reduced": amp_dtype(device, enabled=True), "fp32": None}
    precisions = {}
    for precision in [name for name in options.precisions if dtypes[name] or name == "fp32"]:
        runs: dict[Point, list[dict]] = {point: [] for point in points}
        for _ in range(options.rounds):
            for point, found in runs.items():
                print(precision, point, flush=True)
                found.append(forked(cost, point, TrainSettings(amp=precision == "reduced"), options.steps))
        rows = {point: both(found) | {"mib": spread([run["mib"] for run in found])} for point, found in runs.items()}
        precisions[precision] = {
            "dtype": str(dtypes[precision] or torch.float32).removeprefix("torch."),
            "model": modelled(rows),
            "points": [{"point": point, **row, "dry_run": beside_forecast(runs[point])} for point, row in rows.items()],
        }
    result = {
        "what": f"a training step of a plain U-Net of features {FEATURES}; points are (voxels a side, patches, "
        "channels, classes with the background); seconds of a step, MiB beside Python and its libraries",
        "device": str(device),
        "precisions": precisions,
    }
    write_result("cost", result)
    picture(json.loads((RESULTS / "cost.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
