"""What a dataset looks like: grids, intensities, labels, classes. Measured on training cases only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.core.plan import CaseFingerprint, ChannelStatistics, Fingerprint
from medseg.core.values import ValueRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from medseg.core.case import Case, Dataset
    from medseg.core.geometry import Geometry, Shape, Vector
    from medseg.core.volume import LabelMap, Volume

_SAMPLES = 10_000


@dataclass(frozen=True, eq=False)
class CaseMeasurement:
    """One case's share of the fingerprint.

    Attributes:
        samples: (C, N) intensities drawn evenly from the labelled voxels, or from the crop when nothing is labelled.
    """

    case: CaseFingerprint
    samples: NDArray[np.float32]


def measure_case(case: Case, dataset: Dataset, volume: Volume, *, labels: LabelMap | None) -> CaseMeasurement:
    """Measure one case; axes of the result are in RAS order."""
    array = _canonical(volume.array, volume.geometry)
    geometry = volume.geometry.canonical()
    start, stop = nonzero_box(array)
    mask = None if labels is None else _canonical(labels.array[None], labels.geometry)[0]
    indices = _label_numbers(mask, dataset, geometry.shape)
    # One row per plane of the first axis: how many voxels of it each label holds, background first.
    profile = np.stack([np.bincount(plane.ravel(), minlength=len(dataset.labels) + 1) for plane in indices])
    profiles = dict(zip(dataset.label_names, profile.T[1:], strict=True))
    foreground = indices > 0
    if not foreground.any():
        foreground[tuple(slice(low, high) for low, high in zip(start, stop, strict=True))] = True
    flat = array.reshape(len(array), -1)[:, foreground.ravel()]
    step = max(1, flat.shape[1] // _SAMPLES)
    samples, intensities = flat[:, ::step].astype(np.float32), list(whole_intensities(array))
    for channel in case.missing:
        samples[channel], intensities[channel] = np.nan, (np.nan,) * 3
    fingerprint = CaseFingerprint(
        id=case.id,
        shape=geometry.shape,
        spacing_mm=geometry.spacing_mm,
        cropped_shape=geometry.cropped(start, stop).shape,
        label_voxels={} if mask is None else {name: int(counts.sum()) for name, counts in profiles.items()},
        label_sides={name: _side(counts) for name, counts in profiles.items() if counts.any()},
        intensities=tuple(intensities),
    )
    return CaseMeasurement(fingerprint, samples)


def fingerprint_of(measurements: Sequence[CaseMeasurement], cases: Sequence[Case]) -> Fingerprint:
    """Put the cases' measurements together."""
    rows = [measurement.case for measurement in measurements]
    spacings = np.array([row.spacing_mm for row in rows])
    shapes = np.array([row.cropped_shape for row in rows])
    samples = np.concatenate([measurement.samples for measurement in measurements], axis=1)
    kept = [np.prod(row.cropped_shape) / np.prod(row.shape) for row in rows]
    counts: dict[str, Counter[str]] = {}
    for case in cases:
        for head, name in case.classes.items():
            counts.setdefault(head, Counter())[name] += 1
    names = dict.fromkeys(name for case in cases for name in case.values)
    return Fingerprint(
        num_cases=len(rows),
        median_spacing_mm=_vector(np.median(spacings, axis=0)),
        coarse_spacing_mm=_vector(np.percentile(spacings, 10, axis=0)),
        median_shape=_shape(np.median(shapes, axis=0)),
        median_extent_mm=_vector(np.median(shapes * spacings, axis=0)),
        crop_share=float(np.median(kept)),
        channels=tuple(_statistics(channel[~np.isnan(channel)]) for channel in samples),
        class_counts={head: dict(sorted(counter.items())) for head, counter in counts.items()},
        values={name: _range([case.values[name] for case in cases if name in case.values]) for name in names},
        cases=tuple(rows),
    )


def _range(values: Sequence[float]) -> ValueRange:
    return ValueRange(
        n=len(values),
        mean=float(np.mean(values)),
        std=float(np.std(values)) if min(values) < max(values) else 0.0,
        low=min(values),
        high=max(values),
    )


def whole_intensities(array: NDArray[Any]) -> tuple[Vector, ...]:
    """Of each channel of (C, I, J, K): 0.5th, 50th and 99.5th percentile, from an even sample of the whole image."""
    flat = array.reshape(len(array), -1)
    sample = flat[:, :: max(1, flat.shape[1] // (10 * _SAMPLES))].astype(np.float64)
    return tuple(_vector(np.percentile(channel, (0.5, 50, 99.5))) for channel in sample)


def nonzero_box(array: NDArray[Any]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """First and one-past-last voxel of the box that holds every nonzero voxel of any channel."""
    nonzero = (array != 0).any(axis=0)
    start, stop = np.zeros(3, dtype=int), np.array(nonzero.shape)
    for axis in range(3):
        used = np.flatnonzero(nonzero.any(axis=tuple(other for other in range(3) if other != axis)))
        if len(used):
            start[axis], stop[axis] = used[0], used[-1] + 1
    return start, stop


def _canonical(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    order, flips = geometry.canonical_axes()
    moved = array.transpose(0, *(axis + 1 for axis in order))
    return np.flip(moved, tuple(axis + 1 for axis in flips))


def _label_numbers(mask: NDArray[Any] | None, dataset: Dataset, shape: Shape) -> NDArray[np.uint8]:
    """(I, J, K): 0 outside every label, n + 1 for the n-th of the dataset's label names."""
    if mask is None:
        return np.zeros(shape, dtype=np.uint8)
    table = np.zeros(65536, dtype=np.uint8)
    for number, name in enumerate(dataset.label_names, start=1):
        table[dataset.labels[name]] = number
    return np.asarray(table[mask])


def _side(profile: NDArray[np.int_]) -> float:
    """Where a label's centre lies along the first axis, which runs to the patient's right: -1 left edge, +1 right."""
    centre = float((profile * np.arange(len(profile))).sum() / profile.sum())
    return (2 * centre - (len(profile) - 1)) / max(len(profile) - 1, 1)


def _statistics(values: NDArray[np.float32]) -> ChannelStatistics:
    low, high = np.percentile(values, (0.5, 99.5))
    return ChannelStatistics(
        mean=float(values.mean(dtype=np.float64)),
        std=float(values.std(dtype=np.float64)),
        median=float(np.median(values)),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
        minimum=float(values.min()),
        maximum=float(values.max()),
        two_valued=len(np.unique(values)) <= 2,
    )


def _vector(values: NDArray[np.float64]) -> Vector:
    x, y, z = (float(value) for value in values)
    return (x, y, z)


def _shape(values: NDArray[np.float64]) -> Shape:
    i, j, k = (round(float(value)) for value in values)
    return (i, j, k)
