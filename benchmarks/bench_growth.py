"""How the cost of `medseg infer` grows from file to file: with the slices of a CT, and with the classes of the model.

512x512xN int16 voxels of 0.8 x 0.8 x 1.5 mm, a plain U-Net of 16 to 160 features at 3 mm in windows of 64^3, torch;
classes on 256x256x300, with that network and with one of the usual size, 32 to 320 features at 1.6 mm in windows of
128^3. Every run is a process of its own, from the image file to the mask file, without starting Python and loading the
model; its peak memory is all that the process ever held. The weights are fresh and know no organs, so organs are laid
over the features that the last layer reads, each in its own place, unsure at the edge, the more the smaller: one body
divided more finely. What that costs is taken off. `network` is the network up to its last layer, `blending` that layer
and what is done with windows until they are one answer; stages are seconds of the processor. Writes
benchmarks/results/growth.json and docs/pictures/growth.png.

    python benchmarks/bench_growth.py [--rounds 1] [--slices 64 150 300 600 1200] [--classes 2 10 40 120] [--plane 512]
    python benchmarks/bench_growth.py --slices --kinds small --classes 2 120   # classes alone, with one network
    python benchmarks/bench_growth.py --picture                                # draws the results again
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
CLASSES_SHAPE, OVERLAP = (256, 256, 300), 0.5
STAGES = {
    "read": "#888888", "prepare": "#2a9d8f", "network": "#1f5fa8", "blending": "#8e5ea2", "export": "#b4491f",
    "write": "#e0a030",
}  # fmt: skip
UNLIKE = 0.6  # the cosine between the directions of two organs stays below


@dataclass(frozen=True)
class Kind:
    """A network, and how coarse it looks."""

    features: tuple[int, ...]
    window: tuple[int, int, int]
    spacing_mm: float


KINDS = {
    "small": Kind((16, 32, 64, 128, 160), (64, 64, 64), 3.0),
    "usual": Kind((32, 64, 128, 256, 320, 320), (128, 128, 128), 1.6),
}


class Organs:
    """What a taught network would find: balls at fixed places of the network grid, one for each class.

    They are laid over the features that the last layer reads: every organ has a direction of its own in them, which the
    last layer looks for. Windows come in the order of the grid, so that each is known by its number.
    """

    def __init__(self, shape: Sequence[int], classes: int, kind: Kind) -> None:
        lead = int(np.argmax([length / side for length, side in zip(shape, kind.window, strict=True)]))
        self._order = [lead, *(axis for axis in range(3) if axis != lead)]
        grid = WindowGrid.over(shape, kind.window, OVERLAP).led_by(lead)
        self.count, self.network_s, self.laying_s, self._began = grid.count, 0.0, 0.0, 0.0
        self._starts, self._window = product(*grid.starts), grid.size
        random = np.random.default_rng(0)
        self._directions = self._apart(random, classes - 1, kind.features[0])
        self._organ, self._strength = self._painted(random, shape, kind.window)

    @staticmethod
    def _apart(random: np.random.Generator, count: int, width: int) -> torch.Tensor:
        """Unit vectors of which no two are alike, after a row of zeros: of nothing."""
        found: list[np.ndarray] = []
        while len(found) < count:
            vector = random.normal(size=width)
            vector /= np.linalg.norm(vector)
            if all(vector @ other < UNLIKE for other in found):
                found.append(vector)
        return torch.from_numpy(np.array([np.zeros(width), *found])).float()

    def _painted(
        self, random: np.random.Generator, shape: Sequence[int], window: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Which organ every voxel of the padded grid shows, and how surely in parts of 255, less at its edge."""
        padding = [max(side - length, 0) // 2 for side, length in zip(window, shape, strict=True)]
        padded = [max(side, length) for side, length in zip(window, shape, strict=True)]
        organ, strength = np.zeros(padded, np.uint8), np.zeros(padded, np.uint8)
        count = len(self._directions) - 1
        radius = min(shape[:2]) * count ** (-1 / 3) / 3
        for number, middle in enumerate(random.random((count, 3)) * shape + padding, start=1):
            low = np.maximum(np.floor(middle - radius - 8), 0).astype(int)
            high = np.minimum(np.ceil(middle + radius + 8), padded).astype(int)
            place = tuple(slice(*ends) for ends in zip(low, high, strict=True))
            lines = zip(np.ogrid[place], middle, strict=True)
            distance = np.sqrt(sum((line - centre) ** 2 for line, centre in lines))
            sure = (255 * np.clip(0.625 + 0.1 * (radius - distance), 0, 1)).astype(np.uint8)
            mine = sure > strength[place]
            organ[place][mine], strength[place][mine] = number, sure[mine]
        led = [torch.from_numpy(array.transpose(self._order).copy()) for array in (organ, strength)]
        return led[0], led[1]

    def over(self, unet) -> None:
        """Let a network find them, and time what it does until its last layer."""
        last = unet.to_logits[-1]
        last.weight.data[:] = 16 * self._directions[:, :, None, None, None]
        last.bias.data.fill_(-10.0)[0] = 0

        def began(_module, _inputs) -> None:
            self._began = time.process_time()

        def laid(_module, _inputs, features: torch.Tensor) -> torch.Tensor:
            now = time.process_time()
            self.network_s += now - self._began
            found = torch.stack([self._shown(next(self._starts)) for _ in features]).to(features.dtype)
            self.laying_s += time.process_time() - now
            return found.movedim(-1, 1)

        unet.first.register_forward_pre_hook(began)
        unet.decoder[-1].register_forward_hook(laid)

    def _shown(self, start: Sequence[int]) -> torch.Tensor:
        """(*window, F) as the network sees the window."""
        place = tuple(slice(first, first + side) for first, side in zip(start, self._window, strict=True))
        back = [int(axis) for axis in np.argsort(self._order)]
        organ, strength = (array[place].permute(back) for array in (self._organ, self._strength))
        return self._directions[organ.int()].mul_((strength / 255)[..., None])


def infer(bundle: Path, image: Path, classes: int, kind: str, out: Path) -> dict:
    stored = nib.load(image)
    grid = Geometry(stored.shape, stored.affine).canonical()
    organs = Organs(network_shape(grid, (KINDS[kind].spacing_mm,) * 3), classes, KINDS[kind])

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
        rest_s = stages["network"] - organs.network_s - organs.laying_s
        return {
            "stages_s": stages | {"network": organs.network_s, "blending": rest_s},
            "windows": answer.windows,
            "labels": len(np.unique(answer.labels.array)),
        }

    found = measured(work)
    found["cpu_seconds"] -= organs.laying_s
    return found | {"sha256": sha256_of(out)}


def row(runs: list[dict]) -> dict:
    assert len({run["sha256"] for run in runs}) == 1, "the same run gave two masks"
    return {
        **both(runs),
        "stages_s": {name: spread([run["stages_s"][name] for run in runs])["median"] for name in STAGES},
        "peak_mib": spread([run["peak_mib"] for run in runs]),
        **{key: runs[0][key] for key in ("windows", "labels", "sha256")},
    }


def straight(rows: dict[int, dict], key: str, plane: int) -> dict:
    """A straight line through what `key` says over the slices, and what a million voxels cost at both ends."""
    slices, values = np.array(list(rows)), np.array([found[key]["median"] for found in rows.values()])
    slope, fixed = np.polyfit(slices, values, 1)
    left = values - (slope * slices + fixed)
    million = plane**2 / 1e6
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

    labels = {
        "slices": f"slices of {result['plane']} x {result['plane']}, 3 classes",
        "small": "classes, 16 to 160 features",
        "usual": "classes, 32 to 320 features",
    }
    drawn = [what for what in labels if result.get(what)]
    figure, panels = pyplot.subplots(
        2, len(drawn), figsize=(4 * len(drawn), 5.4), layout="constrained", sharex="col", squeeze=False
    )
    for (upper, lower), what in zip(panels.T, drawn, strict=True):
        rows = {int(number): found for number, found in result[what].items()}
        tops = np.zeros(len(rows))
        for stage, colour in STAGES.items():
            seconds = np.array([found["stages_s"][stage] for found in rows.values()])
            upper.fill_between(list(rows), tops, tops + seconds, color=colour, label=stage, lw=0)
            tops = tops + seconds
        upper.plot(list(rows), tops, "o", color="black", ms=3)
        lower.plot(list(rows), [found["peak_mib"]["median"] for found in rows.values()], "o-", color="#333333")
        lower.set_xlabel(labels[what])
        for axes in (upper, lower):
            axes.grid(visible=True, alpha=0.25)
            axes.set(ylim=(0, 1.05 * axes.dataLim.y1), xlim=(0, None))
    panels[0, 0].set_ylabel("processor seconds")
    panels[1, 0].set_ylabel("MiB, the whole process")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)
    figure.savefig(PICTURE, dpi=100)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--slices", type=int, nargs="*", default=[64, 150, 300, 600, 1200])
    parser.add_argument("--plane", type=int, default=512, help="voxels along both sides of a slice")
    parser.add_argument("--classes", type=int, nargs="*", default=[2, 10, 40, 120])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="networks for --classes")
    parser.add_argument("--picture", action="store_true", help="only draw what was measured")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.picture:
        picture(json.loads((RESULTS / "growth.json").read_text(encoding="utf-8")))
        return
    cases = {("slices", n): ((options.plane, options.plane, n), 3, "small") for n in options.slices}
    cases |= {(kind, n): (CLASSES_SHAPE, n, kind) for kind in options.kinds for n in options.classes}
    runs: dict[tuple[str, int], list[dict]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for shape in {shape for shape, *_ in cases.values()}:
            make_case(folder / f"{shape}.nii.gz", shape)
        for classes, kind in {(classes, kind) for _, classes, kind in cases.values()}:
            chosen, names = KINDS[kind], tuple(f"organ {number}" for number in range(1, classes))
            made = {"spacing_mm": chosen.spacing_mm, "features": chosen.features, "window": chosen.window}
            make_bundle(folder / f"{kind}{classes}", labels=names, **made)
        for _ in range(options.rounds):
            for case, (shape, classes, kind) in cases.items():
                arguments = folder / f"{kind}{classes}", folder / f"{shape}.nii.gz", classes, kind
                runs[case].append(forked(infer, *arguments, folder / "mask.nii.gz"))
    rows = {what: {n: row(runs[what, n]) for other, n in cases if other == what} for what, _ in cases}
    result: dict = {
        "what": "medseg infer from file to file: plain U-Net of 16 to 160 features at 3 mm in windows of 64^3, over "
        "the slices and (small) the classes; of 32 to 320 at 1.6 mm in windows of 128^3 (usual); stages in processor "
        "seconds",
        "plane": options.plane,
        **{what: {str(number): found for number, found in found_by.items()} for what, found_by in rows.items()},
    }
    measures = ("seconds", "cpu_seconds", "peak_mib")
    if len(options.slices) > 1:
        result["line over slices"] = {key: straight(rows["slices"], key, options.plane) for key in measures}
    for kind in options.kinds if options.classes else ():
        few, many = rows[kind][options.classes[0]], rows[kind][options.classes[-1]]
        result[f"{kind}: {options.classes[-1]} classes over {options.classes[0]}"] = {
            key: round(many[key]["median"] / few[key]["median"], 2) for key in measures
        }
    write_result("growth", result)
    picture(json.loads((RESULTS / "growth.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
