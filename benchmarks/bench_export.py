"""The way back: logits on a 1.5 mm grid to a mask on the scan's own grid, nnU-Net's export and medseg's.

Needs nnunetv2. Every run is a process of its own; `above_mib` is the peak of its memory less what it held with the
logits in place. 25 classes to 512x512x300 are compared (`--small`: 256x256x150); for medseg alone the memory of 3 and
60 classes (with an allocator that gives back at once what is freed), the cost of 2 to 120 classes and of 64 to 1200
slices. Writes benchmarks/results/export.json and docs/pictures/export.png.

    python benchmarks/bench_export.py [--rounds 3] [--small]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from large_case import both, in_child, measured, ratio, spread, write_result

from medseg.core.geometry import Geometry
from medseg.ops.prepare import Prepared
from medseg.ops.restore import to_source

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "export.png"
SOURCE_MM, NETWORK_MM = (0.8, 0.8, 1.5), 1.5
# Else what making the logits left free counts for nothing, and what is freed on the way still counts.
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
CLASSES, SLICES = (2, 4, 8, 15, 30, 60, 120), (64, 150, 300, 600, 1200)


def scene(kind: str, classes: int, shape: tuple[int, ...]) -> tuple[torch.Tensor, Geometry, Geometry]:
    """Logits on the network grid, that grid, and the scan's.

    `organs`: for each class a ball of a sixth of the field in diameter, unsure at the edge. `parts`: the same, but the
    more classes the smaller, so that together they are always as large: one body divided more finely. `everywhere`:
    smooth noise, of which every class wins somewhere in every part; no organs lie like that.
    """
    source = Geometry.from_parts(shape, SOURCE_MM)
    size = tuple(round(n * mm / NETWORK_MM) for n, mm in zip(shape, SOURCE_MM, strict=True))
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(classes, *size)
    radius = min(size[:2]) * (1 / 12 if kind == "organs" else (classes - 1) ** (-1 / 3) / 3)
    for index, channel in enumerate(logits):  # one after the other, so that nothing larger is ever held
        if kind == "everywhere":
            coarse = torch.randn(1, 1, 8, 8, 8, generator=generator)
            channel.copy_(torch.nn.functional.interpolate(coarse, size, mode="trilinear", align_corners=False)[0, 0])
        elif index:
            centre = [float(torch.rand((), generator=generator)) * length for length in size]
            lines = [(torch.arange(length) - middle) ** 2 for length, middle in zip(size, centre, strict=True)]
            distance = (lines[0][:, None, None] + lines[1][:, None] + lines[2]).sqrt_()
            channel.copy_((distance.mul_(-1.5)).add_(1.5 * radius))
    return logits, source.resized(size), source


def ours(kind: str, classes: int, shape: tuple[int, ...]) -> tuple[dict, np.ndarray]:
    logits, grid, source = scene(kind, classes, shape)
    prepared = Prepared(torch.zeros(1, 1, 1, 1).expand(1, *grid.shape), None, grid, source)
    kept = []
    found = measured(lambda: kept.append(to_source([logits], prepared)) or {})
    return found, kept[0]


def theirs(kind: str, classes: int, shape: tuple[int, ...]) -> tuple[dict, np.ndarray]:
    """nnU-Net's resampling of probabilities as its plans ask for it, then its argmax."""
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    array = scene(kind, classes, shape)[0].numpy()
    kept = []

    def work() -> dict:
        full = resample_data_or_seg_to_shape(
            array, shape, (NETWORK_MM,) * 3, SOURCE_MM, is_seg=False, order=1, order_z=0, force_separate_z=None
        )
        kept.append(torch.from_numpy(full).argmax(0).to(torch.uint8).numpy())
        return {}

    return measured(work), kept[0]


def child(tool: str, kind: str, classes: str, shape: str, out: str) -> None:
    size = tuple(int(part) for part in shape.split("x"))
    found, mask = (theirs if tool == "nnunet" else ours)(kind, int(classes), size)
    if out != "none":
        np.save(out, mask)
    print(json.dumps(found))


def many(words: tuple, shape: tuple[int, ...], rounds: int, out: Path | str = "none") -> dict:
    """Args: words: tool, kind of logits, classes."""
    runs = [in_child(__file__, *words, "x".join(map(str, shape)), out) for _ in range(rounds)]
    return {**both(runs), "above_mib": spread([run["peak_mib"] - run["before_mib"] for run in runs])}


def picture(by_classes: dict[str, dict], by_slices: dict) -> None:
    """Seconds and memory over classes, one line for each kind of logits, and over slices."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(9, 5.2), layout="constrained", sharex="col")
    columns = (("classes", by_classes), ("slices of 256 x 256, 3 classes", {"every class everywhere": by_slices}))
    colours = {"every class everywhere": "#1f5fa8", "one body in more parts": "#b4491f"}
    for (upper, lower), (label, lines) in zip(panels.T, columns, strict=True):
        for name, found in lines.items():
            numbers = [int(number) for number in found]
            seconds = [row["cpu_seconds"]["median"] for row in found.values()]
            memory = [row["above_mib"]["median"] for row in found.values()]
            upper.plot(numbers, seconds, "o-", color=colours[name], label=name)
            lower.plot(numbers, memory, "o-", color=colours[name])
            if name == "every class everywhere":
                upper.plot(numbers, [seconds[-1] / numbers[-1] * n for n in numbers], "--", color="#888888")
        upper.set(ylabel="processor seconds", xscale="log", yscale="log")
        lower.set(xlabel=label, ylabel="MiB above the logits", ylim=(0, None))
        for axes in (upper, lower):
            axes.grid(visible=True, which="both", alpha=0.2)
        upper.legend(loc="upper left", frameon=False)
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    shape = (256, 256, 150) if options.small else (512, 512, 300)
    pairs: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        masks = {tool: Path(name, f"{tool}.npy") for tool in ("nnunet", "medseg")}
        for kind in ("organs", "everywhere"):
            found = {tool: many((tool, kind, 25), shape, options.rounds, path) for tool, path in masks.items()}
            first, second = (np.load(path) for path in masks.values())
            pairs[kind] = found | {
                "faster": ratio(found["nnunet"], found["medseg"]),
                "voxels_changed_share": float(f"{float((first != second).mean()):.2g}"),
                "memory_share": round(
                    found["medseg"]["above_mib"]["median"] / found["nnunet"]["above_mib"]["median"], 4
                ),
            }
    os.environ |= AT_ONCE
    memory = {str(count): many(("medseg", "organs", count), shape, options.rounds) for count in (3, 60)}
    for name in AT_ONCE:
        del os.environ[name]
    field = (256, 256)
    by_classes = {str(n): many(("medseg", "everywhere", n), (*field, 150), options.rounds) for n in CLASSES}
    by_parts = {str(n): many(("medseg", "parts", n), (*field, 150), options.rounds) for n in CLASSES}
    by_slices = {str(n): many(("medseg", "everywhere", 3), (*field, n), options.rounds) for n in SLICES}
    picture({"every class everywhere": by_classes, "one body in more parts": by_parts}, by_slices)
    write_result(
        "export",
        {
            "what": f"logits at 1.5 mm to a mask of {'x'.join(map(str, shape))}",
            "25 classes": pairs,
            "memory": memory
            | {"60 over 3": round(memory["60"]["above_mib"]["median"] / memory["3"]["above_mib"]["median"], 2)},
            "by classes, everywhere, 256x256x150": by_classes,
            "by classes, parts, 256x256x150": by_parts,
            "by slices, everywhere, 3 classes, 256x256xN": by_slices,
        },
    )


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
