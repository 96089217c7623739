"""Cases compared with one another: what only shows when all of them have been seen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from medseg.core.case import Case, Dataset
from medseg.core.doctor import Finding
from medseg.data.inspection import Seen

FEWEST = 3
_SPACING_FACTOR = 2.0
_SIZE_FACTOR = 8.0
_MASK_VALUES = 16


def compare_cases(dataset: Dataset, seen: Sequence[Seen]) -> list[Finding]:
    """Findings between cases, case by case."""
    return [
        *_repeated_ids(dataset),
        *_leaks(dataset),
        *_duplicates(seen),
        *_duplicate_masks(seen),
        *_spacings(seen),
        *_sizes(seen),
        *_masks_as_images(seen),
    ]


def summarise(dataset: Dataset, seen: Sequence[Seen]) -> list[Finding]:
    """Findings about the dataset as a whole."""
    return [*_mirrored(seen), *_absent_labels(dataset, seen), *_absent_classes(dataset), *_values(dataset)]


def _repeated_ids(dataset: Dataset) -> list[Finding]:
    counts = Counter(case.id for case in dataset.cases)
    remedy = "Give every case an id of its own."
    return [
        _error(name, "E-CASE-DUPLICATE", f"{count} cases have this id", remedy)
        for name, count in counts.items()
        if count > 1
    ]


def _leaks(dataset: Dataset) -> list[Finding]:
    """Patients with cases on both sides of a split."""
    places: dict[str, dict[str, Case]] = defaultdict(dict)
    for case in dataset.cases:
        if place := _place(case):
            places[case.group].setdefault(place, case)
    remedy = "Give all cases of a patient the same 'split' and 'fold'."
    return [
        _error(list(sides.values())[1].id, "E-LEAK", f"patient {group} is in {' and in '.join(sides)}", remedy)
        for group, sides in places.items()
        if len(sides) > 1
    ]


def _place(case: Case) -> str:
    """The split or fold that a case is assigned to; empty when to none."""
    return f"fold {case.fold}" if case.fold is not None and case.split != "test" else case.split or ""


def _duplicates(seen: Sequence[Seen]) -> Iterable[Finding]:
    for first, *others in _groups((one.content, one.case) for one in seen):
        for case in others:
            message = f"the same voxels as case {first.id}"
            if case.group == first.group:
                yield _warning(case.id, "W-DUPLICATE", message, "Remove one if it is no repeated measurement.")
                continue
            if _place(case) != _place(first):
                message += f", which is in {_place(first) or 'no split'}; this one in {_place(case) or 'no split'}"
            remedy = "Remove one, or give both the same 'patient' so that no split parts them."
            yield _error(case.id, "E-DUPLICATE", message, remedy)


def _duplicate_masks(seen: Sequence[Seen]) -> Iterable[Finding]:
    """One mask under two images; a mask that more share is a template, and no mistake."""
    contents = {one.case.id: one.content for one in seen}
    for group in _groups((one.label_content, one.case) for one in seen):
        if len(group) == 2 and contents[group[0].id] != contents[group[1].id]:
            message = f"the same mask as case {group[0].id}, but another image"
            yield _warning(group[1].id, "W-DUPLICATE-MASK", message, "Find out which image it was drawn on.")


def _groups(contents: Iterable[tuple[str, Case]]) -> Iterable[list[Case]]:
    groups: dict[str, list[Case]] = defaultdict(list)
    for content, case in contents:
        if content:
            groups[content].append(case)
    return groups.values()


def _spacings(seen: Sequence[Seen]) -> Iterable[Finding]:
    known = [(one.case.id, np.asarray(one.spacing_mm)) for one in seen if one.spacing_mm is not None]
    if len(known) < FEWEST:
        return
    median = np.median([spacing_mm for _, spacing_mm in known], axis=0)
    for name, spacing_mm in known:
        ratio = spacing_mm / median
        if max(ratio.max(), 1 / ratio.min()) > _SPACING_FACTOR:
            edges, usual = ("x".join(f"{edge:.3g}" for edge in spacing) for spacing in (spacing_mm, median))
            message = f"voxels of {edges} mm along R, A, S; the median is {usual} mm"
            yield _warning(name, "W-SPACING", message, "Check the header; if it is right, nothing needs to be done.")


def _sizes(seen: Sequence[Seen]) -> Iterable[Finding]:
    known = [(one.case.id, one.shape, float(np.prod(one.shape))) for one in seen if one.shape is not None]
    if len(known) < FEWEST:
        return
    median = float(np.median([size for _, _, size in known]))
    for name, shape, size in known:
        if max(size / median, median / size) > _SIZE_FACTOR:
            times = f"{size / median:.0f} times as many" if size > median else f"{median / size:.0f} times fewer"
            message = f"{'x'.join(map(str, shape))} voxels: {times} than the median case"
            yield _warning(name, "W-SIZE", message, "Check that it shows the same region; memory and time follow it.")


def _masks_as_images(seen: Sequence[Seen]) -> Iterable[Finding]:
    """An image of few values among others of many; a cohort of shapes has none of many."""
    few = [one for one in seen if one.num_values and min(one.num_values) <= _MASK_VALUES]
    if len(few) >= max(FEWEST, sum(bool(one.num_values) for one in seen) / 2):
        return
    for one in few:
        message = f"an image of only {min(one.num_values)} different values"
        yield _warning(one.case.id, "W-FEW-VALUES", message, "Check that no mask is named as the image.")


def _mirrored(seen: Sequence[Seen]) -> Iterable[Finding]:
    """All cases with pairs the wrong way round: not one patient, but how the files were made."""
    known = [one for one in seen if one.sides]
    if len(known) >= FEWEST and all(all(one.sides.values()) for one in known):
        message = f"left lies on the right of right in all {len(known)} cases that show both"
        remedy = "The files of the whole dataset are mirrored, or the names of its labels are exchanged in 'labels'."
        yield _warning("", "W-LEFT-RIGHT", message, remedy)


def _absent_labels(dataset: Dataset, seen: Sequence[Seen]) -> Iterable[Finding]:
    masks = [(one.case, one.counts) for one in seen if one.counts is not None]
    for name, value in dataset.labels.items():
        without = [case for case, found in masks if value not in found]
        if masks and len(without) == len(masks):
            remedy = "Remove it from 'labels', or correct its value."
            yield _warning("", "W-LABEL-ABSENT", f"no mask holds label {name!r} (value {value})", remedy)
        elif 0 < len(doubtful := [case for case in without if case.labelled is None]) < len(masks) / 2:
            message = f"{len(doubtful)} of {len(masks)} masks do not hold label {name!r}, the first is {doubtful[0].id}"
            remedy = "If nobody drew it there, say so with 'labelled'; otherwise it is taught as absent."
            yield Finding(case="", severity="note", code="W-LABEL-PARTIAL", message=message, remedy=remedy)
    if dataset.labels and (bare := [case.id for case in dataset.cases if case.label is None]):
        message = f"{len(bare)} cases have no mask, the first is {bare[0]}"
        yield Finding(case="", severity="note", code="W-NO-MASK", message=message)


def _absent_classes(dataset: Dataset) -> Iterable[Finding]:
    for head, names in dataset.heads.items():
        given = Counter(case.classes.get(head) for case in dataset.cases)
        for name in names:
            if given[name] == 0:
                message = f"no case has class {name!r} of head {head!r}"
                yield _warning("", "W-CLASS-ABSENT", message, "Remove it from 'heads', or add cases.")
        if given[None]:
            message = f"{given[None]} cases have no class for head {head!r}"
            yield Finding(case="", severity="note", code="W-NO-CLASS", message=message)


def _values(dataset: Dataset) -> Iterable[Finding]:
    for name, unit in dataset.targets.items():
        given = [case.values[name] for case in dataset.cases if name in case.values]
        if not given:
            remedy = "Remove it from 'targets', or give cases a value."
            yield _warning("", "W-VALUE-ABSENT", f"no case has a value of target {name!r}", remedy)
        elif len(set(given)) == 1:
            amount = f"{given[0]:g} {unit}".strip()
            message = f"target {name!r} is {amount} in all {len(given)} cases that have it"
            yield _warning("", "W-VALUE-CONSTANT", message, "Remove it from 'targets', or add cases.")
        if 0 < len(given) < len(dataset.cases):
            message = f"{len(dataset.cases) - len(given)} cases have no value of target {name!r}"
            yield Finding(case="", severity="note", code="W-NO-VALUE", message=message)


def _error(case: str, code: str, message: str, remedy: str) -> Finding:
    return Finding(case=case, severity="error", code=code, message=message, remedy=remedy)


def _warning(case: str, code: str, message: str, remedy: str) -> Finding:
    return Finding(case=case, severity="warning", code=code, message=message, remedy=remedy)
