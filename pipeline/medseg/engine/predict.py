"""A volume in, an answer on the same grid out."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medseg.core.clinical import encode, remarks
from medseg.core.errors import ModelError, UsageError
from medseg.core.prediction import Prediction
from medseg.core.settings import InferSettings
from medseg.core.volume import LabelMap
from medseg.data.crop import crop
from medseg.data.patches import view_start
from medseg.engine.backends import Backends
from medseg.engine.case_run import CaseRun
from medseg.engine.channels import read_for, require_channels
from medseg.engine.devices import amp_dtype, autocast, freed_memory_kept, pick_device, place
from medseg.engine.members import mirrored, num_copies
from medseg.engine.region import foreground_box, region_of, widened
from medseg.engine.thrift import THRIFT_WORDS, Thrift, rungs_of, within_memory
from medseg.engine.watch import Watch
from medseg.io.bundle import networks_of, read_bundle
from medseg.io.memory import volume_from
from medseg.nn.build import build_network
from medseg.ops.calibration import at_temperatures
from medseg.ops.cleanup import cleaned
from medseg.ops.prepare import label_values, to_network
from medseg.ops.restore import to_source
from medseg.ops.sliding import WindowGrid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from medseg.core.geometry import Shape
    from medseg.core.plan import NetworkPlan
    from medseg.core.prediction import Region
    from medseg.core.volume import Volume
    from medseg.engine.segment import Segment
    from medseg.io.bundle import Bundle
    from medseg.nn.network import Network
    from medseg.ops.prepare import Prepared
    from medseg.ops.restore import ProbabilitySink


class Predictor:
    """A model on a device, ready for any number of volumes, from any number of threads (which take turns).

    As a context manager it gives the device's memory back at the end.

    Args:
        bundle: Read and verified by `read_bundle`, or its folder.
        settings: Overlap, mirroring, device, precision.
        describe: Also give what the classification head reads of each case.
    """

    def __init__(
        self, bundle: Bundle | Path | str, settings: InferSettings | None = None, *, describe: bool = False
    ) -> None:
        bundle = read_bundle(Path(bundle)) if isinstance(bundle, Path | str) else bundle
        settings = settings or InferSettings()
        self._turn = Lock()
        self._describe = describe
        # the networks hold the weights from here on
        self.bundle = replace(bundle, weights=())
        self.settings = settings
        self.device = pick_device(settings.device)
        self._dtype = amp_dtype(self.device, enabled=settings.amp)
        self._networks = [place(network, self.device) for network in load_networks(bundle)]
        key = " ".join(sorted(bundle.manifest.sha256.values()))
        self._rungs = rungs_of(self.device)
        self._backends = Backends(self._networks, settings.backend, dtype=self._dtype, key=key)

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        with self._turn:
            self._networks.clear()
            self._backends.clear()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def predict(
        self,
        image: Any,
        *,
        affine: ArrayLike | None = None,
        probabilities: ProbabilitySink | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Prediction:
        """Segment and classify one image.

        Args:
            image: A `Volume`, a path (or one per channel), a nibabel or SimpleITK image, or an array with its affine.
            affine: (4, 4) voxel indices to RAS+ mm, for an array.
            probabilities: Takes the probabilities slab by slab; without it they are in the answer, all in memory, when
                the settings ask for them.
            attributes: Clinical columns of the case, such as {"age": "63"}; those the model does not read are ignored.

        Raises:
            MedsegError: As `volume_from`; E-CLINICAL-VALUE for a word where the model knows numbers.
            ModelError: E-CHANNELS when the model expects another number of channels; E-NUMERIC when the network's
                answer is not finite.
            ResourceError: E-MEMORY when not even the CPU's memory holds the case.
        """
        channels = self.bundle.plan.channels
        with read_for(channels):
            volume = volume_from(image, affine=affine, reading=self.settings, channels=len(channels))
        with self._turn:
            start = time.perf_counter()
            prepared, file = self._prepared(volume), volume.source
            del volume  # the network needs the memory
            return self._predict(prepared, probabilities, attributes or {}, watch=Watch(start), file=file)

    def _prepared(self, volume: Volume) -> Prepared:
        if not self._networks:
            message = "this predictor was closed"
            raise UsageError(message, code="E-CLOSED", remedy="Predict inside its `with` block.")
        require_channels(volume, self.bundle)
        return to_network(volume, self.bundle.plan)

    def _predict(
        self,
        prepared: Prepared,
        sink: ProbabilitySink | None,
        attributes: Mapping[str, str],
        *,
        watch: Watch,
        file: Path | None,
    ) -> Prediction:
        plan = self.bundle.plan
        clinical = torch.tensor(encode(plan.clinical, attributes))
        watch.lap("prepare")
        answer, thrift = within_memory(
            lambda rung: self._answer(prepared, rung, watch, sink, clinical=clinical),
            self._rungs,
            shape=prepared.geometry.shape,
            file=file,
        )
        flags = [*remarks(plan.clinical, attributes)]
        flags += [] if thrift is Thrift.NONE else [f"W-MEMORY: {THRIFT_WORDS[thrift]}"]
        if self.settings.tta and not plan.mirror_axes:
            flags.append("W-NO-MIRROR: this model was trained without mirroring, so --tta had nothing to average")
        if answer.region is not None and not answer.region.found:
            flags.append("W-NO-REGION: the coarse pass found nothing, so the whole image was looked at closely")
        return replace(answer, flags=tuple(flags))

    def _answer(
        self, prepared: Prepared, thrift: Thrift, watch: Watch, sink: ProbabilitySink | None, *, clinical: Tensor
    ) -> Prediction:
        plan, answering, labels = self.bundle.plan, self.bundle.manifest.answering, None
        is_kept = sink is None and self.settings.save_probabilities and plan.num_outputs > 0
        kept = _InMemory(plan.num_outputs, prepared.source.shape) if is_kept else None
        lead = _leading(prepared.image.shape[1:], plan.patch_size)
        run, led, region = self._start(prepared, thrift, clinical=clinical)
        watch.lap("region" if self.settings.roi else "network")
        # the other backends have a memory of their own, and would only lie beside what is kept here
        in_torch = self._backends.name in {"torch", "compiled"}
        # The way back is in fp32: reduced precision would decide close calls by rounding.
        with torch.inference_mode(), freed_memory_kept(self.device) if in_torch else nullcontext():
            if plan.num_outputs:
                logits: Iterable[Tensor] = watch.timed(run.slabs(answering.combine, lead=lead), "network")
                indices = to_source(logits, led, paint_order=plan.paint_order, probabilities=sink or kept)
                voxel_volume_mm3 = prepared.source.voxel_volume_mm3
                values = label_values(indices, plan)
                values = cleaned(values, plan.labels, answering.cleanup, voxel_volume_mm3=voxel_volume_mm3)
                labels = LabelMap(values, prepared.source)
            watch.lap("export")
            with autocast(self.device, self._dtype):
                classes = at_temperatures(run.classes(), answering.temperatures)
                features = self._features(run, clinical) if self._describe and plan.classification else None
            watch.lap("network")
        return Prediction(
            labels,
            classes,
            kept.array if kept else None,
            watch.seconds,
            self._backends.name,
            features=features,
            windows=run.windows,
            skipped_windows=run.skipped,
            region=region,
            values=run.values(),
        )

    def _features(self, run: CaseRun, clinical: Tensor) -> NDArray[np.float32]:
        parts = [network.describe(*run.views(), clinical[None])[0] for network in self._networks]
        return np.concatenate([part.float().cpu().numpy() for part in parts])

    def forward(self, windows: Tensor, *, num_windows: int) -> None:
        """Segment (B, C, *patch) once, on the backend that so many windows would be given to, to measure it."""
        for segment in self._backends.segments(windows[:1].to(self.device), num_windows):
            segment(windows.to(self.device))

    def _start(
        self, prepared: Prepared, thrift: Thrift, *, clinical: Tensor | None = None
    ) -> tuple[CaseRun, Prepared, Region | None]:
        """The case ready to run, the part of it whose slabs will come, and as they come.

        Without a region of interest, or when the coarse pass finds nothing, that is all of it.
        """
        device = torch.device("cpu") if thrift is Thrift.CPU else self.device
        networks = [network.to(device) for network in self._networks]
        image, plan, settings = prepared.image.to(device), self.bundle.plan, self.settings
        lead = _leading(image.shape[1:], plan.patch_size)
        full = grid = WindowGrid.over(image.shape[1:], plan.patch_size, settings.overlap)
        segments: Sequence[Segment] = ()
        region = None
        if plan.num_outputs:
            start = view_start(np.array(image.shape[1:]) / 2, plan.patch_size)
            copies = num_copies(plan, mirror=settings.tta)
            segments = self._backends.segments(crop(image, start, plan.patch_size)[None], full.count * copies)
            coarse = WindowGrid.over(image.shape[1:], plan.patch_size, 0.0)
            if settings.roi and coarse.count < full.count * copies:
                silent = plan.model_copy(update={"classification": None})
                look = CaseRun((), image, silent, segments=segments, grid=coarse, thrift=thrift)
                box = foreground_box(
                    look.slabs(self.bundle.manifest.answering.combine, lead=lead), lead=lead, regions=bool(plan.regions)
                )
                if box is not None:
                    grid = full.touching(widened(box, prepared.geometry, settings.roi_margin_mm))
                region = region_of(prepared, coarse, full, grid, found=box is not None, members=len(segments))
            segments = [mirrored(segment, plan) for segment in segments] if settings.tta else segments
        run = CaseRun(networks, image, plan, segments=segments, grid=grid, thrift=thrift, clinical=clinical)
        return run, prepared.cropped(grid.box).led_by(lead), region


def _leading(shape: Sequence[int], size: Shape) -> int:
    """The axis along which most windows lie."""
    lengths = [length / side for length, side in zip(shape, size, strict=True)]
    return lengths.index(max(lengths))


class _InMemory:
    """Probabilities for Python: (K, I, J, K) float16."""

    def __init__(self, num_channels: int, shape: Shape) -> None:
        self.array = np.zeros((num_channels, *shape), np.float16)

    def begin(self, _chunk: Shape) -> None:
        self.array[...] = 0

    def write(self, channel: int, start: Shape, block: NDArray[np.float16]) -> None:
        box = tuple(slice(first, first + size) for first, size in zip(start, block.shape, strict=True))
        self.array[channel][box] = block


def load_networks(bundle: Bundle) -> list[Network]:
    """The members of a bundle, on the CPU, in evaluation mode.

    Raises:
        ModelError: E-WEIGHTS.
    """
    members = zip(bundle.weights, networks_of(bundle), strict=True)
    return [_load(bundle, weights, network).eval() for weights, network in members]


def _load(bundle: Bundle, weights: dict[str, Tensor], plan: NetworkPlan) -> Network:
    network = build_network(bundle.plan.model_copy(update={"network": plan}))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        made = bundle.manifest.provenance
        raise ModelError(
            f"the weights are laid out otherwise than this medseg ({version('medseg')}) builds the network: the model "
            f"was made by another version of it ({made.medseg_version}, on {made.created[:10]})",
            code="E-WEIGHTS",
            file=bundle.folder,
            remedy="Train it again, or use it with the version that made it.",
        ) from error
    return network
