"""Whether a volume is of the kind that a model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medseg.data.importers.draft import modality_of
from medseg.planning.fingerprint import whole_intensities

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import ArrayLike

    from medseg.core.plan import Fingerprint, Plan
    from medseg.core.volume import Volume

_SPACING_FACTOR = 1.25
_EXTENT_FACTOR = 2.0
_INTENSITY_SHARE = 0.25
_PERCENTILES = ("0.5th percentile", "median", "99.5th percentile")
_CHANNEL_OF = {"CT": "CT", "MR": "MRI", "PT": "PET", "US": "US"}


def strangeness(volume: Volume, plan: Plan, fingerprint: Fingerprint | None) -> tuple[str, ...]:
    """Flags of what a model has not seen in training; an answer is given all the same.

    `W-MODALITY`: the file names another modality than the model's channels. `W-FINGERPRINT`: along an axis the voxels
    are 1.25 times smaller or larger than any training case's, or the image is less than half as long as the shortest or
    more than twice as long as the longest. `W-INTENSITY`: of a calibrated channel, the median or an outer percentile
    lies outside those of the training cases by more than a quarter of their usual width.

    Args:
        volume: To be predicted.
        plan: The model's.
        fingerprint: Of its training cases; without one only the modality is looked at.
    """
    found = list(_modality(volume, plan.channels))
    if fingerprint is not None and fingerprint.cases:
        found += _grid(volume, fingerprint)
        found += _intensities(volume, plan, fingerprint)
    return tuple(found)


def other_channels(said: Sequence[str], channels: Sequence[str]) -> tuple[str, ...]:
    """`W-MODALITY` where a manifest names channels that are not the model's; names that tell no modality are let pass.

    Args:
        said: The manifest's names, in its order.
        channels: The model's.
    """
    theirs, ours = ([name.casefold() for name in names] for names in (said, channels))
    if theirs != ours and sorted(theirs) == sorted(ours):
        order = f"the model takes {', '.join(channels)} in this order, the manifest has {', '.join(said)}"
        return (f"W-MODALITY: {order}",)
    return tuple(
        f"W-MODALITY: the model takes {channel}, the manifest says {name}"
        for name, channel in zip(said, channels, strict=False)  # their number is checked where the images are read
        if None not in (modalities := {modality_of(name), modality_of(channel)}) and len(modalities) > 1
    )


def _modality(volume: Volume, channels: Sequence[str]) -> Iterator[str]:
    said = _CHANNEL_OF.get(volume.modality or "")
    for channel in channels:
        wanted = channel.upper()
        is_other = said is not None and (wanted in _CHANNEL_OF.values() or said == "CT") and said != wanted
        if is_other:
            yield f"W-MODALITY: the model takes {channel}, the file says {volume.modality}"


def _grid(volume: Volume, fingerprint: Fingerprint) -> Iterator[str]:
    grid = volume.geometry.canonical()
    spacing_mm = np.array([case.spacing_mm for case in fingerprint.cases])
    extent_mm = spacing_mm * np.array([case.shape for case in fingerprint.cases])
    for what, value, seen, factor in (
        ("voxels", np.array(grid.spacing_mm), spacing_mm, _SPACING_FACTOR),
        ("an extent", np.array(grid.spacing_mm) * grid.shape, extent_mm, _EXTENT_FACTOR),
    ):
        low, high = seen.min(axis=0), seen.max(axis=0)
        if (value < low / factor).any() or (value > high * factor).any():
            yield (
                f"W-FINGERPRINT: {what} of {_words(value)} mm along R, A, S; "
                f"in training it was {_words(low)} to {_words(high)} mm"
            )


def _intensities(volume: Volume, plan: Plan, fingerprint: Fingerprint) -> Iterator[str]:
    known = [case.intensities for case in fingerprint.cases if len(case.intensities) == len(plan.channels)]
    if not known or volume.num_channels != len(plan.channels):
        return
    seen = np.array(known)  # (cases, C, 3)
    values = np.array(whole_intensities(volume.array))
    for index, (channel, rule) in enumerate(zip(plan.channels, plan.normalisation, strict=True)):
        there = seen[~np.isnan(seen[:, index, 0]), index]  # cases that have the channel
        if index in volume.missing or not len(there):
            continue
        low, high = there.min(axis=0), there.max(axis=0)
        margin = _INTENSITY_SHARE * float(np.median(there[:, 2] - there[:, 0]))
        strange = (values[index] < low - margin) | (values[index] > high + margin)
        if rule.scheme == "fixed" and strange.any():
            at = int(strange.argmax())
            yield (
                f"W-INTENSITY: {channel} has a {_PERCENTILES[at]} of {values[index, at]:.6g}, "
                f"in training it was {low[at]:.6g} to {high[at]:.6g}"
            )


def _words(values: ArrayLike) -> str:
    return "x".join(f"{value:.3g}" for value in np.asarray(values))
