"""A volume in, an answer on the same grid out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medseg.core.errors import ModelError
from medseg.core.prediction import Prediction
from medseg.core.volume import LabelMap
from medseg.data.patches import crop, view_start
from medseg.engine.backends import Backends, Segment
from medseg.engine.case_run import CaseRun
from medseg.engine.devices import amp_dtype, autocast, pick_device, place
from medseg.nn.build import build_network
from medseg.ops.prepare import label_values, to_network
from medseg.ops.restore import probabilities_to_source, to_source
from medseg.ops.sliding import count_windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from medseg.core.settings import InferSettings
    from medseg.core.volume import Volume
    from medseg.io.bundle import Bundle
    from medseg.nn.network import Network
    from medseg.ops.prepare import Prepared


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
        watch = _Watch(start)
        watch.lap("prepare")
        labels, probabilities = None, None
        run, led = self._start(prepared)
        with torch.inference_mode(), autocast(self.device, self._dtype):
            if plan.num_outputs:
                logits: Iterable[Tensor] = watch.timed(run.slabs(), "network")
                if self.settings.save_probabilities:
                    logits = list(logits)
                    regions = bool(plan.regions)
                    probabilities = probabilities_to_source(logits, led, num_outputs=plan.num_outputs, regions=regions)
                indices = to_source(logits, led, paint_order=plan.paint_order)
                labels = LabelMap(label_values(indices, plan), volume.geometry)
            watch.lap("export")
            classes = run.classes()
            watch.lap("network")
        return Prediction(labels, classes, probabilities, watch.seconds, self._backends.name)

    def forward(self, windows: Tensor, *, num_windows: int) -> None:
        """Segment (B, C, *patch) once, on the backend that so many windows would be given to, to measure it."""
        for segment in self._backends.segments(windows[:1].to(self.device), num_windows):
            segment(windows.to(self.device))

    def _start(self, prepared: Prepared) -> tuple[CaseRun, Prepared]:
        """The case ready to run, and as its slabs will come: along the axis that holds most windows."""
        image, plan = prepared.image.to(self.device), self.bundle.plan
        lengths = [length / size for length, size in zip(image.shape[1:], plan.patch_size, strict=True)]
        lead = lengths.index(max(lengths))
        segments: Sequence[Segment] = ()
        if plan.num_outputs:
            start = view_start(np.array(image.shape[1:]) / 2, plan.patch_size)
            num_windows = count_windows(image.shape[1:], plan.patch_size, self.settings.overlap)
            copies = 2 ** len(plan.mirror_axes) if self.settings.tta else 1
            segments = self._backends.segments(crop(image, start, plan.patch_size)[None], num_windows * copies)
        run = CaseRun(
            self._networks,
            image,
            plan,
            segments=segments,
            overlap=self.settings.overlap,
            tta=self.settings.tta,
            lead=lead,
        )
        return run, prepared.led_by(lead)


class _Watch:
    """Seconds by part of the work."""

    def __init__(self, start: float) -> None:
        self._last = start
        self._seconds: dict[str, float] = {}

    @property
    def seconds(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in self._seconds.items()}

    def lap(self, name: str) -> None:
        """Count the time since the last lap."""
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    def timed(self, parts: Iterable[Tensor], name: str) -> Iterator[Tensor]:
        """Count the time that each part takes to arrive; what is done with it belongs to the next lap."""
        for part in parts:
            self.lap(name)
            yield part
            self.lap("export")


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
