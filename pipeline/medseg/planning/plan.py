"""Fingerprint to plan: one small rule per decision, each with its reason in the plan.

The rules start from nnU-Net's (Isensee et al., Nature Methods 2021) and differ where the plan says why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from medseg.core.errors import UsageError
from medseg.core.plan import ClassificationPlan, Normalisation, Plan, Pooling
from medseg.core.sides import left_right_pairs
from medseg.core.values import Target as ValueTarget
from medseg.planning.clinical import clinical_columns
from medseg.planning.network import Notes, Task, plan_step
from medseg.planning.sides import mirror_axes

if TYPE_CHECKING:
    from medseg.core.case import Dataset
    from medseg.core.geometry import Shape, Vector
    from medseg.core.plan import Fingerprint
    from medseg.core.settings import NetworkChoice
    from medseg.planning.network import Target

_ANISOTROPY = 3.0
_LESION = re.compile(
    r"(?<![a-z])(lesion|tumou?r|mass|nodule|cancer|carcinoma|cyst|metastas[ie]s|neoplasm|plaque)(?:s|es)?(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Wishes:
    """What the user decided instead of the rules; None leaves a rule in charge."""

    target: Target = "cpu"
    spacing_mm: Vector | None = None
    patch_size: Shape | None = None
    window_hu: tuple[float, float] | None = None
    network: NetworkChoice | None = None
    memory_gib: float | None = None
    correct_bias_field: bool = False
    equalise: bool = False
    pooling: Pooling | None = None
    directed: bool | None = None
    clinical: tuple[str, ...] = ()


def make_plan(dataset: Dataset, fingerprint: Fingerprint, wishes: Wishes) -> Plan:
    """Configure everything from the dataset's fingerprint."""
    notes = Notes()
    whole = not dataset.labels and bool(dataset.heads or dataset.targets)
    spacing = _spacing(fingerprint, wishes, notes)
    coarse_axis = _coarse_axis(spacing, notes)
    crop = _crop(fingerprint, notes, whole=whole)
    shape = _network_shape(fingerprint, spacing, whole=whole)
    task = Task(
        shape,
        spacing,
        num_channels=len(dataset.channels),
        num_outputs=len(dataset.labels) + 1 if dataset.labels else 0,
        num_cases=fingerprint.num_cases,
    )
    step = plan_step(task, wishes.network, wishes.target, patch_size=wishes.patch_size, memory_gib=wishes.memory_gib)
    notes.decisions += step.decisions
    diagnosis = _classification(dataset, fingerprint, wishes, whole=whole, notes=notes)
    columns = clinical_columns(dataset, wishes.clinical, notes)
    pairs = left_right_pairs(dataset.label_names)
    axes, reason = mirror_axes(fingerprint, pairs, directed=diagnosis is not None and diagnosis.directed)
    notes.add("mirroring", list(axes) or "none", reason)
    return Plan(
        dataset=dataset.name,
        channels=dataset.channels,
        labels=dataset.labels,
        terms=dataset.terms,
        spacing_mm=spacing,
        crop=crop,
        normalisation=_normalisation(dataset, fingerprint, wishes, notes, cropped=crop == "nonzero"),
        coarse_axis=coarse_axis,
        patch_size=step.patch_size,
        batch_size=step.batch_size,
        mirror_axes=axes,
        left_right_pairs=pairs,
        network=step.network,
        classification=diagnosis and diagnosis.model_copy(update={"clinical": columns}),
        decisions=tuple(notes.decisions),
    )


