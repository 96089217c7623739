"""A folder of DICOM studies: each annotated series is a case; without annotations, each series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from medseg.core.case import Case
from medseg.core.errors import InputError
from medseg.core.terminology import Name, words_of
from medseg.data.importers.draft import Draft, not_understood
from medseg.io.dicom_tree import Annotation, DicomTree, ImageSeries, read_tree

_MODALITIES = {"CT": "CT", "MR": "MRI", "PT": "PET", "US": "US"}


def read_dicom_tree(folder: Path, *, channels: Sequence[str] = (), masks: str | None = None) -> Draft | None:
    """Pair series with the segmentations and structure sets that refer to them; None when there is no series.

    Cases and patients are numbered in the order of the paths: what the headers say of the patient stays in them.

    Args:
        folder: With any sub-folders.
        channels: One modality chooses among series of several.
        masks: Pattern of the annotations' paths within the folder, where a series has several.

    Raises:
        InputError: `E-IMPORT`: an annotation of a series that is not here, several of one series, or several
            modalities; and as `read_tree`.
    """
    tree = read_tree(folder)
    if not tree.images:
        return None
    chosen = [one for one in tree.annotations if not masks or fnmatch(one.path.relative_to(folder).as_posix(), masks)]
    if masks and not chosen:
        raise not_understood(folder, f"no segmentation or structure set matches {masks!r}", "See `medseg series`.")
    pairs = _pairs(folder, tree, chosen)
    series = [one for one in tree.images if not chosen or one in pairs]
    series = _of_one_modality(folder, series, channels)
    patients = {patient: f"p{number:04d}" for number, patient in enumerate(dict.fromkeys(s.patient for s in series), 1)}
    labels = _labels(pairs[one] for one in series if one in pairs)
    present = {}
    cases = []
    for number, one in enumerate(series, start=1):
        name = f"case_{number:04d}"
        found = pairs.get(one)
        cases.append(
            Case(
                id=name,
                patient=patients[one.patient] if one.patient else "",
                images=(one.folder,),
                series=one.series,
                label=None if found is None else found.path,
            )
        )
        if found is not None:
            here = {words_of(label) for label in found.names}
            present[name] = {value for label, value in labels.items() if words_of(label) in here}
    left = len(tree.images) - len(series)
    notes = [f"{left} DICOM series left out"] if left else []
    notes += [f"{len(tree.damaged)} damaged DICOM files"] if tree.damaged else []
    return Draft(
        name=folder.name,
        cases=tuple(cases),
        channels=(_MODALITIES.get(series[0].modality, series[0].modality),),
        labels=labels,
        present=present,
        description="; ".join(notes),
    )


def _pairs(folder: Path, tree: DicomTree, annotations: Sequence[Annotation]) -> dict[ImageSeries, Annotation]:
    pairs: dict[ImageSeries, Annotation] = {}
    for annotation in annotations:
        series = _drawn_on(folder, tree, annotation)
        if series in pairs:
            names = [one.path.relative_to(folder).as_posix() for one in (pairs[series], annotation)]
            raise not_understood(
                folder,
                f"two files annotate one series: {' and '.join(names)}",
                "Say which of them is the reference, as in --masks '*/reader1/*'.",
            )
        pairs[series] = annotation
    return pairs


def _drawn_on(folder: Path, tree: DicomTree, annotation: Annotation) -> ImageSeries:
    """The series that it names; else the only one of its frame of reference."""
    named = [one for one in tree.images if one.uid in annotation.series]
    frame = annotation.frame_of_reference
    found = named or [one for one in tree.images if frame and one.frame_of_reference == frame]
    if len(found) == 1:
        return found[0]
    several = f"{len(found)} series of {folder.name} fit it" if found else "the series it was drawn on is not here"
    raise InputError(
        several,
        code="E-IMPORT",
        file=annotation.path,
        remedy="Keep each annotation together with its own image series, or leave it out with --masks PATTERN.",
    )


def _of_one_modality(folder: Path, series: Sequence[ImageSeries], channels: Sequence[str]) -> list[ImageSeries]:
    counts = Counter(_MODALITIES.get(one.modality, one.modality or "none") for one in series)
    if len(counts) == 1:
        return list(series)
    if len(channels) != 1 or channels[0] not in counts:
        words = ", ".join(f"{count} of {name}" for name, count in sorted(counts.items()))
        raise not_understood(folder, f"series of several modalities: {words}", "Choose one, as in --channels CT.")
    return [one for one in series if _MODALITIES.get(one.modality, one.modality) == channels[0]]


def _labels(annotations: Iterable[Annotation]) -> dict[str, int]:
    """One label for each name, in whatever case or order of words the files write it; numbered as first met."""
    seen: dict[Name, str] = {}
    for annotation in annotations:
        for name in annotation.names:
            seen.setdefault(words_of(name), name)
    return {name: value for value, name in enumerate(seen.values(), start=1)}
