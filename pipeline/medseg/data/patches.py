"""Which patch of which case a training step sees.

Patch k of step n is drawn from a generator seeded with (seed, n, k): there is no sampler state to save, a resumed run
sees what the uninterrupted one would have seen, and so do several processes that share the batch.

Shape legend: B batch, C channels, K network outputs, (I, J, K) voxels of the patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medseg.core.errors import UsageError
from medseg.core.plan import IGNORE_INDEX, MISSING_CLASS
from medseg.data.batch import Batch
from medseg.data.crop import crop_case
from medseg.ops.sliding import WindowGrid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medseg.core.geometry import Shape
    from medseg.core.plan import Plan
    from medseg.data.store import LoadedCase

_FOREGROUND_SHARE = 0.5
_JITTER = 0.1
_SHOWN = 0.8


class PatchSampler:
    """Draw batches from loaded cases.

    Half of the patches of a segmentation task are centred on a voxel of a label, each label of the dataset alike. With
    a classification head the other half are views: the patch (or the whole case) that the head will see at inference,
    drawn so that every class comes equally often. These carry classes and values, and so does any patch that shows most
    of what these are about. Where the head gathers what it reads all over a case, the patch beside a view is of that
    case, and the two tell its class together.

    Raises:
        UsageError: E-NOTHING-TO-LEARN when no case has a reference or a class.
    """

    def __init__(self, cases: Sequence[LoadedCase], plan: Plan, *, seed: int, channel_dropout: float = 0.0) -> None:
        self._cases = list(cases)
        self._channel_dropout = channel_dropout
        self._plan = plan
        self._seed = seed
        self._strata = _strata(self._cases, plan)
        if not self._strata and not any(case.labels.numel() for case in self._cases):
            raise UsageError(
                f"none of the {len(self._cases)} training cases has a reference mask, a known class or a value",
                code="E-NOTHING-TO-LEARN",
                remedy="Give cases a `label`, `classes` or `values` in the manifest, then preprocess again.",
            )
        shown = [set(case.foreground[:][:, 0].tolist()) for case in self._cases]
        self._by_label = [
            [number for number, labels in enumerate(shown) if index in labels] for index in range(1, plan.num_outputs)
        ]

    def __len__(self) -> int:
        return len(self._cases)

    def batch(self, step: int, slots: Sequence[int] | None = None) -> Batch:
        """The patches of one step, or of some of its slots; the same for the same step and slot."""
        slots = range(self._plan.batch_size) if slots is None else slots
        samples = [self._lacking(step, slot) for slot in slots]
        diagnosis = self._plan.classification
        told = [sample.case.entry if sample.tells else None for sample in samples]
        classes = {
            head: torch.tensor([entry.classes.get(head, MISSING_CLASS) if entry else MISSING_CLASS for entry in told])
            for head in (diagnosis.heads if diagnosis else {})
        }
        values = {
            name: torch.tensor(
                [target.standardised(entry.values.get(name, math.nan)) if entry else math.nan for entry in told]
            )
            for name, target in (diagnosis.targets if diagnosis else {}).items()
        }
        return Batch(
            torch.stack([sample.image for sample in samples]),
            torch.stack([sample.labels for sample in samples]),
            torch.tensor([sample.case.entry.known for sample in samples]),
            classes,
            tuple(sample.case.entry.id for sample in samples),
            tuple(slots),
            torch.stack([sample.case.clinical for sample in samples]),
            values,
        )

    def _random(self, step: int, slot: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, step, slot))

    def _lacking(self, step: int, slot: int) -> _Sample:
        """A sample with some channels taken away, never the last one that the case has."""
        random = self._random(step, slot)
        sample = self._sample(random, step, slot)
        if not self._channel_dropout:
            return sample
        present = [number for number in range(len(sample.image)) if number not in sample.case.entry.missing]
        lost = [number for number in present if random.random() < self._channel_dropout]
        if len(lost) == len(present):
            lost.remove(int(random.choice(present)))
        image = sample.image.clone()
        image[lost] = 0.0
        return replace(sample, image=image)

    def _sample(self, random: np.random.Generator, step: int, slot: int) -> _Sample:
        plan = self._plan
        if plan.classification is not None and (not plan.labels or (slot % 2 and self._strata)):
            case = self._cases[self._drawn_evenly(random)]
            image, labels = class_view(case, plan, jitter=random)
            return _Sample(case, image, labels, tells=True)
        by_label, numbers = self._by_label, range(len(self._cases))
        gathers = plan.classification is not None and plan.classification.gathers
        if gathers and self._strata and slot + 1 < plan.batch_size:
            one = self._drawn_evenly(self._random(step, slot + 1))
            by_label, numbers = [[one] if one in shown else [] for shown in by_label], range(one, one + 1)
        case, start = self._anywhere(random, by_label, numbers)
        tells = not gathers and self._shown(case, start)
        return _Sample(case, *crop_case(case, start, plan.patch_size), tells=tells)

    def _drawn_evenly(self, random: np.random.Generator) -> int:
        """The number of a case, each class coming as often."""
        stratum = self._strata[int(random.integers(len(self._strata)))]
        return stratum[int(random.integers(len(stratum)))]

    def _anywhere(
        self, random: np.random.Generator, by_label: Sequence[Sequence[int]], numbers: Sequence[int]
    ) -> tuple[LoadedCase, NDArray[np.int_]]:
        """One of these cases and where a patch of it starts: near a voxel of a label, each alike, or anywhere."""
        plan = self._plan
        taught = [showing for showing in by_label if showing]
        if taught and random.random() < _FOREGROUND_SHARE:
            label = int(random.integers(len(taught)))
            case = self._cases[taught[label][int(random.integers(len(taught[label])))]]
            index = [showing is taught[label] for showing in by_label].index(True) + 1
            points = case.foreground[:]
            points = points[points[:, 0] == index]
            centre = points[int(random.integers(len(points))), 1:].numpy()
            spread = np.asarray(plan.patch_size) // 4
            centre = centre + random.integers(-spread, spread + 1)
        else:
            case = self._cases[numbers[int(random.integers(len(numbers)))]]
            centre = np.asarray([random.integers(size) for size in case.entry.shape])
        return case, _start(centre, case.entry.shape, plan.patch_size)

    def _shown(self, case: LoadedCase, start: NDArray[np.int_]) -> bool:
        """Whether the patch holds most of the labels that the classification head pools under."""
        points = _pooled_points(case, self._plan).numpy()
        inside = ((points >= start) & (points < start + np.asarray(self._plan.patch_size))).all(axis=1)
        return bool(len(points)) and inside.mean() >= _SHOWN


@dataclass(frozen=True, eq=False)
class _Sample:
    case: LoadedCase
    image: Tensor
    labels: Tensor
    tells: bool  # enough of the case to answer for it


def require_foreground(cases: Sequence[LoadedCase], plan: Plan) -> None:
    """Make sure that where cases have references, these show something of what is to be found.

    Raises:
        UsageError: E-NOTHING-TO-LEARN when every mask is empty.
    """
    with_reference = [case for case in cases if case.labels.numel()]
    if plan.labels and with_reference and not any(len(case.foreground) for case in with_reference):
        raise UsageError(
            f"the masks of all {len(with_reference)} training cases that have one are empty: no voxel of "
            f"{', '.join(plan.label_names)}",
            code="E-NOTHING-TO-LEARN",
            remedy="Compare the masks' values with `labels` in the manifest (`medseg check`), then preprocess again.",
        )


def class_view(case: LoadedCase, plan: Plan, *, jitter: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
    """What the classification head sees of a case: (C, *patch) and (*patch) labels.

    `foreground`: the patch centred on the reference's pooled labels; `whole`: the case shrunk or grown to a patch.
    """
    if plan.classification is not None and plan.classification.view == "foreground":
        points = _pooled_points(case, plan)
        middle = points.double().mean(0).numpy() if len(points) else np.asarray(case.entry.shape) / 2
        return crop_case(case, view_start(middle, plan.patch_size, jitter=jitter), plan.patch_size)
    return whole_view(case.image[:], plan.patch_size), torch.full(plan.patch_size, IGNORE_INDEX, dtype=torch.uint8)


def _pooled_points(case: LoadedCase, plan: Plan) -> Tensor:
    """(N, 3) voxels of the labels that the classification head pools under."""
    names = plan.classification.pool_labels if plan.classification else ()
    pooled = torch.tensor([plan.label_names.index(name) + 1 for name in names], dtype=torch.int16)
    points = case.foreground[:]
    return points[torch.isin(points[:, 0], pooled), 1:]


def view_start(
    centre: NDArray[np.float64], size: Shape, *, jitter: np.random.Generator | None = None
) -> NDArray[np.int_]:
    """First voxel of the view around a centre; moved by up to a tenth of its size when training."""
    start = np.round(np.asarray(centre) - (np.asarray(size) - 1) / 2).astype(int)
    if jitter is not None:
        reach = np.maximum((np.asarray(size) * _JITTER).astype(int), 1)
        start = start + jitter.integers(-reach, reach + 1)
    return np.asarray(start)


def tile_starts(shape: Shape, size: Shape) -> list[NDArray[np.int_]]:
    """First voxels of the fewest tiles that cover a case, evenly spread; they hang on the two sizes alone."""
    grid = WindowGrid.over(shape, size, 0.0)
    return [np.asarray(start) - np.asarray(grid.padding) for start in product(*grid.starts)]


def whole_view(image: Tensor, size: Shape) -> Tensor:
    """(C, I, J, K) to (C, *size) float32 by trilinear interpolation."""
    if tuple(image.shape[1:]) == size:
        return image.float()
    return functional.interpolate(image[None].float(), size, mode="trilinear", align_corners=False)[0]


def _start(centre: NDArray[np.int_], shape: Shape, size: Shape) -> NDArray[np.int_]:
    """Keep the patch inside the case; a case smaller than the patch lies in its middle."""
    first = np.asarray(centre) - np.asarray(size) // 2
    room = np.asarray(shape) - np.asarray(size)
    return np.asarray(np.where(room >= 0, np.clip(first, 0, np.maximum(room, 0)), -(-room // 2)))


def _strata(cases: Sequence[LoadedCase], plan: Plan) -> list[list[int]]:
    """Cases by class of the first head that knows one, those with values alone together; the others are left out."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, case in enumerate(cases):
        for rank, head in enumerate(plan.classification.heads if plan.classification else ()):
            value = case.entry.classes.get(head, MISSING_CLASS)
            if value != MISSING_CLASS:
                groups.setdefault((rank, value), []).append(number)
                break
        else:
            if case.entry.values:
                groups.setdefault((len(case.entry.classes), 0), []).append(number)
    return [groups[key] for key in sorted(groups)]
