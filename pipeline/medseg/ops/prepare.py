"""A volume to network input and the network's answer back to the volume's grid: one pair, used by every verb.

`to_network` is one `monai.transforms.Compose` built from the plan. `to_source` needs no record of what it did: both
grids have parallel axes, so the affine between them holds the permutation, the flips, the crop and the scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, MapTransform, Orientationd
from torch import Tensor

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.plan import IGNORE_INDEX
from medseg.core.volume import require_same_grid
from medseg.ops.intensity import correct, normalise
from medseg.ops.resample import CUBIC, LINEAR, NEAREST, along_axis, interpolation_matrix, resample, resample_labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from medseg.core.geometry import Shape, Vector
    from medseg.core.plan import Normalisation, Plan
    from medseg.core.volume import LabelMap, Volume

IMAGE, LABEL = "image", "label"
_SLAB_BYTES = 64 * 2**20
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


class ToSpacing(MapTransform):  # type: ignore[misc]
    """Resample image (cubic spline; linear or nearest along a coarse axis) and label to the plan's spacing.

    Stands in for MONAI's Spacing: an order of magnitude faster, and the extent of the volume is kept.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__((IMAGE, LABEL), allow_missing_keys=True)
        self.plan = plan

    def __call__(self, data: Mapping[str, MetaTensor]) -> dict[str, MetaTensor]:
        result = dict(data)
        for key in self.key_iterator(result):
            tensor = result[key]
            old = Geometry(tuple(tensor.shape[1:]), tensor.affine.numpy())
            new = old.resized(network_shape(old, self.plan.spacing_mm))
            values = tensor.as_tensor()
            moved = (
                resample(values, new.shape, orders=self._orders(old.spacing_mm))
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
        steps.append(
            CropForegroundd((IMAGE, LABEL), IMAGE, _nonzero, allow_missing_keys=True, allow_smaller=True, margin=0)
        )
    steps += [Intensity(plan.normalisation), ToSpacing(plan)]
    return Compose(steps)


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
    image = torch.from_numpy(np.array(volume.array, dtype=np.float32))
    data = {IMAGE: MetaTensor(image, affine=affine)}
    if labels is not None:
        require_same_grid(volume, labels)
        indices = torch.from_numpy(label_indices(labels.array, plan, ignore=ignore)).unsqueeze(0)
        data[LABEL] = MetaTensor(indices, affine=affine)
    ready = prepare_transform(plan)(data)
    tensor = ready[IMAGE]
    return Prepared(
        image=tensor.as_tensor().contiguous(),
        labels=ready[LABEL].as_tensor()[0].contiguous() if LABEL in ready else None,
        geometry=Geometry(tuple(tensor.shape[1:]), tensor.affine.numpy()),
        source=volume.geometry,
        slices_mm=plan.spacing_mm if plan.nearest_slices else None,
    )


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


def to_source(logits: Tensor, prepared: Prepared, *, paint_order: Sequence[int] = ()) -> NDArray[np.uint8]:
    """Logits (K, I, J, K) on the network grid to network indices on the source's grid.

    Interpolated linearly and compared class by class, slab by slab: the peak of memory does not depend on the number of
    classes. Voxels outside the crop are background.

    Args:
        logits: One channel per class, background first; or one per overlapping region.
        prepared: The case, as `to_network` made it.
        paint_order: `Plan.paint_order`: with regions, the index that each paints where its logit is above zero.
    """
    mapping = _GridMapping(prepared)
    result = np.zeros(mapping.shape, dtype=np.uint8)
    for slab, scores in mapping.slabs(logits):
        result[slab] = (_painted(scores, paint_order) if paint_order else _winner(scores)).numpy()
    result[~mapping.inside] = 0
    return mapping.to_source_axes(result)


def probabilities_to_source(logits: Tensor, prepared: Prepared, *, regions: bool = False) -> NDArray[np.float16]:
    """Softmax of the interpolated logits, (K, I, J, K) on the source's grid; certain background outside the crop.

    Overlapping regions have a sigmoid each, and no background.
    """
    mapping = _GridMapping(prepared)
    result = np.zeros((len(logits), *mapping.shape), dtype=np.float16)
    for slab, scores in mapping.slabs(logits):
        stacked = torch.stack(list(scores))
        shares = torch.sigmoid(stacked) if regions else torch.softmax(stacked, dim=0)
        result[(slice(None), *slab)] = shares.half().numpy()
    result[:, ~mapping.inside] = 0
    if not regions:
        result[0][~mapping.inside] = 1
    return np.stack([mapping.to_source_axes(channel) for channel in result])


def _winner(scores: Iterator[Tensor]) -> Tensor:
    best = next(scores)
    winner = torch.zeros(best.shape, dtype=torch.uint8)
    for index, score in enumerate(scores, start=1):
        wins = score > best
        winner[wins] = index
        best = torch.maximum(best, score)
    return winner


def _painted(scores: Iterator[Tensor], paint_order: Sequence[int]) -> Tensor:
    painted = torch.zeros((), dtype=torch.uint8)
    for index, score in zip(paint_order, scores, strict=True):
        painted = torch.where(score > 0, torch.tensor(index, dtype=torch.uint8), painted)
    return painted


class _GridMapping:
    """Interpolation from the network grid to a source grid with parallel axes, in slabs: linear, or nearest slices.

    Work happens on the source grid with its axes in network order; `to_source_axes` puts them back.
    """

    def __init__(self, prepared: Prepared) -> None:
        network, source = prepared.geometry, prepared.source
        matrix = np.linalg.inv(network.affine) @ source.affine
        self.order = [int(axis) for axis in np.abs(matrix[:3, :3]).argmax(axis=1)]
        scales = matrix[range(3), self.order]
        residue = np.abs(matrix[:3, :3]).sum(axis=1) - np.abs(scales)
        if sorted(self.order) != [0, 1, 2] or (residue * np.asarray(source.shape)[self.order]).max() > 0.01:
            raise GeometryError(
                f"the network grid ({network.describe()}) is not parallel to the source's ({source.describe()})",
                code="E-GRID-MISMATCH",
            )
        self.shape = tuple(source.shape[axis] for axis in self.order)
        positions = [
            scale * np.arange(size) + offset
            for scale, offset, size in zip(scales, matrix[:3, 3], self.shape, strict=True)
        ]
        i, j, k = (source.spacing_mm[axis] for axis in self.order)
        nearest = slice_axis(prepared.slices_mm, (i, j, k)) if prepared.slices_mm else None
        self.matrices = [
            torch.from_numpy(interpolation_matrix(line, size, NEAREST if axis == nearest else LINEAR))
            for axis, (line, size) in enumerate(zip(positions, network.shape, strict=True))
        ]
        # Half a voxel beyond the last centre is still inside the network grid.
        covered = [
            (line > -0.5 - 1e-3) & (line < size - 0.5 + 1e-3)
            for line, size in zip(positions, network.shape, strict=True)
        ]
        self.inside = covered[0][:, None, None] & covered[1][None, :, None] & covered[2][None, None, :]

    def slabs(self, logits: Tensor) -> Iterator[tuple[tuple[slice], Iterator[Tensor]]]:
        """Yield (slab of the first axis, iterator of one (rows, J, K) float32 per class)."""
        matrices = [matrix.to(logits.device) for matrix in self.matrices]
        rows_per_slab = max(1, _SLAB_BYTES // (4 * self.shape[1] * self.shape[2]))
        for start in range(0, self.shape[0], rows_per_slab):
            rows = slice(start, min(start + rows_per_slab, self.shape[0]))
            used = matrices[0][rows].any(dim=0).nonzero().flatten()
            support = slice(int(used[0]), int(used[-1]) + 1)
            yield (rows,), (self._slab(channel[support], rows, support, matrices) for channel in logits)

    @staticmethod
    def _slab(channel: Tensor, rows: slice, support: slice, matrices: list[Tensor]) -> Tensor:
        slab = along_axis(channel.float(), matrices[0][rows, support], 0)
        return along_axis(along_axis(slab, matrices[1], 1), matrices[2], 2).cpu()

    def to_source_axes(self, array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array.transpose(np.argsort(self.order)))


def _nonzero(image: Tensor) -> Tensor:
    found = image != 0
    return found if bool(found.any()) else torch.ones_like(found)