def _spacing(fingerprint: Fingerprint, wishes: Wishes, notes: Notes) -> Vector:
    if wishes.spacing_mm is not None:
        notes.add("spacing", wishes.spacing_mm, "given in the settings")
        return wishes.spacing_mm
    spacing = list(fingerprint.median_spacing_mm)
    axis = int(np.argmax(spacing))
    finest = min(spacing)
    others = [size for other, size in enumerate(fingerprint.median_shape) if other != axis]
    reason = "median of the training cases along each axis"
    if spacing[axis] > _ANISOTROPY * finest and _ANISOTROPY * fingerprint.median_shape[axis] < min(others):
        spacing[axis] = max(fingerprint.coarse_spacing_mm[axis], finest)
        reason += f"; axis {'RAS'[axis]} is more than 3 x coarser and takes its 10th percentile to keep detail"
    value = (round(spacing[0], 4), round(spacing[1], 4), round(spacing[2], 4))
    notes.add("spacing", value, reason)
    return value


def _coarse_axis(spacing: Vector, notes: Notes) -> int | None:
    axis = int(np.argmax(spacing))
    if spacing[axis] <= _ANISOTROPY * min(spacing):
        notes.add("interpolation", "cubic spline", "no axis is more than 3 x coarser than another")
        return None
    notes.add(
        "interpolation",
        f"linear along {'RAS'[axis]}, cubic spline in the plane",
        "across thick slices a spline overshoots",
    )
    return axis


def _crop(fingerprint: Fingerprint, notes: Notes, *, whole: bool) -> Literal["nonzero", "none"]:
    if whole:
        notes.add("crop", "none", "the whole case is seen at once: cropped and resized, size would tell nothing")
        return "none"
    share = f"the box of nonzero voxels holds {fingerprint.crop_share:.0%} of the image"
    if fingerprint.crop_share < 0.9:
        notes.add("crop", "nonzero", f"{share}: the rest is padding")
        return "nonzero"
    notes.add("crop", "none", f"{share}: there is nothing to gain")
    return "none"


def _network_shape(fingerprint: Fingerprint, spacing: Vector, *, whole: bool) -> Shape:
    """Median size of a case on the network grid: of its foreground, or of all that is seen of it."""
    extent = fingerprint.median_extent_mm
    if whole and fingerprint.cases:
        extents_mm = np.array([np.multiply(case.shape, case.spacing_mm) for case in fingerprint.cases])
        extent = tuple(np.median(extents_mm, axis=0))
    i, j, k = (max(1, round(mm / step)) for mm, step in zip(extent, spacing, strict=True))
    return (i, j, k)


def _normalisation(
    dataset: Dataset, fingerprint: Fingerprint, wishes: Wishes, notes: Notes, *, cropped: bool
) -> tuple[Normalisation, ...]:
    rules = []
    for channel, statistics in zip(dataset.channels, fingerprint.channels, strict=True):
        if wishes.window_hu is not None:
            low, high = wishes.window_hu
            rules.append(
                Normalisation(
                    scheme="fixed", lower=low, upper=high, mean=(low + high) / 2, std=max((high - low) / 4, 1e-3)
                )
            )
            notes.add(f"intensity of {channel}", f"window {low:g} to {high:g}", "given in the settings")
        elif statistics.two_valued:
            low, high = statistics.minimum, statistics.maximum
            rules.append(Normalisation(scheme="fixed", mean=(low + high) / 2, std=max((high - low) / 2, 1e-3)))
            notes.add(f"intensity of {channel}", "-1 and 1", "two values alone: a shape, not an image")
        elif channel.upper() == "CT":
            low, high = statistics.percentile_00_5, statistics.percentile_99_5
            rules.append(
                Normalisation(
                    scheme="fixed", lower=low, upper=high, mean=statistics.mean, std=max(statistics.std, 1e-3)
                )
            )
            notes.add(
                f"intensity of {channel}",
                f"clip to {low:g} .. {high:g}, then mean {statistics.mean:.4g}, deviation {statistics.std:.4g}",
                "CT is calibrated: the 0.5 and 99.5 percentiles of the labelled voxels of the training set",
            )
        else:
            rules.append(
                Normalisation(
                    scheme="per_image",
                    nonzero=cropped,
                    correct_bias_field=wishes.correct_bias_field,
                    equalise=wishes.equalise,
                )
            )
            where = "its nonzero voxels" if cropped else "all its voxels"
            notes.add(f"intensity of {channel}", f"z-score over {where}", "not calibrated: each image by itself")
    return tuple(rules)


