"""Augmentation of whole batches on the training device, each sample repeatable from a generator of its own.

Shape legend: B batch, C channels, (I, J, K) voxels. Ranges follow nnU-Net (Isensee et al. 2021) except where said.
Each transform works only on the samples that drew it: the spatial one, most of the cost, is skipped for the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from medseg.core.plan import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medseg.core.plan import Plan


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training patch.

    Attributes:
        mirror_axes: Patch axes that may be flipped.
        swaps: Network indices exchanged by a flip along axis 0 (left and right of a pair).
        rotation_axes: Axes about which patches turn; a coarse axis alone when there is one.
        rotation_deg: Largest angle.
        scaling: Smallest and largest zoom.
        p_spatial: Share of samples that are turned and zoomed.
        intensity: Whether intensities vary; a shape has none.
    """

    mirror_axes: tuple[int, ...]
    swaps: tuple[tuple[int, int], ...]
    rotation_axes: tuple[int, ...]
    rotation_deg: float = 20.0
    scaling: tuple[float, float] = (0.8, 1.25)
    p_spatial: float = 0.3
    intensity: bool = True

    @classmethod
    def from_plan(cls, plan: Plan) -> Augmentation:
        index = {name: number for number, name in enumerate(plan.label_names, start=1)}
        diagnosis = plan.classification
        whole = diagnosis is not None and diagnosis.view == "whole"
        return cls(
            mirror_axes=plan.mirror_axes,
            swaps=tuple((index[left], index[right]) for left, right in plan.left_right_pairs),
            rotation_axes=(0, 1, 2) if plan.coarse_axis is None else (plan.coarse_axis,),
            # A case seen as a whole is always seen from the same place: only turning it gives another view, and its
            # size may be what tells its class.
            p_spatial=0.8 if whole else 0.3,
            scaling=(0.95, 1.05) if whole else (0.8, 1.25),
            intensity=diagnosis is None or len(diagnosis.shape_channels) < len(plan.channels),
        )


def augment(
    image: Tensor, labels: Tensor, known: Tensor, *, how: Augmentation, generators: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor, Tensor]:
    """Vary a batch.

    Args:
        image: (B, C, I, J, K) float32, network units.
        labels: (B, I, J, K) uint8 network indices.
        known: (B, K) bool, labels annotated in each sample's case.
        how: What may happen.
        generators: One per sample, on the CPU whatever the device: a sample is varied alike everywhere, whichever
            others share its batch.

    Returns:
        The three, varied; the inputs are left alone.
    """
    draw = _Draw(generators, image.device)
    image, labels = _spatial(image, labels, how, draw)
    image, labels, known = _mirror(image, labels, known, how, draw)
    for probability, transform in _INTENSITY if how.intensity else ():
        chosen = draw.chosen(probability)
        if len(chosen):
            image[chosen] = transform(image[chosen], draw.only(chosen))
    return image, labels, known


class _Draw:
    """Random numbers for one batch, drawn on the CPU sample by sample and sent to the device."""

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device) -> None:
        self.generators, self.size, self.device = generators, len(generators), device

    def only(self, chosen: Tensor) -> _Draw:
        return _Draw([self.generators[index] for index in chosen.tolist()], self.device)

    def uniform(self, low: float, high: float, *columns: int) -> Tensor:
        """(B, *columns) in [low, high)."""
        values = self._each(lambda generator: torch.rand(columns, generator=generator)) * (high - low) + low
        return values.to(self.device)

    def per_sample(self, low: float, high: float) -> Tensor:
        """(B, 1, 1, 1, 1)."""
        return self.uniform(low, high, 1, 1, 1, 1)

    def chosen(self, probability: float) -> Tensor:
        """Indices of the samples that drew a transform."""
        drawn = self._each(lambda generator: torch.rand((), generator=generator)) < probability
        return drawn.nonzero().flatten().to(self.device)

    def normal_like(self, image: Tensor) -> Tensor:
        """Noise made on the device from seeds drawn on the CPU: fast, repeatable per device."""

        def noise(seed: int) -> Tensor:
            generator = torch.Generator(image.device).manual_seed(seed)
            return torch.randn(image.shape[1:], generator=generator, device=image.device)

        seeds = self._each(lambda generator: torch.randint(2**62, (), generator=generator))
        return torch.stack([noise(int(seed)) for seed in seeds])

    def _each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(generator) for generator in self.generators])


def _spatial(image: Tensor, labels: Tensor, how: Augmentation, draw: _Draw) -> tuple[Tensor, Tensor]:
    chosen = draw.chosen(how.p_spatial)
    image, labels = image.clone(), labels.clone()
    if not len(chosen):
        return image, labels
    grid = _affine_grid(tuple(image.shape[2:]), how, draw.only(chosen))
    moved = functional.grid_sample(image[chosen], grid, mode="bilinear", padding_mode="border", align_corners=False)
    # Shifted by one so that what comes from outside reads 0 and becomes "ignore".
    shifted = (labels[chosen].unsqueeze(1).float() + 1).remainder(256)
    turned = functional.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    image[chosen] = moved
    labels[chosen] = (turned.squeeze(1) + 255).remainder(256).to(torch.uint8)
    return image, labels


