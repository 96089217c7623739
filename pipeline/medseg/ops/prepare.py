"""A volume to network input, the same for every verb: one `monai.transforms.Compose` built from the plan.

`medseg.ops.restore` is the way back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Orientationd
from torch import Tensor

from medseg.core.geometry import Geometry
from medseg.core.plan import IGNORE_INDEX
from medseg.core.volume import require_same_grid
from medseg.ops.intensity import correct, is_by_voxel, normalise
from medseg.ops.resample import CUBIC, LINEAR, NEAREST, resample, resample_labels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from medseg.core.geometry import Box, Shape, Vector
    from medseg.core.plan import Normalisation, Plan
    from medseg.core.volume import LabelMap, Volume

IMAGE, LABEL = "image", "label"
_AXIS_NAMES = (("L", "R"), ("P", "A"), ("I", "S"))
_COARSE_RATIO = 3.0


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the network sees it.

    Attributes:
        image: (C, I, J, K) float32, network units, axes in the plan's orientation.
        labels: (I, J, K) uint8 network indices, 255 ignored; None without a reference.
        geometry: The network grid.
        source: The grid of the volume it came from.
        slices_mm: The plan's spacing when it takes the nearest slice along a coarse axis.
    """

    image: Tensor
    labels: Tensor | None
    geometry: Geometry
    source: Geometry
    slices_mm: Vector | None = None

    def cropped(self, box: Box) -> Prepared:
        """A part of the network grid; labels are left behind."""
        start, stop = box
        part = tuple(slice(*ends) for ends in zip(start, stop, strict=True))
        return replace(
            self, image=self.image[(slice(None), *part)], labels=None, geometry=self.geometry.cropped(start, stop)
        )

    def led_by(self, axis: int) -> Prepared:
        """The same case with one axis brought to the front, the others in their order; labels are left behind."""
        order = [axis, *(other for other in range(3) if other != axis)]
        i, j, k = (self.geometry.shape[other] for other in order)
        affine = self.geometry.affine[:, [*order, 3]]
        first, second, third = order
        spacing = None if (mm := self.slices_mm) is None else (mm[first], mm[second], mm[third])
        return Prepared(
            image=self.image.permute(0, *(1 + other for other in order)),
            labels=None,
            geometry=Geometry((i, j, k), affine),
            source=self.source,
            slices_mm=spacing,
        )


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


def to_network(volume: Volume, plan: Plan, *, labels: LabelMap | None = None, ignore: int | None = None) -> Prepared:
    """Bring a volume (and its reference) onto the network grid.

    Args:
        volume: (C, I, J, K) in source units.
        plan: The plan of the model or of the store.
        labels: Reference on the volume's grid, in the dataset's own values.
        ignore: The dataset's value for voxels that neither teach nor score.

    Raises:
        GeometryError: E-GRID-MISMATCH when the reference lies on another grid.
    """
    affine = torch.from_numpy(np.array(volume.geometry.affine))
    data = {IMAGE: MetaTensor(_numbers(volume.array, plan), affine=affine)}
    if labels is not None:
        require_same_grid(volume, labels)
        indices = torch.from_numpy(label_indices(labels.array, plan, ignore=ignore)).unsqueeze(0)
        data[LABEL] = MetaTensor(indices, affine=affine)
    ready = prepare_transform(plan)(data)
    tensor = ready[IMAGE]
    tensor[list(volume.missing)] = 0.0  # what is not known is average
    return Prepared(
        image=tensor.as_tensor().contiguous(),
        labels=ready[LABEL].as_tensor()[0].contiguous() if LABEL in ready else None,
        geometry=Geometry(tuple(tensor.shape[1:]), tensor.affine.numpy()),
        source=volume.geometry,
        slices_mm=plan.spacing_mm if plan.nearest_slices else None,
    )


def _numbers(array: NDArray[Any], plan: Plan) -> Tensor:
    """The voxels as they are stored where that will do, else a float32 copy."""
    is_taken = array.dtype.isnative and (array.dtype.kind in "if" or array.dtype == np.uint8)
    if is_taken and array.flags.writeable and min(array.strides) >= 0 and is_by_voxel(plan.normalisation):
        return torch.from_numpy(array)
    return torch.from_numpy(np.array(array, dtype=np.float32))


def slice_axis(first_mm: Vector, second_mm: Vector) -> int | None:
    """The one axis whose voxels are more than three times longer than another's, in the first grid or else the second.

    The rule of Isensee et al., Nature Methods 2021, for images and answers that are resampled slice by slice.
    """
    for spacing in (first_mm, second_mm):
        if max(spacing) / min(spacing) > _COARSE_RATIO:
            return spacing.index(max(spacing)) if spacing.count(max(spacing)) == 1 else None
    return None


def network_shape(geometry: Geometry, spacing_mm: tuple[float, float, float]) -> Shape:
    """Voxels along each axis after resampling to `spacing_mm`; never below one."""
    i, j, k = (
        max(1, round(size * old / new))
        for size, old, new in zip(geometry.shape, geometry.spacing_mm, spacing_mm, strict=True)
    )
    return (i, j, k)


def label_indices(array: NDArray[Any], plan: Plan, *, ignore: int | None = None) -> NDArray[np.uint8]:
    """Dataset values to network indices; `ignore` becomes IGNORE_INDEX, values unknown to the plan background."""
    table = np.zeros(65536, dtype=np.uint8)
    for index, name in enumerate(plan.label_names, start=1):
        table[plan.labels[name]] = index
    if ignore is not None:
        table[ignore] = IGNORE_INDEX
    return np.asarray(table[array])


def label_values(indices: NDArray[np.uint8], plan: Plan) -> NDArray[Any]:
    """Network indices to the dataset's values, in the smallest unsigned type that holds them."""
    values = [0, *(plan.labels[name] for name in plan.label_names)]
    return np.asarray(values, dtype=np.uint8 if max(values) < 256 else np.uint16)[indices]


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
