"""One case looked at: everything that its images and its mask tell, one fault never hiding another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medseg.core.case import Case, Dataset
from medseg.core.doctor import Finding, Fixable, Severity
from medseg.core.errors import GeometryError, MedsegError
from medseg.core.geometry import Shape, Vector
from medseg.core.reading import AS_IT_IS, Reading
from medseg.core.sides import left_right_pairs
from medseg.core.volume import LabelMap, Volume, require_same_grid
from medseg.data.body import share_outside
from medseg.data.contents import (
    NAME_THEM,
    centroid_mm,
    content_hash,
    num_values,
    unknown_values,
    values_in,
)
from medseg.data.cures import Cured, cure_image, cure_label
from medseg.data.modality import doubt_modality
from medseg.io.examine import Examined, examine_image, examine_label

_MOSTLY_OUTSIDE = 0.5
_FIX = "`medseg check --fix FOLDER` mends it in a copy"
_OPTIONS: dict[str, Fixable] = {"E-NO-ORIENTATION": "--assume-orientation", "E-GEOM-CONFLICT": "--prefer"}


@dataclass
class Seen:
    """What one reading of a case leaves for the comparison of cases.

    Attributes:
        case: The case.
        findings: What is wrong with it alone.
        content: Hash of the image's voxels; empty when it could not be read.
        label_content: Hash of the mask's voxels; empty when there is none, or nothing in it.
        spacing_mm: Along R, A, S; None when it could not be read.
        shape: Along R, A, S; None when it could not be read.
        num_values: Different values in each channel, as far as a sample tells.
        counts: Voxels by mask value; None without a readable mask.
        sides: Pairs whose left lies on the right, and those where it does not.
    """

    case: Case
    findings: list[Finding] = field(default_factory=list)
    content: str = ""
    label_content: str = ""
    spacing_mm: Vector | None = None
    shape: Shape | None = None
    num_values: tuple[int, ...] = ()
    counts: dict[int, int] | None = None
    sides: dict[tuple[str, str], bool] = field(default_factory=dict)

    def add(
        self,
        severity: Severity,
        code: str,
        message: str,
        remedy: str = "",
        *,
        file: Path | None = None,
        fixable: Fixable = "no",
    ) -> None:
        found = Finding(
            case=self.case.id,
            severity=severity,
            code=code,
            file=str(file or ""),
            message=message,
            remedy=remedy,
            fixable=fixable,
        )
        self.findings.append(found)

    def add_error(self, error: MedsegError, *, fixable: Fixable) -> None:
        remedy = f"{_FIX}." if fixable == "yes" else error.remedy
        self.add("error", error.code, error.message, remedy, file=error.file, fixable=fixable)


def inspect_case(case: Case, dataset: Dataset, reading: Reading = AS_IT_IS) -> Seen:
    """Read a case and look at it; whatever is wrong becomes a finding.

    Args:
        case: The case.
        dataset: Its labels and channels.
        reading: What the user has allowed.
    """
    seen = Seen(case)
    try:
        images = _look_at_images(seen, dataset, reading)
        if case.label is not None:
            _look_at_mask(seen, case.label, images, dataset, reading)
    except (OSError, MemoryError) as error:
        found = f"could not be read: {str(error) or type(error).__name__}"
        seen.add("error", "E-READ", found, "Check the disk and the free memory, then try it again.")
    return seen


def examine_images(case: Case, dataset: Dataset, reading: Reading) -> list[Examined]:
    """Every image file of a case, whether it can be read or not."""
    channels = len(dataset.channels) if len(case.images) == 1 and not case.missing else 1
    return [examine_image(path, reading, channels=channels) for path in case.images]


def _look_at_images(seen: Seen, dataset: Dataset, reading: Reading) -> list[Volume]:
    """The images as cured; none when one of them cannot be, so that nothing is compared with a guess."""
    examined = examine_images(seen.case, dataset, reading)
    cured = [cure_image(found) for found in examined]
    for found, image in zip(examined, cured, strict=True):
        _tell(seen, found, image)
    volumes = [image.content for image in cured if isinstance(image.content, Volume)]
    if len(volumes) < len(examined):
        return []
    seen.content = content_hash([volume.array for volume in volumes])
    grid = volumes[0].geometry.canonical()
    seen.spacing_mm, seen.shape = grid.spacing_mm, grid.shape
    for volume in volumes[1:]:
        try:
            require_same_grid(volumes[0], volume)
        except MedsegError as error:
            seen.add_error(error, fixable="no")
            return []
    channels = [channel for volume in volumes for channel in volume.array]
    seen.num_values = tuple(num_values(channel) for channel in channels)
    for name, channel in zip(dataset.channels, channels, strict=True):
        if doubt := doubt_modality(name, channel):
            file = seen.case.images[0] if len(seen.case.images) == 1 else None
            seen.add("warning", *doubt, file=file)
    return volumes


def _look_at_mask(seen: Seen, path: Path, images: list[Volume], dataset: Dataset, reading: Reading) -> None:
    grid = images[0].geometry if images else None
    found = examine_label(path, reading, onto=grid, names=dataset.labels)
    cured = cure_label(found, grid)
    _tell(seen, found, cured)
    labels = cured.content if isinstance(cured.content, LabelMap) else _legible(found)
    if labels is None:
        return
    seen.counts = counts = values_in(labels)
    _look_at_labels(seen, dataset, counts)
    if not any(isinstance(fault, GeometryError) and fault.code not in cured.mended for fault in found.faults):
        _look_at_sides(seen, labels, dataset, counts)
    if images and cured.content is not None and sum(counts.values()) > counts.get(0, 0):
        seen.label_content = content_hash([labels.array])
        share = share_outside(images[0], labels)
        if share > _MOSTLY_OUTSIDE:
            message = f"{share:.0%} of the labelled voxels lie outside the body"
            remedy = "Check that the mask belongs to this image, and that neither is mirrored."
            seen.add("warning", "W-OUTSIDE", message, remedy, file=path)


def _tell(seen: Seen, found: Examined, cured: Cured) -> None:
    """Faults as errors, flags as notes; a mask in another place has its fault only after comparison."""
    known = {fault.code for fault in found.faults}
    for fault in found.faults:
        option = _OPTIONS.get(fault.code, "no") if found.content is not None else "no"
        seen.add_error(fault, fixable="yes" if fault.code in cured.mended else option)
    for error in cured.refused:
        if error.code not in known:
            seen.add_error(error, fixable="no")
    for change in cured.changes:
        if change.code == "E-GRID-MISMATCH":
            message = f"not on the grid of its image: {change.was}"
            seen.add("error", change.code, message, f"{_FIX}: {change.now}.", file=found.path, fixable="yes")
    for flag in found.warnings:
        code, _, detail = flag.partition(": ")
        message = detail or next((change.was for change in cured.changes if change.code == code), "a remark of reading")
        is_mended = code in cured.mended
        remedy = f"{_FIX}." if is_mended else "See docs/errors.md."
        seen.add("note", code, message, remedy, file=found.path, fixable="yes" if is_mended else "no")


def _legible(found: Examined) -> LabelMap | None:
    """A mask whose values can be looked at although its place is in doubt."""
    if found.geometry is None or any(not isinstance(fault, GeometryError) for fault in found.faults):
        return None
    return found.labels()


def _look_at_labels(seen: Seen, dataset: Dataset, counts: dict[int, int]) -> None:
    file = seen.case.label
    if strange := unknown_values(counts, dataset):
        seen.add("error", "E-LABEL-UNKNOWN", strange, NAME_THEM, file=file)
    if not counts.keys() & set(dataset.labels.values()):
        seen.add("warning", "W-EMPTY-MASK", "no voxel has a label", "Check that the mask is right.", file=file)
    labelled = seen.case.labelled
    hidden = [
        name
        for name, value in dataset.labels.items()
        if value in counts and labelled is not None and name not in labelled
    ]
    if hidden:
        message = f"voxels of {hidden}, which 'labelled' leaves out"
        seen.add("warning", "W-LABELLED", message, "Add them, or clear the voxels.", file=file)


def _look_at_sides(seen: Seen, labels: LabelMap, dataset: Dataset, counts: dict[int, int]) -> None:
    for left, right in left_right_pairs(dataset.labels):
        values = dataset.labels[left], dataset.labels[right]
        if not all(value in counts for value in values):
            continue
        left_mm, right_mm = (float(centroid_mm(labels, value)[0]) for value in values)
        seen.sides[left, right] = left_mm > right_mm + max(labels.geometry.spacing_mm)
        if seen.sides[left, right]:
            message = f"{left!r} lies {left_mm - right_mm:.0f} mm to the right of {right!r}"
            remedy = "The image is mirrored, or the labels are swapped."
            seen.add("warning", "W-LEFT-RIGHT", message, remedy, file=labels.source)