def _affine_grid(shape: Sequence[int], how: Augmentation, draw: _Draw) -> Tensor:
    """(B, I, J, K, 3) sampling positions in grid_sample's coordinates (-1 to 1, order k, j, i)."""
    angles = draw.uniform(-math.radians(how.rotation_deg), math.radians(how.rotation_deg), 3)
    turn = torch.eye(3, device=draw.device).expand(draw.size, 3, 3)
    for axis in how.rotation_axes:
        turn = turn @ _rotation(angles[:, axis], axis)
    zoom = torch.exp(draw.uniform(math.log(how.scaling[0]), math.log(how.scaling[1]), 1))
    matrix = turn / zoom[:, :, None]
    half = torch.tensor([size / 2 for size in shape], device=draw.device)
    matrix = matrix * half[None, None, :] / half[None, :, None]
    theta = torch.zeros(draw.size, 3, 4, device=draw.device)
    theta[:, :, :3] = matrix.flip(1, 2)
    return functional.affine_grid(theta, [draw.size, 1, *shape], align_corners=False)


def _rotation(angle: Tensor, axis: int) -> Tensor:
    first, second = (other for other in range(3) if other != axis)
    matrix = torch.eye(3, device=angle.device).repeat(len(angle), 1, 1)
    matrix[:, first, first] = matrix[:, second, second] = torch.cos(angle)
    matrix[:, first, second], matrix[:, second, first] = -torch.sin(angle), torch.sin(angle)
    return matrix


def _mirror(
    image: Tensor, labels: Tensor, known: Tensor, how: Augmentation, draw: _Draw
) -> tuple[Tensor, Tensor, Tensor]:
    known = known.clone()
    for axis in how.mirror_axes:
        chosen = draw.chosen(0.5)
        if not len(chosen):
            continue
        image[chosen] = image[chosen].flip(axis + 2)
        flipped = labels[chosen].flip(axis + 1)
        if axis == 0 and how.swaps:
            table = swap_table(how.swaps).to(labels.device)
            flipped = table[flipped.long()]
            known[chosen] = known[chosen][:, table[: known.shape[1]].long()]
        labels[chosen] = flipped
    return image, labels, known


def swap_table(swaps: Sequence[tuple[int, int]]) -> Tensor:
    """(256,) uint8: network index after a left-right flip; `ignore` stays what it is."""
    table = torch.arange(IGNORE_INDEX + 1, dtype=torch.uint8)
    for left, right in swaps:
        table[left], table[right] = right, left
    return table


def _noise(image: Tensor, draw: _Draw) -> Tensor:
    return image + draw.normal_like(image) * draw.per_sample(0.0, 0.1).sqrt()


def _blur(image: Tensor, draw: _Draw) -> Tensor:
    sigma = draw.uniform(0.5, 1.0)
    offsets = torch.arange(-2, 3, device=image.device)
    kernels = torch.exp(-0.5 * (offsets[None] / sigma[:, None]) ** 2)
    kernels = kernels / kernels.sum(1, keepdim=True)
    batch, channels = image.shape[:2]
    flat = image.reshape(1, batch * channels, *image.shape[2:])
    weights = kernels.repeat_interleave(channels, 0)
    for axis in range(3):
        shape = [batch * channels, 1, 1, 1, 1]
        shape[axis + 2] = len(offsets)
        padding = [0, 0, 0, 0, 0, 0]
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = 2
        flat = functional.conv3d(
            functional.pad(flat, padding, mode="replicate"), weights.reshape(shape), groups=batch * channels
        )
    return flat.reshape(image.shape)


def _brightness(image: Tensor, draw: _Draw) -> Tensor:
    return image * draw.per_sample(0.75, 1.25)


def _contrast(image: Tensor, draw: _Draw) -> Tensor:
    low, high, mean = image.amin((2, 3, 4), True), image.amax((2, 3, 4), True), image.mean((2, 3, 4), True)
    stretched = (image - mean) * draw.per_sample(0.75, 1.25) + mean
    return torch.minimum(torch.maximum(stretched, low), high)


def _low_resolution(image: Tensor, draw: _Draw) -> Tensor:
    return torch.cat(
        [_coarsened(sample[None], float(zoom)) for sample, zoom in zip(image, draw.uniform(0.5, 1.0), strict=True)]
    )


def _coarsened(image: Tensor, zoom: float) -> Tensor:
    coarse = [max(1, round(size * zoom)) for size in image.shape[2:]]
    small = functional.interpolate(image, size=coarse, mode="nearest-exact")
    return functional.interpolate(small, size=image.shape[2:], mode="trilinear", align_corners=False)


def _gamma(image: Tensor, draw: _Draw) -> Tensor:
    low, high = image.amin((2, 3, 4), True), image.amax((2, 3, 4), True)
    span = (high - low).clamp(min=1e-6)
    unit = (image - low) / span
    # A third of the samples are inverted around the power, which acts on the bright end.
    inverted = draw.per_sample(0.0, 1.0) < 1 / 3
    power = torch.exp(draw.per_sample(math.log(0.7), math.log(1.5)))
    unit = torch.where(inverted, 1 - (1 - unit).pow(power), unit.pow(power))
    return unit * span + low


_INTENSITY: tuple[tuple[float, Callable[[Tensor, _Draw], Tensor]], ...] = (
    (0.10, _noise),
    (0.10, _blur),
    (0.15, _brightness),
    (0.15, _contrast),
    (0.15, _low_resolution),
    (0.25, _gamma),
)
