"""What the baselines know of one case: radiomics under its masks, and what the network says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medseg.core.baseline import FeatureSet
from medseg.core.errors import InputError
from medseg.core.volume import require_same_grid
from medseg.data.contents import read_reference
from medseg.io.volumes import read_volumes
from medseg.ops.radiomics import image_intensities, region_intensities, region_shape

if TYPE_CHECKING:
    from medseg.core.case import Case, Dataset
    from medseg.core.prediction import Prediction
    from medseg.core.volume import Volume
    from medseg.engine.predict import Predictor

PRESENT = "present"


@dataclass(frozen=True, eq=False)
class Measured:
    """One case in numbers.

    Attributes:
        features: By kind and name; what is not defined or has no mask is not in it.
        missing: Labels without a voxel in the mask that was used, or not annotated in it.
        answers: The network's probabilities by head and class; empty without a network.
    """

    case: Case
    features: Mapping[FeatureSet, Mapping[str, float]]
    missing: tuple[str, ...] = ()
    answers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measuring:
    """How cases are measured.

    Attributes:
        labels: Under whose masks; without any the image itself is measured.
        outlines: Without labels: the images hold two values and are shapes, measured as such.
        kinds: Of features that are wanted.
        predictor: The network, or None.
        predicted: Whether the masks of judged cases are the network's.
    """

    dataset: Dataset
    labels: tuple[str, ...]
    outlines: bool = False
    kinds: tuple[FeatureSet, ...] = ("radiomics",)
    predictor: Predictor | None = None
    predicted: bool = False

    @property
    def words(self) -> str:
        """What is measured."""
        radiomics = self._radiomics_words() if "radiomics" in self.kinds else ""
        encoder = "what the network's classification head reads" if "encoder" in self.kinds else ""
        return "; ".join(words for words in (radiomics, encoder) if words)

    def teaching(self, case: Case) -> Measured:
        """A training case, under its reference mask."""
        return self._measured(case, asks="encoder" in self.kinds, predicted=False)

    def judged(self, case: Case) -> Measured:
        """A judged case, with the network's answer where there is a network."""
        return self._measured(case, asks=True, predicted=self.predicted)

    def _radiomics_words(self) -> str:
        if self.labels:
            judged = "the network's masks" if self.predicted else "reference masks"
            return f"radiomics under {', '.join(self.labels)} (training: reference masks; judged cases: {judged})"
        if self.outlines:
            return "the shape of the nonzero voxels (the images hold two values)"
        return "the intensities of the whole image (the dataset has no labels)"

    def _measured(self, case: Case, *, asks: bool, predicted: bool) -> Measured:
        volume = read_volumes(
            case.images, self.dataset.reading_of(case), channels=len(self.dataset.channels), missing=case.missing
        )
        prediction = None
        if self.predictor is not None and asks:
            prediction = self.predictor.predict(volume, attributes=case.attributes)
        features: dict[FeatureSet, Mapping[str, float]] = {}
        missing: tuple[str, ...] = ()
        if "radiomics" in self.kinds and self.labels:
            features["radiomics"], missing = self._under_masks(case, volume, prediction if predicted else None)
        elif "radiomics" in self.kinds:
            features["radiomics"] = _of_outline(volume) if self.outlines else _of_image(volume)
        if prediction is not None and prediction.features is not None:
            features["encoder"] = {f"encoder.{n}": float(one) for n, one in enumerate(prediction.features)}
        return Measured(case, features, missing, {} if prediction is None else prediction.classes)

    def _under_masks(
        self, case: Case, volume: Volume, prediction: Prediction | None
    ) -> tuple[dict[str, float], tuple[str, ...]]:
        """Radiomics of every label, and the labels that have no voxel."""
        if prediction is not None and prediction.labels is not None:
            mask, annotated = prediction.labels.array, self.labels
        else:
            mask = self._reference(case, volume)
            annotated = self.labels if case.labelled is None else case.labelled
        radiomics: dict[str, float] = {}
        missing = []
        for label in self.labels:
            region = mask == self.dataset.labels[label]
            is_there = bool(region.any()) and label in annotated
            radiomics[f"{label}.{PRESENT}"] = float(is_there)
            if is_there:
                radiomics |= {f"{label}.{name}": value for name, value in _of_region(volume, region)}
            else:
                missing.append(label)
        return radiomics, tuple(missing)

    def _reference(self, case: Case, volume: Volume) -> NDArray[np.integer]:
        labels = read_reference(case, self.dataset, onto=volume.geometry)
        if labels is None:
            raise InputError(
                "this case has no reference mask to take radiomics under",
                code="E-BASELINE-MASK",
                remedy="Give it one, leave it out of the manifest, or judge under --masks predicted.",
            )
        require_same_grid(volume, labels)
        return labels.array


def is_two_valued(volume: Volume) -> bool:
    """Whether an image is a shape: one channel of at most two values."""
    return volume.num_channels == 1 and len(np.unique(volume.array)) <= 2


def _of_outline(volume: Volume) -> dict[str, float]:
    region = (volume.array != 0).any(axis=0)
    shape = region_shape(region, spacing_mm=volume.geometry.spacing_mm) if region.any() else {}
    return {f"outline.{PRESENT}": float(region.any())} | {f"outline.{name}": value for name, value in shape.items()}


def _of_image(volume: Volume) -> dict[str, float]:
    return {
        f"image.{name}": value
        for channel in _present(volume)
        for name, value in _numbered(image_intensities(volume.array[channel].ravel()), channel, volume)
    }


def _of_region(volume: Volume, region: NDArray[np.bool_]) -> Iterator[tuple[str, float]]:
    spacing_mm = volume.geometry.spacing_mm
    shape = region_shape(region, spacing_mm=spacing_mm)
    yield from shape.items()
    for channel in _present(volume):
        intensities = region_intensities(
            volume.array[channel], region, spacing_mm=spacing_mm, volume_mm3=shape["shape.volume_mm3"]
        )
        yield from _numbered(intensities, channel, volume)


def _present(volume: Volume) -> list[int]:
    """Channels of which the case has an image."""
    return [channel for channel in range(volume.num_channels) if channel not in volume.missing]


def _numbered(features: dict[str, float], channel: int, volume: Volume) -> Iterator[tuple[str, float]]:
    """Names with the number of the channel, where there are several."""
    for name, value in features.items():
        yield (f"channel {channel + 1}.{name}" if volume.num_channels > 1 else name), value
