"""What `medseg infer` would do, and what it would cost (`--dry-run`)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from medseg.core.errors import MedsegError
from medseg.core.forecast import Forecast
from medseg.core.geometry import Geometry
from medseg.core.progress import Progress, silent
from medseg.engine.channels import read_for
from medseg.engine.members import num_copies
from medseg.engine.predict import Predictor
from medseg.engine.segment import num_blended
from medseg.io.bundle import read_bundle
from medseg.io.contained import contained
from medseg.io.volumes import read_volumes
from medseg.ops.blank import blank_windows
from medseg.ops.prepare import network_shape
from medseg.ops.sliding import WindowGrid
from medseg.workflows.inputs import collect_inputs, with_clinical

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from medseg.core.plan import Plan
    from medseg.core.settings import InferSettings
    from medseg.core.volume import Volume
    from medseg.workflows.infer import Request

_MIB = 2**20
_LOADED_MIB = 500  # Python, libraries and model
_LAYERS_AT_ONCE = 5  # at the finest scale, as measured: a convolution's output, its input of two, and what it needs
_BYTES_OF_MASK = 3  # and of what is made of it while it is written


@dataclass(frozen=True)
class _Work:
    """Of one case, or of several.

    Attributes:
        windows: Of the run.
        blank: Of these, about how many hold nothing and need no network.
        coarse: Windows of the pass that finds the region of interest.
        network_voxels: On the network grid, of the largest case.
        blended_voxels: Of these, how many are held while windows are blended.
        source_bytes: Of the largest image with its mask.
    """

    windows: int = 0
    blank: int = 0
    coarse: int = 0
    network_voxels: int = 0
    blended_voxels: int = 0
    source_bytes: int = 0

    def __add__(self, other: _Work) -> _Work:
        return _Work(
            self.windows + other.windows,
            self.blank + other.blank,
            self.coarse + other.coarse,
            max(self.network_voxels, other.network_voxels),
            max(self.blended_voxels, other.blended_voxels),
            max(self.source_bytes, other.source_bytes),
        )


def forecast_infer(request: Request, *, out: Path, progress: Progress = silent) -> Forecast:
    """Cases, windows, time from one measured window, and memory of the largest case.

    Raises:
        MedsegError: When no case can be read; what cannot be read among others is a row.
    """
    model, settings = read_bundle(request.bundle), request.settings
    plan = model.plan
    cases = collect_inputs(request.volumes, request.folder, num_channels=len(plan.channels), split=request.split)
    cases = with_clinical(cases, plan.clinical, request.attributes)
    predictor = Predictor(model, settings)
    total = _Work()
    unread: list[MedsegError] = []
    with contained(settings):
        for case in progress(cases, "reading cases", len(cases)):
            try:
                with read_for(plan.channels):
                    reading = settings.over(case.reading)
                    image = read_volumes(case.images, reading, channels=len(plan.channels), missing=case.missing)
            except MedsegError as error:  # of the run, too, only this case would fail
                if len(cases) == len(unread) + 1:
                    raise
                unread.append(error)
                continue
            total += _work(image, plan, settings)
    run = total.windows - total.blank
    copies = num_copies(plan, mirror=settings.tta)
    each_s = copies * _window_s(predictor, plan, copies * run)
    size = "x".join(map(str, plan.patch_size))
    rows = [
        ("model", model.manifest.name),
        ("device", str(predictor.device)),
        ("cases", str(len(cases))),
        ("windows", f"{total.windows} of {size} voxels"),
    ]
    if copies > 1:
        rows.append(("mirrored copies", f"{copies} of every window"))
    if unread:
        rows.append(("cases that cannot be read", f"{len(unread)}; the first: [{unread[0].code}] {unread[0].message}"))
    if plan.skip_constant_windows:
        rows.append(("of these left out", f"about {total.blank}, which hold nothing"))
    if total.coarse:
        rows.append(("first pass", f"{total.coarse} windows; it spares those that do not touch what it finds"))
        time_s = f"{total.coarse * each_s:,.0f} to {(total.coarse + run) * each_s:,.0f} s"
    else:
        time_s = f"about {run * each_s:,.0f} s"
    rows += [
        ("time in the network", time_s),
        ("memory for the largest case", f"about {_mib(total, plan):,.0f} MiB"),
        ("out", str(out)),
    ]
    return Forecast(rows=tuple(rows))


def _work(volume: Volume, plan: Plan, settings: InferSettings) -> _Work:
    """Counted on the image as it is, without bringing it onto the network grid."""
    image, grid = _as_the_plan_turns_it(volume, plan)
    shape = network_shape(grid, plan.spacing_mm)
    size, patch = np.array(shape), np.array(plan.patch_size)
    lead = int((size / patch).argmax())
    blended = size.prod() // size[lead] * min(size[lead], 2 * patch[lead])
    room = int(size.prod()), int(blended), volume.array.nbytes + _BYTES_OF_MASK * int(np.prod(volume.geometry.shape))
    if not plan.labels:
        return _Work(1, 0, 0, *room)
    full = WindowGrid.over(shape, plan.patch_size, settings.overlap)
    blank = blank_windows(image, full, plan.normalisation) if plan.skip_constant_windows else 0
    coarse = WindowGrid.over(shape, plan.patch_size, 0.0).count if settings.roi else 0
    return _Work(full.count, blank, coarse if coarse < full.count else 0, *room)


def _mib(work: _Work, plan: Plan) -> float:
    """Of the whole process: what is always there, one window in the network, the blended rows, image and mask."""
    window = int(np.prod(plan.patch_size))
    values = (
        _LAYERS_AT_ONCE * plan.network.features[0] * window
        + num_blended(plan.network, plan.num_outputs) * (work.blended_voxels + window)
        + len(plan.channels) * work.network_voxels
    )
    return _LOADED_MIB + (4 * values + work.source_bytes) / _MIB


def _as_the_plan_turns_it(volume: Volume, plan: Plan) -> tuple[NDArray[np.generic], Geometry]:
    """The voxels with their axes in the plan's orientation, cropped as the plan crops, and their grid."""
    image, grid = volume.array, volume.geometry
    if plan.orientation != "stored":
        order, flips = grid.canonical_axes()
        image = np.flip(image.transpose(0, *(axis + 1 for axis in order)), tuple(axis + 1 for axis in flips))
        grid = grid.canonical()
    if plan.crop == "nonzero" and image.any():
        plane = (image != 0).any(axis=0)
        lines = [np.flatnonzero(plane.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        start, stop = [int(line[0]) for line in lines], [int(line[-1]) + 1 for line in lines]
        image = image[(slice(None), *(slice(*ends) for ends in zip(start, stop, strict=True)))]
        grid = grid.cropped(start, stop)
    return image, grid


def _window_s(predictor: Predictor, plan: Plan, num_windows: int) -> float:
    """Seconds of one window; the second, without what only the first one does."""
    window = torch.randn(1, len(plan.channels), *plan.patch_size, generator=torch.Generator().manual_seed(0))
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        predictor.forward(window, num_windows=num_windows)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
