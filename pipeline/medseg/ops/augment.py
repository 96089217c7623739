"""Augmentation of whole batches on the training device, each sample repeatable from a generator of its own.

Shape legend: B batch, C channels, (I, J, K) voxels. Ranges follow nnU-Net (Isensee et al. 2021) except where said.
Each transform works only on the samples that drew it: the spatial one, most of the cost, is skipped for the rest.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from medseg.core.plan import IGNORE_INDEX
from medseg.ops.augment_intensity import CHANGES, bias_field
from medseg.ops.draw import Draw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.core.geometry import Vector
    from medseg.core.plan import Plan

_MRI = re.compile(r"MR|T1|T2|FLAIR|PD|DWI|ADC", re.IGNORECASE)
_P_BIAS = 0.15
_P_ELASTIC = 0.2
_KNOTS = 4  # intervals of the elastic deformation along each axis
_ELASTIC = (0.1, 0.35)  # of an interval; below 0.4 nothing folds (Choi and Lee, Graphical Models 2000)


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
        spacing_mm: Of the patch: what turns keeps its shape in mm.
        p_elastic: Share of samples that are deformed.
        bias_channels: MRI, which a coil shades.
    """

    mirror_axes: tuple[int, ...]
    swaps: tuple[tuple[int, int], ...]
    rotation_axes: tuple[int, ...]
    rotation_deg: float = 20.0
    scaling: tuple[float, float] = (0.8, 1.25)
    p_spatial: float = 0.3
    intensity: bool = True
    spacing_mm: Vector = (1.0, 1.0, 1.0)
    p_elastic: float = 0.0
    bias_channels: tuple[int, ...] = ()

    @classmethod
    def from_plan(cls, plan: Plan, *, elastic: bool = False) -> Augmentation:
        channels = enumerate(zip(plan.channels, plan.normalisation, strict=True))
        index = {name: number for number, name in enumerate(plan.label_names, start=1)}
        diagnosis = plan.classification
        is_whole = diagnosis is not None and diagnosis.view == "whole"
        return cls(
            mirror_axes=plan.mirror_axes,
            swaps=tuple((index[left], index[right]) for left, right in plan.left_right_pairs),
            rotation_axes=(0, 1, 2) if plan.coarse_axis is None else (plan.coarse_axis,),
            # A case seen as a whole is always seen from the same place: only turning it gives another view, and its
            # size may be what tells its class.
            p_spatial=0.8 if is_whole else 0.3,
            scaling=(0.95, 1.05) if is_whole else (0.8, 1.25),
            intensity=diagnosis is None or len(diagnosis.shape_channels) < len(plan.channels),
            # Shrunk cases have spacings of their own.
            spacing_mm=(1.0, 1.0, 1.0) if is_whole else plan.spacing_mm,
            p_elastic=_P_ELASTIC if elastic else 0.0,
            bias_channels=tuple(at for at, (name, rule) in channels if _MRI.match(name) and rule.scheme == "per_image"),
        )


