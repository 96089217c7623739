"""Settle what a format left open: channels, label names, classes, which labels were annotated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medseg.core.case import Case, Dataset
from medseg.core.document import suggest
from medseg.core.errors import UsageError, case_context
from medseg.core.progress import Progress
from medseg.core.reading import Reading
from medseg.data.contents import holds_air, values_in
from medseg.data.importers.draft import Draft, is_gap, modality_of, number_of, stem_of
from medseg.io.volumes import read_labels, read_volumes

_THREADS = 4


def complete(
    draft: Draft,
    *,
    channels: Sequence[str],
    labels: dict[str, int],
    classes: Sequence[str],
    absent_is_unlabelled: bool,
    reading: Reading,
    progress: Progress,
) -> Dataset:
    """Fill the gaps of a draft from the caller's wishes first, the source second, the files last.

    Raises:
        UsageError: `E-CLASS-NAME`, class names that do not fit what was found.
    """
    found, note = (tuple(channels), "") if channels else _channels(draft, reading)
    values = labels or draft.labels
    cases = draft.cases
    if any(case.label for case in cases) and (absent_is_unlabelled or not values):
        present = draft.present or _values_present(cases, progress)
        seen = sorted(set().union(*present.values()) - {0, draft.ignore_value})
        values = values or {f"label_{value}": value for value in seen}
        if absent_is_unlabelled:
            cases = tuple(_with_labelled(case, values, present.get(case.id)) for case in cases)
    heads, cases = _heads(cases, tuple(classes))
    return Dataset.parse(
        {
            "name": draft.name,
            "description": "; ".join(part for part in (draft.description, note) if part),
            "licence": draft.licence,
            "channels": found,
            "labels": values,
            "ignore_value": draft.ignore_value,
            "heads": heads,
            "targets": dict.fromkeys((name for case in cases for name in case.values), ""),
            "reading": reading,
            "cases": cases,
        }
    )


def _channels(draft: Draft, reading: Reading) -> tuple[tuple[str, ...], str]:
    """Modality per channel by name, else by the first case's voxels; and a sentence on how it was found."""
    case = draft.cases[0]
    names = draft.channels or tuple(_speaking(path) for path in case.images)
    notes = [f"channels: {', '.join(names)}"] if len(names) > 1 else []
    if all(modality_of(name) for name in names):
        return tuple(modality_of(name) or "" for name in names), "; ".join(notes)
    with case_context(case.id):
        volume = read_volumes(case.images, reading, channels=len(names))
    looks = ["CT" if holds_air(channel) else "MRI" for channel in volume.array]
    notes.append(f"modality guessed from the voxels of case {case.id}")
    return tuple(modality_of(name) or look for name, look in zip(names, looks, strict=True)), "; ".join(notes)


def _speaking(image: Path) -> str:
    """The name that tells the modality, the file's before its folder's: `ct/pt_1.nii.gz`, `STS_001/PET.nii.gz`."""
    stem = stem_of(image)
    return image.parent.name if modality_of(stem) is None and modality_of(image.parent.name) else stem


def _values_present(cases: Sequence[Case], progress: Progress) -> dict[str, set[int]]:
    labelled = [(case.id, case.label) for case in cases if case.label is not None]

    def read(item: tuple[str, Path]) -> tuple[str, set[int]]:
        with case_context(item[0]):
            return item[0], set(values_in(read_labels(item[1])))

    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(progress(pool.map(read, labelled), "reading masks", len(labelled)))


def _with_labelled(case: Case, labels: dict[str, int], present: set[int] | None) -> Case:
    if present is None:
        return case
    names = tuple(name for name, value in sorted(labels.items(), key=lambda item: item[1]) if value in present)
    return case.model_copy(update={"labelled": names})


def with_targets(dataset: Dataset, units: Mapping[str, str]) -> Dataset:
    """Name the units of targets, and make targets of the attributes that are named.

    Raises:
        UsageError: `E-TARGET-NAME`, no case has a value; `E-TABLE`, a value that is no number.
    """
    cases = tuple(_with_values(case, units) for case in dataset.cases)
    for name in units:
        if not any(name in case.values for case in cases):
            columns = sorted({name for case in dataset.cases for name in (*case.values, *case.attributes)})
            raise UsageError(
                f"no case has a value of target {name!r}",
                code="E-TARGET-NAME",
                remedy=f"Name a column of the table with its unit, age=years: {suggest(name, columns)}",
            )
    targets = {**dataset.targets, **units}
    return Dataset.parse({**dataset.model_dump(), "targets": targets, "cases": cases})


def _with_values(case: Case, targets: Mapping[str, str]) -> Case:
    """The attributes that were named as targets, as numbers."""
    moved = {name: value for name, value in case.attributes.items() if name in targets}
    if not moved:
        return case
    with case_context(case.id):
        values = {name: number_of(name, value) for name, value in moved.items() if not is_gap(value)}
    kept = {name: value for name, value in case.attributes.items() if name not in moved}
    return case.model_copy(update={"values": {**case.values, **values}, "attributes": kept})


def _heads(cases: tuple[Case, ...], names: tuple[str, ...]) -> tuple[dict[str, tuple[str, ...]], tuple[Case, ...]]:
    """The classes of every head; numbers become the caller's names, counted from 0."""
    heads = list(dict.fromkeys(head for case in cases for head in case.classes))
    if not names:
        return {head: _names_of(head, cases) for head in heads}, cases
    if len(heads) != 1:
        raise UsageError(
            f"class names were given for {len(heads)} classification heads {heads}",
            code="E-CLASS-NAME",
            remedy="Give class names only where there is one head, or write them into the manifest.",
        )
    head = heads[0]
    return {head: names}, tuple(_renamed(case, head, names) for case in cases)


def _renamed(case: Case, head: str, names: tuple[str, ...]) -> Case:
    value = case.classes.get(head)
    if value is None or value in names:
        return case
    if not value.isdecimal() or int(value) >= len(names):
        raise UsageError(
            f"class {value!r} is none of {list(names)}",
            code="E-CLASS-NAME",
            case=case.id,
            remedy="Name every class that occurs, in the order of its number from 0.",
        )
    return case.model_copy(update={"classes": {**case.classes, head: names[int(value)]}})


def _names_of(head: str, cases: tuple[Case, ...]) -> tuple[str, ...]:
    values = {case.classes[head] for case in cases if head in case.classes}
    if len(values) < 2:
        raise UsageError(
            f"head {head!r} has one class only, {next(iter(values))!r}",
            code="E-CLASS-NAME",
            remedy="Name all its classes with --classes, or rename the column so that it becomes an attribute.",
        )
    return tuple(sorted(values, key=lambda value: (0, int(value), "") if value.isdecimal() else (1, 0, value)))
