"""A volume in, an answer on the same grid out."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medseg.core.errors import ModelError
from medseg.core.prediction import Prediction
from medseg.core.volume import LabelMap
from medseg.data.patches import crop, view_start, whole_view
from medseg.engine.backends import Backends, Segment
from medseg.engine.devices import amp_dtype, autocast, pick_device, place
from medseg.nn.build import build_network
from medseg.ops.augment import Augmentation, swap_table
from medseg.ops.prepare import label_values, probabilities_to_source, to_network, to_source
from medseg.ops.sliding import count_windows, sliding_window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medseg.core.plan import ClassificationPlan, Plan
    from medseg.core.settings import InferSettings
    from medseg.core.volume import Volume
    from medseg.io.bundle import Bundle
    from medseg.nn.network import Network
    from medseg.ops.prepare import Prepared

_VOXELS_PER_CALL = {"cpu": 2 * 64**3, "cuda": 8 * 128**3, "mps": 128**3}


class Predictor:
    """A model on a device, ready for any number of volumes.

    Args:
        bundle: Read and verified by `read_bundle`.
        settings: Overlap, mirroring, device, precision.
    """

    def __init__(self, bundle: Bundle, settings: InferSettings) -> None:
        self.bundle = bundle
        self.settings = settings
        self.device = pick_device(settings.device)
        self._dtype = amp_dtype(self.device, enabled=settings.amp)
        self._networks = [place(_load(bundle, weights), self.device).eval() for weights in bundle.weights]
        key = " ".join(sorted(bundle.manifest.sha256.values()))
        self._backends = Backends(self._networks, settings.backend, dtype=self._dtype, key=key)

    def predict(self, volume: Volume) -> Prediction:
        """Segment and classify one volume.

        Args:
            volume: (C, I, J, K) in source units, on any grid.

        Raises:
            ModelError: E-CHANNELS when the model expects another number of channels; E-NUMERIC when the network's
                answer is not finite.
        """
        plan, start = self.bundle.plan, time.perf_counter()
        if volume.num_channels != len(plan.channels):
            raise ModelError(
                f"the model takes {len(plan.channels)} channel(s) ({', '.join(plan.channels)}), "
                f"the input has {volume.num_channels}",
                code="E-CHANNELS",
                file=volume.source,
                remedy="Give one --volume per channel, in this order.",
            )
        prepared = to_network(volume, plan)
        ready = time.perf_counter()
        logits, classes = self.run(prepared)
        answered = time.perf_counter()
        labels, probabilities = None, None
        if logits is not None:
            indices = to_source(logits, prepared, paint_order=plan.paint_order)
            labels = LabelMap(label_values(indices, plan), volume.geometry)
            if self.settings.save_probabilities:
                probabilities = probabilities_to_source(logits, prepared, regions=bool(plan.regions))
        seconds = {
            "prepare": ready - start,
            "network": answered - ready,
            "export": time.perf_counter() - answered,
        }
        return Prediction(labels, classes, probabilities, {name: round(value, 3) for name, value in seconds.items()})

    def forward(self, windows: Tensor, *, num_windows: int) -> None:
        """Segment (B, C, *patch) once, on the backend that so many windows would be given to, to measure it."""
        for segment in self._backends.segments(windows[:1].to(self.device), num_windows):
            segment(windows.to(self.device))

    def run(self, prepared: Prepared) -> tuple[Tensor | None, dict[str, dict[str, float]]]:
        """Logits (K, I, J, K) on the network grid, on the CPU, and class probabilities by head."""
        image, plan = prepared.image.to(self.device), self.bundle.plan
        segments: Sequence[Segment] = ()
        if plan.num_outputs:
            centre = np.array(image.shape[1:]) / 2
            example = crop(image, view_start(centre, plan.patch_size), plan.patch_size)[None]
            num_windows = count_windows(image.shape[1:], plan.patch_size, self.settings.overlap)
            segments = self._backends.segments(
                example, num_windows * (2 ** len(plan.mirror_axes) if self.settings.tta else 1)
            )
        with torch.inference_mode(), autocast(self.device, self._dtype):
            logits, classes = infer_case(
                self._networks,
                image,
                plan,
                segments=segments,
                overlap=self.settings.overlap,
                tta=self.settings.tta,
            )
        return None if logits is None else logits.cpu(), classes


def infer_case(
    networks: Sequence[Network],
    image: Tensor,
    plan: Plan,
    *,
    segments: Sequence[Segment],
    overlap: float,
    tta: bool = False,
) -> tuple[Tensor | None, dict[str, dict[str, float]]]:
    """Both answers for one case on the network grid; call inside inference mode and autocast.

    The segmentation is stitched first, then the case is classified once, from one view under the stitched
    probabilities: the diagnosis is not an average over windows and does not depend on where they lie.

    Args:
        networks: In evaluation mode; the members of an ensemble answer together, with the mean of their logits and of
            their class probabilities.
        image: (C, I, J, K) on the networks' device.
        plan: The model's.
        segments: The segmentation half of each network, from `Backends` or `torch_segment`.
        overlap: Of neighbouring windows.
        tta: Average over mirrored copies.
    """
    logits = None
    if plan.num_outputs:
        windows_per_call = max(1, _VOXELS_PER_CALL[image.device.type] // int(np.prod(plan.patch_size)))
        for segment in segments:
            answer = sliding_window(
                image,
                _mirrored(segment, plan) if tta else segment,
                window=plan.patch_size,
                num_outputs=plan.num_outputs,
                overlap=overlap,
                window_batch=windows_per_call,
            )
            logits = answer if logits is None else logits.add_(answer)
        logits = logits if logits is None else logits.div_(len(networks))
        if logits is not None and not bool(torch.isfinite(logits).all()):
            raise ModelError(
                "the network's answer is not finite",
                code="E-NUMERIC",
                remedy="Run again with --no-amp; if it stays, the input or the model is broken.",
            )
    if plan.classification is None:
        return logits, {}
    return logits, _mean_classes([_classify(network, image, logits, plan.classification, plan) for network in networks])


def _classify(
    network: Network, image: Tensor, logits: Tensor | None, classification: ClassificationPlan, plan: Plan
) -> dict[str, dict[str, float]]:
    if logits is None or classification.view == "whole":
        view, probabilities = whole_view(image, plan.patch_size), None
    else:
        scores = torch.softmax(logits, dim=0)
        pooled = [plan.label_names.index(name) + 1 for name in classification.pool_labels]
        start = view_start(_centre(scores[pooled].sum(0)), plan.patch_size)
        view = crop(image, start, plan.patch_size)
        probabilities = crop(scores, start, plan.patch_size)[None]
    answers = network.classify(view[None], probabilities)
    return {
        head: dict(zip(names, torch.softmax(answers[head][0].float(), dim=0).tolist(), strict=True))
        for head, names in classification.heads.items()
    }


def _mean_classes(answers: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Probabilities of each head and class, averaged over the members of an ensemble."""
    return {
        head: {name: sum(answer[head][name] for answer in answers) / len(answers) for name in probabilities}
        for head, probabilities in answers[0].items()
    }


