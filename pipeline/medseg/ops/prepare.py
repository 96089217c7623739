"""A volume to network input, the same for every verb: by the transforms of `medseg.ops.chain`, built from the plan.

`medseg.ops.restore` is the way back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medseg.core.geometry import Geometry
from medseg.core.plan import IGNORE_INDEX
from medseg.core.volume import require_same_grid
from medseg.ops.intensity import is_by_voxel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medseg.core.geometry import Box, Shape, Vector
    from medseg.core.plan import Plan
    from medseg.core.volume import LabelMap, Volume

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
    from monai.data import MetaTensor  # here: monai takes seconds, and not everything that knows grids prepares a case

    from medseg.ops.chain import IMAGE, LABEL, prepare_transform

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
