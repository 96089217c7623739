"""Intensities of a volume to network units, channel by channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.core.plan import Normalisation


def is_by_voxel(rules: Sequence[Normalisation]) -> bool:
    """Whether every rule turns one voxel into one voxel without a look at the others."""
    return all(
        rule.scheme == "fixed" and not (rule.nonzero or rule.correct_bias_field or rule.equalise) for rule in rules
    )


def normalise(image: Tensor, rules: Sequence[Normalisation]) -> Tensor:
    """(C, I, J, K) float in source units to float32 about 0 with a deviation about 1, in place where possible."""
    result = image.float()
    inside = body(result) if any(rule.nonzero for rule in rules) else None
    for channel, rule in zip(result, rules, strict=True):
        _normalise_channel(channel, rule, inside if rule.nonzero else None)
    return result


def body(image: Tensor) -> Tensor:
    """(C, I, J, K) to (I, J, K) bool: nonzero in any channel, with the holes that no zero leads into from outside."""
    nonzero = (image != 0).any(dim=0)
    zeros, count = ndimage.label(~nonzero.numpy())
    borders = [np.take(zeros, end, axis).ravel() for axis in range(3) for end in (0, -1)]
    outside = np.zeros(count + 1, dtype=bool)
    outside[np.unique(np.concatenate(borders))] = True
    outside[0] = False
    return torch.from_numpy(~outside[zeros])


def correct(image: Tensor, rules: Sequence[Normalisation]) -> Tensor:
    """N4 bias-field correction and adaptive histogram equalisation of the channels whose rule asks for them.

    A constant channel has nothing to correct and stays.
    """
    result = image
    for index, rule in enumerate(rules):
        if (rule.correct_bias_field or rule.equalise) and bool(image[index].min() < image[index].max()):
            result = result.clone() if result is image else result
            array = result[index].numpy()
            array = _correct_bias_field(array) if rule.correct_bias_field else array
            result[index] = torch.from_numpy(_equalise(array) if rule.equalise else array)
    return result


def _normalise_channel(channel: Tensor, rule: Normalisation, inside: Tensor | None) -> None:
    if rule.lower is not None or rule.upper is not None:
        channel.clamp_(rule.lower, rule.upper)
    if rule.scheme == "fixed":
        channel.sub_(rule.mean).div_(rule.std)
        return
    if rule.scheme == "range":
        channel.sub_(channel.min().clone())
        channel.div_(channel.max().clamp(min=1e-8))
        return
    values = channel[inside] if inside is not None and bool(inside.any()) else channel
    mean, std = values.double().mean(), values.double().std(correction=0)
    channel.sub_(mean.float()).div_(std.clamp(min=1e-8).float())
    if inside is not None:
        channel.mul_(inside)


def _correct_bias_field(array: np.ndarray) -> np.ndarray:
    """N4 (Tustison et al., IEEE TMI 2010), fitted on a grid shrunk to about 64 voxels a side, applied in full."""
    import SimpleITK as sitk  # noqa: N813 - its own documentation's name

    # A single plane has no spline across it: it is doubled.
    thick = np.pad(array.astype(np.float32), [(0, 1 if size == 1 else 0) for size in array.shape], mode="edge")
    image = sitk.GetImageFromArray(thick - min(float(array.min()), 0.0) + 1.0)
    shrink = [max(1, size // 64) for size in image.GetSize()]
    small = sitk.Shrink(image, shrink)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([30, 20, 10])
    n4.Execute(small, sitk.OtsuThreshold(small, 0, 1, 128))
    i, j, k = array.shape
    field = sitk.GetArrayFromImage(sitk.Exp(n4.GetLogBiasFieldAsImage(image)))[:i, :j, :k]
    return np.asarray(array / np.maximum(field, 1e-3), dtype=np.float32)


def _equalise(array: np.ndarray) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation over eighths of the volume, back in the input's range."""
    import SimpleITK as sitk  # noqa: N813 - its own documentation's name

    low, high = np.percentile(array, (0.5, 99.5))
    scaled = np.clip((array - low) / max(high - low, 1e-8), 0, 1).astype(np.float32)
    image = sitk.GetImageFromArray(scaled)
    radius = [max(1, size // 16) for size in image.GetSize()]
    equal = sitk.AdaptiveHistogramEqualization(image, radius=radius, alpha=0.5, beta=0.5)
    return np.asarray(sitk.GetArrayFromImage(equal) * (high - low) + low, dtype=np.float32)
