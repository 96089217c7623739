"""One case looked at: what its image and its mask tell when they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medseg.core.case import Case, Dataset
from medseg.core.document import Document
from medseg.core.errors import MedsegError, case_context
from medseg.core.geometry import Vector
from medseg.core.sides import left_right_pairs
from medseg.core.volume import LabelMap, Volume, require_same_grid
from medseg.data.contents import NAME_THEM, centroid_mm, content_hash, holds_air, unknown_values, values_in
from medseg.io.volumes import read_labels, read_volumes

Severity = Literal["error", "warning", "note"]

_OFFSET_HU = 1024


class Finding(Document):
    """One thing to know about a case, or about the whole dataset when `case` is empty."""

    case: str
    severity: Severity
    code: str
    message: str
    remedy: str = ""


@dataclass
class Seen:
    """What one reading of a case leaves for the comparison of cases.

    Attributes:
        case: The case.
        findings: What is wrong with it alone.
        content: Hash of the image's voxels; empty when it could not be read.
        spacing_mm: Along R, A, S; None when it could not be read.
        counts: Voxels by mask value; None without a readable mask.
    """

    case: Case
    findings: list[Finding] = field(default_factory=list)
    content: str = ""
    spacing_mm: Vector | None = None
    counts: dict[int, int] | None = None

    def add(self, severity: Severity, code: str, message: str, remedy: str = "") -> None:
        found = Finding(case=self.case.id, severity=severity, code=code, message=message, remedy=remedy)
        self.findings.append(found)


def inspect_case(case: Case, dataset: Dataset) -> Seen:
    """Read a case and look at it; what goes wrong becomes a finding."""
    seen = Seen(case)
    try:
        with case_context(case.id):
            volume = read_volumes(case.images, dataset.reading, channels=len(dataset.channels))
            seen.content = content_hash(volume)
            seen.spacing_mm = volume.geometry.canonical().spacing_mm
            _look_at_image(seen, volume, dataset)
            if case.label is not None:
                labels = read_labels(case.label, dataset.reading, onto=volume.geometry, names=dataset.labels)
                require_same_grid(volume, labels)
                _look_at_flags(seen, labels, case.label)
                _look_at_labels(seen, labels, dataset)
    except MedsegError as error:
        message = f"{error.file}: {error.message}" if error.file else error.message
        seen.add("error", error.code, message, error.remedy)
    except (OSError, MemoryError) as error:
        found = f"could not be read: {str(error) or type(error).__name__}"
        seen.add("error", "E-READ", found, "Check the disk and the free memory, then try it again.")
    return seen


def _look_at_image(seen: Seen, volume: Volume, dataset: Dataset) -> None:
    _look_at_flags(seen, volume, seen.case.images[0])
    for name, channel in zip(dataset.channels, volume.array, strict=True):
        if name != "CT" or holds_air(channel):
            continue
        low, high = float(channel.min()), float(channel.max())
        is_offset = low >= 0 and high > _OFFSET_HU
        seen.add(
            "warning",
            "W-INTENSITY",
            f"CT without air: values from {low:g} to {high:g}"
            + (f", as if {_OFFSET_HU} had been added" if is_offset else ""),
            "Models made for HU will not fit it; train on it as it is, or convert it to HU.",
        )


def _look_at_flags(seen: Seen, read: Volume | LabelMap, path: Path) -> None:
    for flag in read.warnings:
        seen.add("note", flag, f"remark while reading {read.source or path}", "See docs/errors.md.")


def _look_at_labels(seen: Seen, labels: LabelMap, dataset: Dataset) -> None:
    counts = values_in(labels)
    seen.counts = counts
    if strange := unknown_values(counts, dataset):
        seen.add("error", "E-LABEL-UNKNOWN", f"{seen.case.label}: {strange}", NAME_THEM)
    if not counts.keys() & set(dataset.labels.values()):
        seen.add("warning", "W-EMPTY-MASK", f"{seen.case.label}: no voxel has a label", "Check that the mask is right.")
    hidden = [
        name
        for name, value in dataset.labels.items()
        if value in counts and seen.case.labelled is not None and name not in seen.case.labelled
    ]
    if hidden:
        seen.add(
            "warning",
            "W-LABELLED",
            f"voxels of {hidden}, which 'labelled' leaves out",
            "Add them, or clear the voxels.",
        )
    _look_at_sides(seen, labels, dataset, counts)


def _look_at_sides(seen: Seen, labels: LabelMap, dataset: Dataset, counts: dict[int, int]) -> None:
    for left, right in left_right_pairs(dataset.labels):
        values = dataset.labels[left], dataset.labels[right]
        if not all(value in counts for value in values):
            continue
        left_mm, right_mm = (float(centroid_mm(labels, value)[0]) for value in values)
        if left_mm > right_mm + max(labels.geometry.spacing_mm):
            seen.add(
                "warning",
                "W-LEFT-RIGHT",
                f"{left!r} lies {left_mm - right_mm:.0f} mm to the right of {right!r}",
                "The image is mirrored, or the labels are swapped.",
            )
