"""One examination of a follow-up: read, aligned with the baseline, measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.clinical.examination import Examination, find_lesions
from medseg.core.document import Document
from medseg.core.errors import GeometryError
from medseg.core.volume import LabelMap, Volume
from medseg.io.volumes import read_labels, read_volume
from medseg.ops.alignment import Alignment
from medseg.ops.register import Registration, register, unregistered
from medseg.workflows.follow_up_studies import Study
from medseg.workflows.mask_inputs import MaskRequest, collect_masks, named_labels
from medseg.workflows.measure import onto_image, unit_of


class FollowUpSettings(Document):
    """What a person chooses for a follow-up."""

    criteria: tuple[str, ...] = ("recist11",)
    rules: Path | None = None
    lesions: tuple[str, ...] | None = None
    unit: str | None = None
    register_images: bool = True
    deformable: bool = False
    allow_unregistered: bool = False
    pictures: bool = True


@dataclass(frozen=True, eq=False)
class OpenedStudy:
    """One study in memory, and what was remarked on it."""

    study: Study
    image: Volume
    mask: LabelMap
    unit: str
    registration: Registration | None
    examination: Examination
    labels: dict[str, int]
    lesion_labels: tuple[str, ...]
    flags: tuple[str, ...]


def open_study(study: Study, baseline: Volume | None, settings: FollowUpSettings) -> OpenedStudy:
    """Read, align and measure one examination."""
    (case,) = collect_masks(study.mask, MaskRequest(labels=study.labels))
    image = read_volume(study.image)
    mask, remarks = onto_image(read_labels(study.mask, onto=image.geometry, names=case.labels), image)
    flags = [*image.warnings, *mask.warnings, *remarks]
    labels, lesion_labels, remarks = named_labels(mask, case, MaskRequest(lesions=settings.lesions))
    flags += [flag for flag in remarks if not flag.startswith("W-NO-LESION-LABEL")]
    unit, remarks = unit_of(image, settings.unit)
    flags += remarks
    registration, remarks = (None, []) if baseline is None else _align(baseline, image, settings)
    flags += remarks
    alignment = Alignment.identity() if registration is None else registration.alignment
    named = tuple(name for name in lesion_labels if name in labels)
    found, organs = find_lesions(mask, labels=labels, lesions=named, alignment=alignment, image=image, unit=unit)
    origin = study.identity.study_uid or _fingerprint(mask)
    examination = Examination(study.case, study.day, origin, mask.geometry, alignment, found, organs)
    return OpenedStudy(study, image, mask, unit, registration, examination, labels, named, tuple(flags))


def _align(baseline: Volume, image: Volume, settings: FollowUpSettings) -> tuple[Registration, list[str]]:
    """The alignment with the baseline, and what has to be said of it.

    Raises:
        GeometryError: `E-REGISTRATION`, unless the settings go on without.
    """
    if not settings.register_images:
        is_same = baseline.geometry.agrees_with(image.geometry)
        flag = "W-UNREGISTERED: compared in the scanner's coordinates, as asked"
        return unregistered(baseline, image, stage="same grid" if is_same else "none"), [] if is_same else [flag]
    try:
        found = register(baseline, image, deformable=settings.deformable)
    except GeometryError as error:
        if error.code != "E-REGISTRATION" or not settings.allow_unregistered:
            raise
        return unregistered(baseline, image), [
            f"W-UNREGISTERED: {error.message}; compared in the scanner's coordinates"
        ]
    return found, [f"W-REGISTRATION: given up, {stage}" for stage in found.quality.refused]


def _fingerprint(mask: LabelMap) -> str:
    """What tells this mask from others where no StudyInstanceUID does; says nothing of the patient."""
    digest = hashlib.sha256(mask.geometry.affine.tobytes())
    digest.update(np.packbits(mask.array > 0).tobytes())
    return digest.hexdigest()
