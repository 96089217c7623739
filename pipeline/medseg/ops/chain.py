"""The plan's preprocessing as one `monai.transforms.Compose`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Orientationd

from medseg.core.geometry import Geometry
from medseg.ops.intensity import correct, is_by_voxel, normalise
from medseg.ops.lines import LINEAR, NEAREST
from medseg.ops.prepare import network_shape, slice_axis
from medseg.ops.resample import CUBIC, resample, resample_labels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from medseg.core.geometry import Vector
    from medseg.core.plan import Normalisation, Plan

IMAGE, LABEL = "image", "label"
_AXIS_NAMES = (("L", "R"), ("P", "A"), ("I", "S"))


class ToSpacing(MapTransform):  # type: ignore[misc]
    """Resample image (cubic spline; linear or nearest along a coarse axis) and label to the plan's spacing.

    Stands in for MONAI's Spacing: an order of magnitude faster, and the extent of the volume is kept. Rules
    that look at one voxel at a time are applied on the way, so that no copy of the whole image is made for them.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__((IMAGE, LABEL), allow_missing_keys=True)
        self.plan = plan
        rules = plan.normalisation
        self._change = partial(normalise, rules=rules) if is_by_voxel(rules) else None

    def __call__(self, data: Mapping[str, MetaTensor]) -> dict[str, MetaTensor]:
        result = dict(data)
        for key in self.key_iterator(result):
            tensor = result[key]
            old = Geometry(tuple(tensor.shape[1:]), tensor.affine.numpy())
            new = old.resized(network_shape(old, self.plan.spacing_mm))
            values = tensor.as_tensor()
            moved = (
                resample(
                    values,
                    new.shape,
                    orders=self._orders(old.spacing_mm),
                    change=self._change,
                    within_range=self.plan.within_range,
                )
                if key == IMAGE
                else resample_labels(values[0], new.shape).unsqueeze(0)
            )
            result[key] = MetaTensor(moved, affine=torch.from_numpy(new.affine.copy()))
        return result

    def _orders(self, source_mm: Vector) -> tuple[int, ...]:
        if self.plan.nearest_slices:
            coarse, order = slice_axis(source_mm, self.plan.spacing_mm), NEAREST
        else:
            coarse, order = self.plan.coarse_axis, LINEAR
        return tuple(order if axis == coarse else CUBIC for axis in range(3))


class ToNonzero(MapTransform):  # type: ignore[misc]
    """Crop image and label to the box of voxels that any channel has off zero.

    Stands in for MONAI's CropForegroundd, which reads the whole image several times.
    """

    def __call__(self, data: Mapping[str, MetaTensor]) -> dict[str, MetaTensor]:
        result = dict(data)
        start, stop = _nonzero_box(result[IMAGE].as_tensor())
        for key in self.key_iterator(result):
            tensor = result[key]
            grid = Geometry(tuple(tensor.shape[1:]), tensor.affine.numpy()).cropped(start, stop)
            part = tensor.as_tensor()[(slice(None), *(slice(*ends) for ends in zip(start, stop, strict=True)))]
            result[key] = MetaTensor(part, affine=torch.from_numpy(grid.affine.copy()))
        return result


class Intensity(MapTransform):  # type: ignore[misc]
    """Bias-field correction and equalisation where the plan asks, then clipping and scaling, channel by channel.

    Comes before resampling: a spline leaves no voxel of the background exactly zero, and spreads what is not clipped.
    """

    def __init__(self, rules: tuple[Normalisation, ...]) -> None:
        super().__init__((IMAGE,))
        self.rules = rules

    def __call__(self, data: Mapping[str, MetaTensor]) -> dict[str, MetaTensor]:
        tensor = data[IMAGE]
        image = normalise(correct(tensor.as_tensor(), self.rules), self.rules)
        return {**data, IMAGE: MetaTensor(image, affine=tensor.affine)}


def prepare_transform(plan: Plan) -> Compose:
    """The plan's preprocessing over {"image": MetaTensor (C, I, J, K), "label": MetaTensor (1, I, J, K) if any}."""
    steps: list[Any] = []
    if plan.orientation != "stored":
        steps.append(Orientationd((IMAGE, LABEL), plan.orientation, labels=_AXIS_NAMES, allow_missing_keys=True))
    if plan.crop == "nonzero":
        steps.append(ToNonzero((IMAGE, LABEL), allow_missing_keys=True))
    if not is_by_voxel(plan.normalisation):
        steps.append(Intensity(plan.normalisation))
    return Compose([*steps, ToSpacing(plan)])


def _nonzero_box(image: Tensor) -> tuple[list[int], list[int]]:
    """First voxel and one past the last that any channel has off zero; everything where none has."""
    start, stop = [0, 0, 0], list(image.shape[1:])
    for axis in range(3):
        # From either border inwards: few images begin with many planes of nothing.
        planes = range(image.shape[axis + 1])
        found = next((n for n in planes if bool(image.select(axis + 1, n).any())), None)
        if found is None:
            return [0, 0, 0], list(image.shape[1:])
        start[axis] = found
        stop[axis] = next(n for n in reversed(planes) if bool(image.select(axis + 1, n).any())) + 1
    return start, stop
