"""A predicted mask against the reference of its case: on one grid, label by label and lesion by lesion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medseg.core.errors import GeometryError, InputError
from medseg.core.volume import LabelMap, Volume
from medseg.data.contents import read_reference
from medseg.ops.lesions import detect_lesions
from medseg.ops.metrics import LabelComparison, compare_labels, with_percentiles
from medseg.ops.regrid import nearest_on_grid

if TYPE_CHECKING:
    from medseg.core.case import Case, Dataset
    from medseg.core.detection import LesionDetection
    from medseg.core.geometry import Geometry
    from medseg.core.settings import EvaluateSettings

_RESAMPLED = "W-RESAMPLED: the {} lay on another grid and was brought onto the prediction's (nearest voxel)"


@dataclass(frozen=True)
class Rules:
    """What the masks mean and how they are scored.

    Attributes:
        dataset: Labels and ignore value; its cases are not needed.
        lesions: Labels scored lesion by lesion.
        settings: Tolerances, mode, criterion.
    """

    dataset: Dataset
    lesions: tuple[str, ...]
    settings: EvaluateSettings


@dataclass(frozen=True, eq=False)
class ScoredMasks:
    """Both masks of a case, on one grid, and their comparison label by label."""

    prediction: LabelMap
    reference: LabelMap
    labels: tuple[LabelComparison, ...]
    lesions: tuple[LesionDetection, ...]


def score_masks(
    prediction: LabelMap, case: Case, image: Volume | None, rules: Rules
) -> tuple[ScoredMasks, Volume | None, list[str]]:
    """Compare every label that was annotated in this case.

    Args:
        prediction: With the values of the references.
        case: With a reference mask.
        image: Must lie on the same grid, as it will be drawn under the masks.
        rules: Labels and settings.

    Returns:
        The masks and their numbers, the image on their grid, and `W-...` flags.

    Raises:
        InputError: E-NO-REFERENCE, E-LABEL-UNKNOWN, or as the readers.
        GeometryError: E-GRID-MISMATCH.
    """
    onto = prediction.geometry if image is None else image.geometry
    reference = read_reference(case, rules.dataset, onto=onto)
    if reference is None:
        message = "the case has no reference mask"
        raise InputError(message, code="E-NO-REFERENCE", case=case.id)
    reference, image, flags = _on_one_grid(prediction, reference, image, resample=rules.settings.resample_reference)
    labels = {name: value for name, value in rules.dataset.labels.items() if is_labelled(case, name)}
    ignore_value = rules.dataset.ignore_value
    ignore = None if ignore_value is None else reference.array == ignore_value
    settings = rules.settings
    compared = compare_labels(
        prediction.array,
        reference.array,
        spacing_mm=reference.geometry.spacing_mm,
        labels=labels,
        tolerance_mm={name: settings.tolerances_mm.get(name, settings.tolerance_mm) for name in labels},
        ignore=ignore,
        mode=settings.mode,
    )
    judged = np.True_ if ignore is None else ~ignore
    lesions = tuple(
        detect_lesions(
            (prediction.array == labels[name]) & judged,
            (reference.array == labels[name]) & judged,
            geometry=reference.geometry,
            label=name,
            criterion=settings.lesion_criterion,
            threshold=settings.lesion_threshold,
            min_volume_ml=settings.min_lesion_ml,
        )
        for name in rules.lesions
        if name in labels
    )
    scored = ScoredMasks(prediction, reference, with_percentiles(compared, settings.percentiles), lesions)
    return scored, image, flags


def is_labelled(case: Case, name: str) -> bool:
    """Whether the reference of the case can judge a label."""
    return case.label is not None and (case.labelled is None or name in case.labelled)


def _on_one_grid(
    prediction: LabelMap, reference: LabelMap, image: Volume | None, *, resample: bool
) -> tuple[LabelMap, Volume | None, list[str]]:
    """Reference and image on the prediction's grid.

    Raises:
        GeometryError: E-GRID-MISMATCH when they are not and may not be brought there.
    """
    grid, flags = prediction.geometry, []
    if not grid.agrees_with(reference.geometry):
        _require_leave("reference", reference.geometry, prediction, given=resample)
        moved = nearest_on_grid(reference.array, reference.geometry, grid)
        reference = replace(reference, array=moved, geometry=grid)
        flags.append(_RESAMPLED.format("reference"))
    if image is not None and not grid.agrees_with(image.geometry):
        _require_leave("image", image.geometry, prediction, given=resample)
        darkest = int(np.floor(image.array[0].min()))
        moved = nearest_on_grid(image.array[0], image.geometry, grid, outside=darkest)
        image = replace(image, array=moved[None], geometry=grid)
        flags.append(_RESAMPLED.format("image"))
    return reference, image, flags


def _require_leave(name: str, expected: Geometry, prediction: LabelMap, *, given: bool) -> None:
    if not given:
        raise GeometryError(
            f"the prediction is not on the grid of the {name}: expected {expected.describe()}; "
            f"found {prediction.geometry.describe()}",
            code="E-GRID-MISMATCH",
            file=prediction.source,
            remedy="Check that they belong together; --resample-reference then scores on the prediction's grid.",
        )
