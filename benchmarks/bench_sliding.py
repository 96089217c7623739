"""Sliding windows: MONAI's `sliding_window_inference` and medseg's, the same network, torch on the same device.

Three pairs, in turn: the blending alone (a network that costs nothing, 25 classes); the network in fp32 as users of
MONAI run it; and the network as each tool runs it as it comes (MONAI in fp32, medseg in the reduced precision that the
device gains from, channels last). Writes benchmarks/results/sliding.json.

    python benchmarks/bench_sliding.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from large_case import both, ratio, write_result
from monai.inferers import sliding_window_inference
from torch import Tensor

from medseg.core.plan import NetworkPlan, Normalisation, Plan
from medseg.engine.backends import torch_segment
from medseg.engine.devices import amp_dtype, pick_device, place
from medseg.nn.build import build_network
from medseg.ops.sliding import WindowGrid, sliding_slabs

WINDOW = (64, 64, 64)


def network(num_labels: int, features: tuple[int, ...]):
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


def compare(image: Tensor, pairs: dict[str, Callable[[Tensor], Tensor]], num_outputs: int, rounds: int) -> dict:
    """Seconds of each tool in turn, and how far the results lie apart.

    MONAI gives one array, medseg slabs, as its export takes them; they are put together outside the clock.
    """
    grid = WindowGrid.over(image.shape[1:], WINDOW, 0.5)

    def monai() -> list[Tensor]:
        return [
            sliding_window_inference(
                image[None], WINDOW, 1, pairs["monai"], overlap=0.5, mode="gaussian", sigma_scale=0.125
            )[0]
        ]

    def medseg() -> list[Tensor]:
        return list(sliding_slabs(image, pairs["medseg"], grid=grid, num_outputs=num_outputs))

    runs: dict[str, list[dict]] = {"monai": [], "medseg": []}
    answers = {}
    with torch.inference_mode():
        for number in range(rounds + 1):
            for tool, run in (("monai", monai), ("medseg", medseg)):
                start, cpu = time.perf_counter(), time.process_time()
                parts = run()
                took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
                if number:
                    runs[tool].append(took)
                answers[tool] = torch.cat(parts, dim=1)
                del parts
    apart = (answers["monai"] - answers["medseg"]).norm() / answers["monai"].norm()
    same = (answers["monai"].argmax(0) == answers["medseg"].argmax(0)).float().mean()
    found = {tool: both(values) for tool, values in runs.items()}
    return {
        **found,
        "faster": ratio(found["monai"], found["medseg"]),
        "relative_difference": float(f"{float(apart):.2g}"),
        "same_class": round(float(same), 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 192, 192, 192, generator=generator)  # 125 windows
    weight = torch.randn(25, 1, 1, 1, 1, generator=generator)

    def nothing(windows: Tensor) -> Tensor:
        return windows * weight[:, 0]

    device = pick_device("auto")
    plain = network(3, (32, 64, 128, 256, 320, 320)).to(device)
    placed = place(network(3, (32, 64, 128, 256, 320, 320)), device)
    fp32, reduced = torch_segment(placed, None), torch_segment(placed, amp_dtype(device, enabled=True))
    small = image[:, :96, :96, :96].to(device)  # 8 windows

    def as_it_is(windows: Tensor) -> Tensor:
        return plain(windows).logits[0]

    write_result(
        "sliding",
        {
            "what": "sliding windows of 64^3, overlap .5, Gaussian; seconds of one volume",
            "device": str(device),
            "blending alone, 25 classes, 125 windows": compare(
                image, {"monai": nothing, "medseg": nothing}, 25, rounds
            ),
            "network in fp32, 8 windows": compare(small, {"monai": as_it_is, "medseg": fp32}, 4, rounds),
            "network as each comes, 8 windows": compare(small, {"monai": as_it_is, "medseg": reduced}, 4, rounds),
        },
    )


if __name__ == "__main__":
    main()