def _load(bundle: Bundle, weights: dict[str, Tensor]) -> Network:
    network = build_network(bundle.plan)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            "the weights do not fit the plan beside them",
            code="E-WEIGHTS",
            file=bundle.folder,
            remedy="Use the folder as it was written.",
        ) from error
    return network


def _centre(weight: Tensor) -> np.ndarray:
    """(3,) centre of the voxels above one half, or of everything by its weight when none is."""
    chosen = torch.where(weight > 0.5, 1.0, 0.0) if bool((weight > 0.5).any()) else weight + 1e-6
    total = chosen.sum()
    lines = [chosen.sum(tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    return np.array([float((line * torch.arange(len(line), device=line.device)).sum() / total) for line in lines])


def _mirrored(segment: Segment, plan: Plan) -> Callable[[Tensor], Tensor]:
    """The mean over every mirrored copy; a left-right flip exchanges the labels of each pair."""
    table = swap_table(Augmentation.from_plan(plan).swaps)[: plan.num_outputs].long()

    def predict(windows: Tensor) -> Tensor:
        total, count = torch.zeros((), device=windows.device), 0
        for axes in _subsets(plan.mirror_axes):
            dims = [axis + 2 for axis in axes]
            answer = segment(windows.flip(dims)).float().flip(dims)
            total = total + (answer[:, table.to(answer.device)] if 0 in axes else answer)
            count += 1
        return total / count

    return predict


def _subsets(axes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for size in range(len(axes) + 1):
        yield from combinations(axes, size)
