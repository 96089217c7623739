"""How the cost of `medseg infer` grows from file to file: with the slices of a CT, and with the classes of the model.

256x256xN int16 voxels of 0.8 x 0.8 x 1.5 mm, a plain U-Net of 16 to 160 features at 3 mm in windows of 64^3, torch.
Every run is a process of its own, from the image file to the mask file, without starting Python and loading the model;
its peak memory is all that the process ever held. The weights are fresh and know no organs, so organs are laid over the
network's answer, each in its own place, unsure at the edge, the more the smaller: one body divided more finely. That
costs less than the last convolution. `network` is the network alone, `blending` what is done with its windows until
they are one answer; stages are seconds of the processor. Writes benchmarks/results/growth.json and
docs/pictures/growth.png.

    python benchmarks/bench_growth.py [--rounds 1] [--slices 64 150 300 600 1200] [--classes 2 10 40 120]
    python benchmarks/bench_growth.py --picture          # draws the results again
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from unittest.mock import patch

import nibabel as nib
import numpy as np
import torch
from bench_memory import make_bundle, make_case
from large_case import RESULTS, both, forked, measured, spread, write_result

from medseg.core.geometry import Geometry
from medseg.core.settings import InferSettings
from medseg.engine.predict import Predictor, load_networks
from medseg.io.files import sha256_of
from medseg.io.volumes import read_volume, write_labels
from medseg.ops.prepare import network_shape
from medseg.ops.sliding import WindowGrid

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "growth.png"
PLANE, SPACING_MM, WINDOW, OVERLAP = (256, 256), 3.0, (64, 64, 64), 0.5
STAGES = {
    "read": "#888888", "prepare": "#2a9d8f", "network": "#1f5fa8", "blending": "#8e5ea2", "export": "#b4491f",
    "write": "#e0a030",
}  # fmt: skip
SURE = 6.0


class Organs:
    """What a taught network would answer: balls at fixed places of the network grid, one for each class.

    Windows come in the order of the grid, so that each is known by its number.
    """

    def __init__(self, shape: Sequence[int], classes: int) -> None:
        lead = int(np.argmax([length / side for length, side in zip(shape, WINDOW, strict=True)]))
        order = [lead, *(axis for axis in range(3) if axis != lead)]
        grid = WindowGrid.over(shape, WINDOW, OVERLAP).led_by(lead)
        self.count, self.seconds = grid.count, 0.0
        self._starts = self._in_turn(grid, order)
        random = np.random.default_rng(0)
        self._radius = min(shape[:2]) * (classes - 1) ** (-1 / 3) / 3
        self._centres = random.random((classes - 1, 3)) * shape

    @staticmethod
    def _in_turn(grid: WindowGrid, order: Sequence[int]) -> Iterator[np.ndarray]:
        for starts in product(*grid.starts):
            yield (np.array(starts) - grid.padding)[np.argsort(order)]

    def over(self, unet) -> None:
        """Let a network answer with them: its own fresh answer is shrunk to nearly nothing, and background."""
        encode, decode, last = unet.encode, unet.decode, unet.to_logits[-1]
        last.weight.data.mul_(0.01)
        last.bias.data.fill_(-SURE)[0] = 0
        began = 0.0

        def encoded(image: torch.Tensor) -> list[torch.Tensor]:
            nonlocal began
            began = time.process_time()
            return encode(image)

        def decoded(skips: list[torch.Tensor], *, all_scales: bool) -> list[torch.Tensor]:
            answers = decode(skips, all_scales=all_scales)
            for answer in answers[0]:
                self._lay_over(answer, next(self._starts))
            self.seconds += time.process_time() - began
            return answers

        unet.encode, unet.decode = encoded, decoded

    def _lay_over(self, answer: torch.Tensor, start: np.ndarray) -> None:
        for channel, centre in zip(answer[1:], self._centres - start, strict=True):
            low = np.maximum(np.floor(centre - self._radius - 4), 0).astype(int)
            high = np.minimum(np.ceil(centre + self._radius + 4), WINDOW).astype(int)
            if (low >= high).any():
                continue
            i, j, k = (
                torch.arange(first, last, dtype=torch.float32).sub_(float(middle)).square_()
                for first, last, middle in zip(low, high, centre, strict=True)
            )
            distance = (i[:, None, None] + j[:, None] + k).sqrt_()
            place = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
            channel[place] = (1.5 * (self._radius - distance)).clamp_(-SURE, SURE)


def infer(bundle: Path, image: Path, classes: int, out: Path) -> dict:
    stored = nib.load(image)
    grid = Geometry(stored.shape, stored.affine).canonical()
    organs = Organs(network_shape(grid, (SPACING_MM,) * 3), classes)

    def taught(model):
        networks = load_networks(model)
        organs.over(networks[0].unet)
        return networks

    with patch("medseg.engine.predict.load_networks", taught):
        predictor = Predictor(bundle, InferSettings(backend="torch", overlap=OVERLAP))

    def work() -> dict:
        start = time.process_time()
        volume = read_volume(image)
        read_s = time.process_time() - start
        # On a machine that others use too, seconds of the clock say little of short stages.
        with patch("time.perf_counter", time.process_time):
            answer = predictor.predict(volume)
        assert answer.windows == organs.count
        start = time.process_time()
        write_labels(answer.labels, out)
        stages = {"read": read_s, **answer.seconds, "write": time.process_time() - start}
        blending = {"network": organs.seconds, "blending": stages["network"] - organs.seconds}
        return {
            "stages_s": stages | blending,
            "windows": answer.windows,
            "labels": len(np.unique(answer.labels.array)),
        }

    return measured(work) | {"sha256": sha256_of(out)}


def row(runs: list[dict]) -> dict:
    assert len({run["sha256"] for run in runs}) == 1, "the same run gave two masks"
    return {
        **both(runs),
        "stages_s": {name: spread([run["stages_s"][name] for run in runs])["median"] for name in STAGES},
        "peak_mib": spread([run["peak_mib"] for run in runs]),
        **{key: runs[0][key] for key in ("windows", "labels", "sha256")},
    }


def straight(rows: dict[int, dict], key: str) -> dict:
    """A straight line through what `key` says over the slices, and what a million voxels cost at both ends."""
    slices, values = np.array(list(rows)), np.array([found[key]["median"] for found in rows.values()])
    slope, fixed = np.polyfit(slices, values, 1)
    left = values - (slope * slices + fixed)
    million = PLANE[0] * PLANE[1] / 1e6
    return {
        "per_million_voxels": float(f"{slope / million:.3g}"),
        "fixed": float(f"{fixed:.3g}"),
        "r2": round(1 - float(left @ left) / float(((values - values.mean()) ** 2).sum()), 5),
        "per_million_voxels_at_the_ends": [float(f"{values[end] / (slices[end] * million):.3g}") for end in (0, -1)],
    }


def picture(result: dict) -> None:
    """Seconds by stage, and memory, over slices and over classes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(9, 5.4), layout="constrained", sharex="col")
    columns = (("slices", "slices of 256 x 256, 3 classes"), ("classes", "classes, 256 x 256 x 300"))
    for (upper, lower), (what, label) in zip(panels.T, columns, strict=True):
        rows = {int(number): found for number, found in result[what].items()}
        tops = np.zeros(len(rows))
        for stage, colour in STAGES.items():
            seconds = np.array([found["stages_s"][stage] for found in rows.values()])
            upper.fill_between(list(rows), tops, tops + seconds, color=colour, label=stage, lw=0)
            tops = tops + seconds
        upper.plot(list(rows), tops, "o", color="black", ms=3)
        lower.plot(list(rows), [found["peak_mib"]["median"] for found in rows.values()], "o-", color="#333333")
        lower.set_xlabel(label)
        for axes in (upper, lower):
            axes.grid(visible=True, alpha=0.25)
            axes.set(ylim=(0, None), xlim=(0, None))
    panels[0, 0].set_ylabel("processor seconds")
    panels[1, 0].set_ylabel("MiB, the whole process")
    panels[0, 0].legend(loc="upper left", frameon=False)
    figure.savefig(PICTURE, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--slices", type=int, nargs="+", default=[64, 150, 300, 600, 1200])
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 10, 40, 120])
    parser.add_argument("--picture", action="store_true", help="only draw what was measured")
    options = parser.parse_args()
    if options.picture:
        picture(json.loads((RESULTS / "growth.json").read_text(encoding="utf-8")))
        return
    kinds = {**{("slices", n): (n, 3) for n in options.slices}, **{("classes", n): (300, n) for n in options.classes}}
    runs: dict[tuple[str, int], list[dict]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for num_slices in {slices for slices, _ in kinds.values()}:
            make_case(folder / f"{num_slices}.nii.gz", (*PLANE, num_slices))
        for classes in {classes for _, classes in kinds.values()}:
            names = tuple(f"organ {number}" for number in range(1, classes))
            make_bundle(folder / f"bundle{classes}", labels=names, spacing_mm=SPACING_MM)
        for _ in range(options.rounds):
            for kind, (num_slices, classes) in kinds.items():
                image, bundle = folder / f"{num_slices}.nii.gz", folder / f"bundle{classes}"
                runs[kind].append(forked(infer, bundle, image, classes, folder / "mask.nii.gz"))
    rows = {what: {n: row(runs[what, n]) for kind, n in kinds if kind == what} for what in ("slices", "classes")}
    few, many = rows["classes"][options.classes[0]], rows["classes"][options.classes[-1]]
    result = {
        "what": "medseg infer from file to file, 256x256xN, plain U-Net of 16 to 160 features at 3 mm, windows of "
        "64^3; stages in processor seconds",
        **{what: {str(number): found for number, found in found_by.items()} for what, found_by in rows.items()},
        "line over slices": {key: straight(rows["slices"], key) for key in ("seconds", "cpu_seconds", "peak_mib")},
        f"{options.classes[-1]} classes over {options.classes[0]}": {
            key: round(many[key]["median"] / few[key]["median"], 2) for key in ("seconds", "cpu_seconds", "peak_mib")
        },
    }
    write_result("growth", result)
    picture(json.loads((RESULTS / "growth.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
