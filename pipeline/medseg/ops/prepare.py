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
from medseg.ops.resample import CUBIC, LINEAR, along_axis, interpolation_matrix, resample, resample_labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from medseg.core.geometry import Shape
    from medseg.core.plan import Normalisation, Plan
    from medseg.core.volume import LabelMap, Volume

IMAGE, LABEL = "image", "label"
_SLAB_BYTES = 64 * 2**20
_AXIS_NAMES = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the network sees it.

    Attributes:
        image: (C, I, J, K) float32, network units, RAS order.
        labels: (I, J, K) uint8 network indices, 255 ignored; None without a reference.
        geometry: The network grid.
        source: The grid of the volume it came from.
    """

    image: Tensor
    labels: Tensor | None
    geometry: Geometry
    source: Geometry


class ToSpacing(MapTransform):  # type: ignore[misc]
    """Resample image (cubic spline; linear along a coarse axis) and label to a spacing in mm.

    Stands in for MONAI's Spacing: an order of magnitude faster, and the extent of the volume is kept.
    """

    def __init__(self, spacing_mm: tuple[float, float, float], *, coarse_axis: int | None) -> None:
        super().__init__((IMAGE, LABEL), allow_missing_keys=True)
        self.spacing_mm = spacing_mm
        self.orders = tuple(LINEAR if axis == coarse_axis else CUBIC for axis in range(3))

    def __call__(self, data: Mapping[str, MetaTensor]) -> dict[str, MetaTensor]:
        result = dict(data)
        for key in self.key_iterator(result):
            tensor = result[key]
            old = Geometry(tuple(tensor.shape[1:]), tensor.affine.numpy())
            new = old.resized(network_shape(old, self.spacing_mm))
            values = tensor.as_tensor()
            moved = (
                resample(values, new.shape, orders=self.orders)
                if key == IMAGE
                else resample_labels(values[0], new.shape).unsqueeze(0)
            )
            result[key] = MetaTensor(moved, affine=torch.from_numpy(new.affine.copy()))
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
    steps: list[Any] = [Orientationd((IMAGE, LABEL), "RAS", labels=_AXIS_NAMES, allow_missing_keys=True)]
    if plan.crop == "nonzero":
        steps.append(
            CropForegroundd((IMAGE, LABEL), IMAGE, _nonzero, allow_missing_keys=True, allow_smaller=True, margin=0)
        )
    steps += [Intensity(plan.normalisation), ToSpacing(plan.spacing_mm, coarse_axis=plan.coarse_axis)]
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
    )


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


def to_source(logits: Tensor, prepared: Prepared) -> NDArray[np.uint8]:
    """Logits (K, I, J, K) on the network grid to network indices on the source's grid.

    Interpolated linearly and compared class by class, slab by slab: the peak of memory does not depend on the number of
    classes. Voxels outside the crop are background.
    """
    mapping = _GridMapping(prepared.geometry, prepared.source)
    result = np.zeros(mapping.shape, dtype=np.uint8)
    for slab, scores in mapping.slabs(logits):
        best, winner = None, None
        for index, score in enumerate(scores):
            if best is None or winner is None:
                best, winner = score, torch.zeros(score.shape, dtype=torch.uint8)
                continue
            wins = score > best
            winner[wins] = index
            best = torch.maximum(best, score)
        if winner is not None:
            result[slab] = winner.numpy()
    result[~mapping.inside] = 0
    return mapping.to_source_axes(result)


def probabilities_to_source(logits: Tensor, prepared: Prepared) -> NDArray[np.float16]:
    """Softmax of the interpolated logits, (K, I, J, K) on the source's grid; certain background outside the crop."""
    mapping = _GridMapping(prepared.geometry, prepared.source)
    result = np.zeros((len(logits), *mapping.shape), dtype=np.float16)
    for slab, scores in mapping.slabs(logits):
        result[(slice(None), *slab)] = torch.softmax(torch.stack(list(scores)), dim=0).half().numpy()
    result[:, ~mapping.inside] = 0
    result[0][~mapping.inside] = 1
    return np.stack([mapping.to_source_axes(channel) for channel in result])


class _GridMapping:
    """Linear interpolation from the network grid to a source grid with parallel axes, in slabs.

    Work happens on the source grid with its axes in network order; `to_source_axes` puts them back.
    """

    def __init__(self, network: Geometry, source: Geometry) -> None:
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
        self.matrices = [
            torch.from_numpy(interpolation_matrix(line, size, LINEAR))
            for line, size in zip(positions, network.shape, strict=True)
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
