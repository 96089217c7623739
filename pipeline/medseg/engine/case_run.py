"""One case through the networks: logits slab by slab, then one diagnosis."""

from __future__ import annotations

import math
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medseg.core.errors import ModelError
from medseg.data.crop import crop
from medseg.data.patches import tile_starts, view_start, whole_view
from medseg.engine.members import combined, mean_classes
from medseg.engine.segment import PartedSegment
from medseg.engine.thrift import Thrift
from medseg.ops.blank import blank_values, is_blank
from medseg.ops.sliding import WindowGrid, sliding_slabs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from medseg.core.answering import Combination
    from medseg.core.geometry import Shape
    from medseg.core.plan import Plan
    from medseg.engine.segment import Segment

_CERTAIN = 10.0  # a logit
_PIECE_BYTES = 32 * 2**20  # of logits that are read from features, all classes together
_VOXELS_PER_CALL = {"cpu": 2 * 64**3, "cuda": 8 * 128**3, "mps": 128**3}


class Classifier(Protocol):
    """What says the classes of a case: a `Network`, or one that was exported."""

    def classify(
        self, views: Iterable[Tensor], probabilities: Tensor | None, clinical: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Class logits by head, and (1, 1) standardised by target, of a case.

        Its views are (1, C, *patch) each: one, whose segmentation (1, K, *patch) is known, or the tiles of all of it;
        `clinical` (1, width) where the plan has such columns.
        """
        ...


def windows_per_call(device: torch.device, patch_size: Shape) -> int:
    """How many windows of a case a network is given at once."""
    return max(1, _VOXELS_PER_CALL[device.type] // math.prod(patch_size))


class CaseRun:
    """One case on its way through the networks: first its logits, slab by slab, then its classes.

    The segmentation is stitched first, then the case is classified once: from one view under the stitched
    probabilities, or from tiles of its own where the head gathers what it reads from all over the case. The diagnosis
    is not an average over windows and does not depend on where they lie. The members of an ensemble answer together,
    with the mean of their logits or probabilities and of their class probabilities.

    Args:
        networks: In evaluation mode.
        image: (C, I, J, K) on the networks' device.
        plan: The model's.
        segments: The segmentation half of each network, or its `mirrored` mean.
        grid: Where the windows lie; voxels outside its box are background.
        thrift: How much speed is given up for memory.
        clinical: (width,) the plan's clinical columns of the case.
    """

    def __init__(
        self,
        networks: Sequence[Classifier],
        image: Tensor,
        plan: Plan,
        *,
        segments: Sequence[Segment],
        grid: WindowGrid,
        thrift: Thrift = Thrift.NONE,
        clinical: Tensor | None = None,
    ) -> None:
        self._networks, self._image, self._plan = networks, image, plan
        self._segments, self._grid = segments, grid
        self._clinical = clinical if plan.clinical else None
        self._window_batch = 1 if thrift >= Thrift.ONE_WINDOW else windows_per_call(image.device, plan.patch_size)
        self._stitch_on = torch.device("cpu") if thrift >= Thrift.STITCH_ON_CPU else image.device
        pools = plan.classification is not None and plan.num_outputs and not plan.classification.gathers
        pooled = plan.classification.pool_labels if plan.classification and pools else ()
        self._pooled = [plan.label_names.index(name) + 1 for name in pooled]
        shape = image.shape[1:] if self._pooled else (0, 0, 0)
        self._regions = torch.zeros((len(self._pooled), *shape), dtype=torch.float16, device=self._stitch_on)

        self._air = blank_values(plan.normalisation) if plan.skip_constant_windows else None
        self.windows = self.skipped = 0

    def slabs(self, combine: Combination = "logits", *, lead: int = 0) -> Iterator[Tensor]:
        """Yield consecutive (K, rows, J, K) of the grid's box along the leading axis, which comes first.

        Args:
            combine: What the members are averaged in.
            lead: The axis along which slabs follow one another.

        Raises:
            ModelError: E-NUMERIC.
        """
        box = tuple(slice(*ends) for ends in zip(*self._grid.box, strict=True))
        regions = self._regions[(slice(None), *box)].movedim(lead + 1, 1) if self._pooled else None
        in_pieces = any(isinstance(segment, PartedSegment) for segment in self._segments)
        stream, *others = (self._logits(segment, lead, in_pieces=in_pieces) for segment in self._segments)
        row = 0
        for one in stream:
            parts = [one, *(next(other) for other in others)]
            logits = combined(parts, how=combine, regions=bool(self._plan.regions)) if others else one
            if not _is_finite(logits):
                raise _not_finite()
            if regions is not None:
                regions[:, row : row + logits.shape[1]].copy_(torch.softmax(logits, dim=0)[self._pooled])
            row += logits.shape[1]
            yield logits
            del one, parts, logits  # else they would be held while the next are made

    def _logits(self, segment: Segment, lead: int, *, in_pieces: bool) -> Iterator[Tensor]:
        """One member's, (K, rows, J, K) along the leading axis; in pieces of few rows, all classes of which are held.

        Of a parted segment the features are blended, and the logits read from the blend.
        """
        certain = self._certain()
        blend, num_channels = segment, self._plan.num_outputs
        read: Callable[[Tensor], Tensor] = _as_it_is
        if isinstance(segment, PartedSegment):
            halves = segment if self._air is None else segment.knowing(certain)
            blend, num_channels, read = halves.features, halves.num_features, halves.read
            certain = functional.one_hot(torch.tensor(num_channels - 1), num_channels).float()
        for blended in sliding_slabs(
            self._image.movedim(lead + 1, 1),
            partial(_turned, partial(self._answer, blend, certain.to(self._image.device)), lead),
            grid=self._grid.led_by(lead),
            num_outputs=num_channels,
            blending=self._plan.blending,
            window_batch=self._window_batch,
            stitch_on=self._stitch_on,
        ):
            row_bytes = 4 * self._plan.num_outputs * blended[0, 0].numel()
            rows = max(1, _PIECE_BYTES // row_bytes) if in_pieces else blended.shape[1]
            pieces = list(torch.split(blended, rows, dim=1))
            del blended
            while pieces:
                yield read(pieces.pop(0))

    def _certain(self) -> Tensor:
        """(K,) logits of background without doubt."""
        certain = torch.full((self._plan.num_outputs,), -_CERTAIN)
        if not self._plan.regions:
            certain[0] = _CERTAIN
        return certain

    def _answer(self, segment: Segment, certain: Tensor, windows: Tensor) -> Tensor:
        """Of windows; those that hold nothing get the certain answer, without asking the network."""
        if self._air is None:
            self.windows += len(windows)
            return segment(windows)
        blank = is_blank(windows, self._air)
        self.windows, self.skipped = self.windows + len(windows), self.skipped + int(blank.sum())
        if not bool(blank.any()):
            return segment(windows)
        answers = certain.reshape(-1, 1, 1, 1).expand(len(windows), -1, *windows.shape[2:])
        if not bool(blank.all()):
            answers = answers.clone()
            answers[~blank] = segment(windows[~blank]).to(answers)
        return answers

    def classes(self) -> dict[str, dict[str, float]]:
        """Class probabilities by head; call after the last slab."""
        if self._plan.classification is None:
            return {}
        heads = self._plan.classification.heads
        return mean_classes(
            [
                {
                    head: dict(zip(names, torch.softmax(answers[head][0].float(), dim=0).tolist(), strict=True))
                    for head, names in heads.items()
                }
                for answers in self._diagnoses
            ]
        )

    def values(self) -> dict[str, float]:
        """By target, in its unit, the mean over the members; call after the last slab.

        Raises:
            ModelError: E-NUMERIC.
        """
        if self._plan.classification is None:
            return {}
        values = {
            name: target.in_unit(float(np.mean([float(answers[name][0, 0]) for answers in self._diagnoses])))
            for name, target in self._plan.classification.targets.items()
        }
        if not np.isfinite(list(values.values())).all():
            raise _not_finite()
        return values

    def views(self) -> tuple[Iterable[Tensor], Tensor | None]:
        """What a case is classified by: views (1, C, *patch), and what the one is pooled under, (1, K, *patch).

        Call after the last slab.
        """
        if self._plan.classification is not None and self._plan.classification.gathers:
            return self._tiles(), None
        view, probabilities = self._view()
        return (view,), probabilities

    def _tiles(self) -> Iterator[Tensor]:
        i, j, k = self._image.shape[1:]
        for start in tile_starts((i, j, k), self._plan.patch_size):
            yield crop(self._image, start, self._plan.patch_size)[None]

    def _view(self) -> tuple[Tensor, Tensor | None]:
        size, classification = self._plan.patch_size, self._plan.classification
        if not self._pooled or classification is None or classification.view == "whole":
            return whole_view(self._image, size)[None], None
        start = view_start(_centre(self._regions.sum(0, dtype=torch.float32)), size)
        view = crop(self._image, start, size)
        probabilities = torch.zeros((1, self._plan.num_outputs, *size), device=view.device)
        probabilities[0, self._pooled] = crop(self._regions, start, size).to(view.device, torch.float32)
        return view[None], probabilities

    @cached_property
    def _diagnoses(self) -> list[dict[str, Tensor]]:
        """What each member says of the case as a whole."""
        clinical = None if self._clinical is None else self._clinical[None].to(self._image.device)
        return [network.classify(*self.views(), clinical) for network in self._networks]


def _as_it_is(blended: Tensor) -> Tensor:
    return blended


def _is_finite(logits: Tensor) -> bool:
    """By their sum, which is found at once; only where it is not finite itself, number by number."""
    return bool(torch.isfinite(logits.sum())) or bool(torch.isfinite(logits).all())


def _not_finite() -> ModelError:
    return ModelError(
        "the network's answer is not finite",
        code="E-NUMERIC",
        remedy="Run again with --no-amp; if it stays, the input or the model is broken.",
    )


def _turned(segment: Segment, lead: int, windows: Tensor) -> Tensor:
    """A segment for windows whose leading axis was brought to the front."""
    return segment(windows.movedim(2, lead + 2)).movedim(lead + 2, 2)


def _centre(weight: Tensor) -> np.ndarray:
    """(3,) centre of the voxels above one half, or of everything by its weight when none is."""
    chosen = torch.where(weight > 0.5, 1.0, 0.0) if bool((weight > 0.5).any()) else weight + 1e-6
    total = chosen.sum()
    lines = [chosen.sum(tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    return np.array([float((line * torch.arange(len(line), device=line.device)).sum() / total) for line in lines])
