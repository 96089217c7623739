"""Sliding windows: MONAI's `sliding_window_inference` and medseg's, the same network, torch on the same device.

All in turn: the blending alone (a network that costs nothing, 25 classes); then the network, by both tools in fp32 and
in the reduced precision that the device gains from, and by medseg through `torch.compile` (`--backend compiled`). As
they come, MONAI runs it in fp32 and medseg reduced. medseg keeps what a window frees for the next one, as its
`Predictor` does, and lets go of each slab, as its export does. Writes blending.json and sliding.json in
benchmarks/results.

    python benchmarks/bench_sliding.py [--rounds 3] [--only blending]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from large_case import both, ratio, write_result
from monai.inferers import sliding_window_inference
from torch import Tensor

from medseg.core.plan import NetworkPlan, Normalisation, Plan
from medseg.engine.backends import Backends, Segment, torch_segment
from medseg.engine.devices import amp_dtype, autocast, freed_memory_kept, pick_device, place
from medseg.nn.build import build_network
from medseg.nn.network import Network
from medseg.ops.sliding import WindowGrid, sliding_slabs

WINDOW = (64, 64, 64)


def network(num_labels: int, features: tuple[int, ...]) -> Network:
    plan = Plan(
        dataset="sliding",
        channels=("CT",),
        labels={f"label_{value}": value for value in range(1, num_labels + 1)},
        spacing_mm=(1.5, 1.5, 1.5),
        crop="none",
        normalisation=(Normalisation(scheme="fixed"),),
        coarse_axis=None,
        patch_size=WINDOW,
        batch_size=1,
        mirror_axes=(),
        network=NetworkPlan(
            features=features,
            strides=((1, 1, 1), *((2, 2, 2),) * (len(features) - 1)),
            kernels=((3, 3, 3),) * len(features),
            blocks=(2,) * len(features),
        ),
    )
    return build_network(plan, seed=0).eval()


Slabs = Callable[[], Iterator[Tensor]]


def monai(image: Tensor, predict: Callable[[Tensor], Tensor], window_batch: int) -> Slabs:
    """All in one."""

    def run() -> Iterator[Tensor]:
        yield sliding_window_inference(
            image[None], WINDOW, window_batch, predict, overlap=0.5, mode="gaussian", sigma_scale=0.125
        )[0]

    return run


def medseg(image: Tensor, predict: Callable[[Tensor], Tensor], window_batch: int) -> Slabs:
    """One after the other."""
    grid = WindowGrid.over(image.shape[1:], WINDOW, 0.5)
    num_outputs = predict(image[None, :, :64, :64, :64]).shape[1]

    def run() -> Iterator[Tensor]:
        with freed_memory_kept(image.device):
            yield from sliding_slabs(image, predict, grid=grid, num_outputs=num_outputs, window_batch=window_batch)

    return run


def compiled(network: Network, image: Tensor, dtype: torch.dtype | None) -> Segment:
    """As `--backend compiled` makes it: compared with torch on one window."""
    (segment,) = Backends([network], "compiled", dtype=dtype, key="").segments(image[None, :, :64, :64, :64], 1)
    return segment


def in_turn(tools: dict[str, Slabs], rounds: int) -> tuple[dict, dict[str, Tensor]]:
    """Seconds of each tool, one after the other and again; and what each answered in a first round, uncounted."""
    runs: dict[str, list[dict]] = {name: [] for name in tools}
    with torch.inference_mode():
        answers = {name: torch.cat(list(run()), dim=1) for name, run in tools.items()}
        for _ in range(rounds):
            for name, run in tools.items():
                start, cpu = time.perf_counter(), time.process_time()
                for slab in run():
                    del slab
                runs[name].append({"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu})
    return {name: both(values) for name, values in runs.items()}, answers


def beside(found: dict, answers: dict[str, Tensor], first: str, second: str) -> dict:
    """How many times faster the second is, and how far the answers lie apart."""
    ours, theirs = answers[second], answers[first]
    return {
        "faster": ratio(found[first], found[second]),
        "relative_difference": float(f"{float((theirs - ours).norm() / theirs.norm()):.2g}"),
        "same_class": round(float((theirs.argmax(0) == ours.argmax(0)).float().mean()), 6),
    }


def blending(image: Tensor, rounds: int) -> None:
    weight = torch.randn(25, 1, 1, 1, generator=torch.Generator().manual_seed(0))

    def nothing(windows: Tensor) -> Tensor:
        return windows * weight

    found, answers = in_turn({"monai": monai(image, nothing, 1), "medseg": medseg(image, nothing, 1)}, rounds)
    what = "blending alone: 25 classes, 125 windows of 64^3, overlap .5, Gaussian; seconds of one volume"
    write_result("blending", {"what": what, **found, **beside(found, answers, "monai", "medseg")})


def whole(image: Tensor, rounds: int) -> None:
    device = pick_device("auto")
    reduced = amp_dtype(device, enabled=True)
    plain = network(3, (32, 64, 128, 256, 320, 320)).to(device)
    placed = place(network(3, (32, 64, 128, 256, 320, 320)), device)
    small = image[:, :96, :96, :64].to(device)  # 4 windows

    def as_it_is(windows: Tensor) -> Tensor:
        return plain(windows).logits[0]

    def with_autocast(windows: Tensor) -> Tensor:
        with autocast(device, reduced):
            return plain(windows).logits[0]

    with torch.inference_mode():
        tools = {
            "monai fp32": monai(small, as_it_is, 2),
            "medseg fp32": medseg(small, torch_segment(placed, None), 2),
            "monai reduced": monai(small, with_autocast, 2),
            "medseg reduced": medseg(small, torch_segment(placed, reduced), 2),
            "medseg fp32 compiled": medseg(small, compiled(placed, small, None), 2),
            "medseg reduced compiled": medseg(small, compiled(placed, small, reduced), 2),
        }
    found, answers = in_turn(tools, rounds)
    write_result(
        "sliding",
        {
            "what": "4 windows of 64^3, 2 at once, overlap .5, Gaussian; seconds of one volume",
            "device": str(device),
            "reduced": str(reduced),
            "network": found,
            "both in fp32": beside(found, answers, "monai fp32", "medseg fp32"),
            "both in reduced precision": beside(found, answers, "monai reduced", "medseg reduced"),
            "compiled beside eager, fp32": beside(found, answers, "medseg fp32", "medseg fp32 compiled"),
            "compiled beside eager, reduced": beside(found, answers, "medseg reduced", "medseg reduced compiled"),
            "each as it comes": beside(found, answers, "monai fp32", "medseg reduced"),
        },
    )


def main() -> None:
    parts = {"blending": blending, "network": whole}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=parts)
    asked = parser.parse_args()
    image = torch.randn(1, 192, 192, 192, generator=torch.Generator().manual_seed(0))  # 125 windows
    for name, part in parts.items():
        if asked.only in {None, name}:
            part(image, asked.rounds)


if __name__ == "__main__":
    main()