def _targets(dataset: Dataset, fingerprint: Fingerprint, notes: Notes) -> dict[str, ValueTarget]:
    """The scale of each number to be answered.

    Raises:
        UsageError: E-TARGET, no two different values to learn from.
    """
    targets = {}
    for name, unit in dataset.targets.items():
        seen = fingerprint.values.get(name)
        if seen is None or seen.std == 0:
            found = "none has a value" if seen is None else f"the {seen.n} with a value all have {seen.low:g} {unit}"
            raise UsageError(
                f"target {name!r} cannot be learnt from these training cases: {found}",
                code="E-TARGET",
                remedy="Give more cases their own in 'values', or take the target out of 'targets' of the manifest.",
            )
        targets[name] = ValueTarget(unit=unit, **seen.model_dump())
        notes.add(
            f"target {name}",
            f"minus {seen.mean:.4g}, divided by {seen.std:.4g} {unit}".strip(),
            f"mean and deviation of the {seen.n} training cases that have it, from {seen.low:.4g} to {seen.high:.4g}",
        )
    return targets


def _classification(
    dataset: Dataset, fingerprint: Fingerprint, wishes: Wishes, *, whole: bool, notes: Notes
) -> ClassificationPlan | None:
    if not (dataset.heads or dataset.targets):
        return None
    targets, pooling = _targets(dataset, fingerprint, notes), wishes.pooling
    if whole:
        shapes = tuple(index for index, channel in enumerate(fingerprint.channels) if channel.two_valued)
        notes.add("diagnosis", "from the whole case", "there are no labels to look under")
        if shapes:
            reason = "a shape is all there is to see: a thick limb has a core, a thin one none"
            notes.add("thickness of shapes", "by what is left when they are worn away", reason)
        return ClassificationPlan(
            heads=dataset.heads,
            ordered=dataset.ordered,
            targets=targets,
            view="whole",
            pooling="attention" if pooling == "attention" else "global",
            pool_labels=(),
            shape_channels=shapes,
            directed=_directed(wishes, notes, shapes=bool(shapes)),
            thickness=bool(shapes),
        )
    lesions = tuple(name for name in dataset.label_names if _LESION.search(name))
    pooled = lesions or dataset.label_names
    reason = "in a patch centred on the foreground: patches without it do not show the class"
    if pooling == "attention":
        reason = "the class may show anywhere; where is learnt"
    elif lesions:
        reason += "; these labels are lesions by name, and a class is told by the lesion, not by the organ around it"
    where = {
        "foreground": f"under {', '.join(pooled)}",
        "global": f"over a patch around {', '.join(pooled)}",
        "attention": "by attention over the whole case, tile by tile",
    }
    notes.add("diagnosis", f"features pooled {where[pooling or 'foreground']}", reason)
    is_outlined = (pooling or "foreground") == "foreground"
    if is_outlined:
        reason = "features that were taught the classes know those of the training cases by heart, mistaken ones too"
        notes.add("encoder", "learns from the segmentation alone", reason)
    return ClassificationPlan(
        heads=dataset.heads,
        ordered=dataset.ordered,
        targets=targets,
        view="foreground",
        pooling=pooling or "foreground",
        pool_labels=pooled,
        directed=_directed(wishes, notes, shapes=False),
        margin=is_outlined,
        teaches_encoder=not is_outlined,
    )


def _directed(wishes: Wishes, notes: Notes, *, shapes: bool) -> bool:
    """Whether regions are measured direction by direction: 13 numbers each, which few cases cannot weigh."""
    if wishes.directed is not None:
        notes.add(
            "measures of shape", "by direction too" if wishes.directed else "of no direction", "given in the settings"
        )
        return wishes.directed
    if shapes:
        reason = "a shape is all there is to see: its thickness, length and tilt may tell its class"
        notes.add("measures of shape", "by direction too", reason)
    return shapes