def augment(
    image: Tensor,
    labels: Tensor,
    known: Tensor,
    *,
    how: Augmentation,
    generators: Sequence[torch.Generator],
    sized: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Vary a batch.

    Args:
        image: (B, C, I, J, K) float32, network units.
        labels: (B, I, J, K) uint8 network indices.
        known: (B, K) bool, labels annotated in each sample's case.
        how: What may happen.
        generators: One per sample, on the CPU whatever the device: a sample is varied alike everywhere, whichever
            others share its batch.
        sized: (B,) bool, samples that tell a number, which size may decide: turned, but neither zoomed nor deformed.

    Returns:
        The three, varied; the inputs are left alone.
    """
    missing = (image == 0).flatten(2).all(2)[:, :, None, None, None]
    draw = Draw(generators, image.device)
    sized = torch.zeros(len(image), dtype=torch.bool) if sized is None else sized.cpu()
    image, labels = _spatial(image, labels, how, draw, sized=sized)
    image, labels, known = _mirror(image, labels, known, how, draw)
    for probability, transform in CHANGES if how.intensity else ():
        chosen = draw.chosen(probability)
        if len(chosen):
            image[chosen] = transform(image[chosen], draw.only(chosen))
    if how.bias_channels:
        chosen = draw.chosen(_P_BIAS)
        if len(chosen):
            where = (chosen[:, None], torch.tensor(how.bias_channels, device=image.device))
            image[where] = bias_field(image[where], draw.only(chosen))
    # A channel of nothing but 0 is one that the case lacks: noise and the like must not bring it back.
    return image.masked_fill(missing, 0.0), labels, known


def _spatial(image: Tensor, labels: Tensor, how: Augmentation, draw: Draw, *, sized: Tensor) -> tuple[Tensor, Tensor]:
    turned_too = draw.flags(how.p_spatial)
    deformed = draw.flags(how.p_elastic) & ~sized if how.p_elastic else torch.zeros_like(turned_too)
    chosen = (turned_too | deformed).nonzero().flatten()
    image, labels = image.clone(), labels.clone()
    if not len(chosen):
        return image, labels
    only = draw.only(chosen)
    turned, zoomed = (flags[chosen].to(image.device) for flags in (turned_too, ~sized))
    grid = _affine_grid(tuple(image.shape[2:]), how, only, turned=turned, zoomed=zoomed)
    if how.p_elastic:
        shifts = _displacement(tuple(image.shape[2:]), how, only)
        grid = grid + shifts * deformed[chosen].to(image.device)[:, None, None, None, None]
    chosen = chosen.to(image.device)
    moved = functional.grid_sample(image[chosen], grid, mode="bilinear", padding_mode="border", align_corners=False)
    # Shifted by one so that what comes from outside reads 0 and becomes "ignore".
    shifted = (labels[chosen].unsqueeze(1).float() + 1).remainder(256)
    nearest = functional.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    image[chosen] = moved
    labels[chosen] = (nearest.squeeze(1) + 255).remainder(256).to(torch.uint8)
    return image, labels


def _affine_grid(shape: Sequence[int], how: Augmentation, draw: Draw, *, turned: Tensor, zoomed: Tensor) -> Tensor:
    """(B, I, J, K, 3) sampling positions in grid_sample's coordinates (-1 to 1, order k, j, i); in place if not turned.

    A turn is one in mm: in voxels of unequal edges it would shear.
    """
    angles = draw.uniform(-math.radians(how.rotation_deg), math.radians(how.rotation_deg), 3)
    turn = torch.eye(3, device=draw.device).expand(draw.size, 3, 3)
    for axis in how.rotation_axes:
        turn = turn @ _rotation(angles[:, axis], axis)
    zoom = torch.exp(draw.uniform(math.log(how.scaling[0]), math.log(how.scaling[1]), 1) * zoomed[:, None])
    matrix = torch.where(turned[:, None, None], turn / zoom[:, :, None], torch.eye(3, device=draw.device))
    half = torch.tensor([size * step / 2 for size, step in zip(shape, how.spacing_mm, strict=True)], device=draw.device)
    matrix = matrix * half[None, None, :] / half[None, :, None]
    theta = torch.zeros(draw.size, 3, 4, device=draw.device)
    theta[:, :, :3] = matrix.flip(1, 2)
    return functional.affine_grid(theta, [draw.size, 1, *shape], align_corners=False)


def _displacement(shape: Sequence[int], how: Augmentation, draw: Draw) -> Tensor:
    """(B, I, J, K, 3) smooth shifts in grid_sample's coordinates: a cubic B-spline of random control points.

    Up to a third of an interval, and along a coarse axis none (Rueckert et al., IEEE Transactions on Medical Imaging
    1999).
    """
    least, most = _ELASTIC
    size = draw.uniform(least, most, 1, 1, 1, 1) * 2 / _KNOTS
    points = draw.uniform(-1.0, 1.0, 3, *(_KNOTS + 3,) * 3) * size
    if len(how.rotation_axes) == 1:
        points[:, 2 - how.rotation_axes[0]] = 0
    bases = [_bspline(edge, device=draw.device) for edge in shape]
    return torch.einsum("bcxyz,ix,jy,kz->bijkc", points, *bases)


def _bspline(size: int, *, device: torch.device) -> Tensor:
    """(size, knots + 3) weight of each control point at each voxel."""
    place = (torch.arange(size, device=device) + 0.5) / size * _KNOTS
    away = (place[:, None] + 1 - torch.arange(_KNOTS + 3, device=device)).abs()
    near = 2 / 3 - away**2 + away**3 / 2
    return torch.where(away < 1, near, (2 - away).clamp(min=0) ** 3 / 6)


def _rotation(angle: Tensor, axis: int) -> Tensor:
    first, second = (other for other in range(3) if other != axis)
    matrix = torch.eye(3, device=angle.device).repeat(len(angle), 1, 1)
    matrix[:, first, first] = matrix[:, second, second] = torch.cos(angle)
    matrix[:, first, second], matrix[:, second, first] = -torch.sin(angle), torch.sin(angle)
    return matrix


def _mirror(
    image: Tensor, labels: Tensor, known: Tensor, how: Augmentation, draw: Draw
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
