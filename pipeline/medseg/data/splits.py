"""Which cases teach and which judge: never one patient on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medseg.core.case import Case, Dataset
from medseg.core.document import suggest
from medseg.core.errors import UsageError

BY_CLASS = "class"


@dataclass(frozen=True)
class Split:
    """Ids of the cases to train on and to validate on, sorted."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def split_cases(
    dataset: Dataset, *, fold: int | None = None, num_folds: int = 5, seed: int = 12345, stratify_by: str = BY_CLASS
) -> Split:
    """Divide a dataset; cases marked `test` are left out altogether.

    What the manifest says comes first: its `fold` numbers, or its `split` marks unless a fold is asked for. Otherwise
    the patients are shuffled and dealt into folds, each class of the first classification head evenly, or each value of
    an attribute such as the site. Without either the folds are those of scikit-learn's
    `KFold(num_folds, shuffle=True, random_state=seed)` over the sorted patients.
    The order of the cases in the manifest does not matter.

    Args:
        dataset: With its cases.
        fold: The fold to validate on; None means the manifest's `val` cases, or fold 0.
        num_folds: Into how many folds the patients are dealt.
        seed: Of the shuffle.
        stratify_by: What is dealt evenly: `class`, `none`, or the name of an attribute, such as `site`.

    Raises:
        UsageError: `E-SPLIT`, fewer patients than folds, a fold that does not exist, nothing to train on, or an
            attribute that no case has.
    """
    cases = sorted((case for case in dataset.cases if case.split != "test"), key=lambda case: case.id)
    if any(case.fold is not None for case in cases):
        judges = _cases_of_fold(cases, fold or 0)
    elif fold is None and any(case.split == "val" for case in cases):
        judges = {case.id for case in cases if case.split == "val"}
    else:
        groups = _deal(_strata(cases, _trait(dataset, cases, stratify_by)), num_folds, seed)
        if not 0 <= (fold or 0) < num_folds:
            raise _refusal(f"fold {fold} does not exist", f"Choose a fold from 0 to {num_folds - 1}.")
        judges = {case.id for case in cases if case.group in groups[fold or 0]}
    train = tuple(case.id for case in cases if case.id not in judges)
    if not train:
        raise _refusal("no case is left to train on", "Mark fewer cases as 'val' or 'test' in the manifest.")
    return Split(train, tuple(case.id for case in cases if case.id in judges))


def _cases_of_fold(cases: list[Case], fold: int) -> set[str]:
    judges = {case.id for case in cases if case.fold == fold}
    if not judges:
        known = sorted({case.fold for case in cases if case.fold is not None})
        raise _refusal(f"no case of the manifest is in fold {fold}", f"Folds in the manifest: {known}.")
    return judges


def split_folds(dataset: Dataset, *, num_folds: int, stratify_by: str = BY_CLASS) -> tuple[Split, ...]:
    """All folds of a cross-validation: every case judges once, but for those that the manifest's folds leave out.

    Raises:
        UsageError: `E-SPLIT`, as `split_cases`, or another number of folds than the manifest's own.
    """
    marked = {case.fold for case in dataset.cases if case.fold is not None and case.split != "test"}
    if marked and marked != set(range(num_folds)):
        numbers = ", ".join(map(str, sorted(marked)))
        raise _refusal(
            f"the manifest has its own folds ({numbers}), which are not 0 to {num_folds - 1}",
            f"Ask for --folds {len(marked)}, numbered from 0 in the manifest, or take the numbers out of it.",
        )
    return tuple(
        split_cases(dataset, fold=fold, num_folds=num_folds, stratify_by=stratify_by) for fold in range(num_folds)
    )


def remarks_on_folds(dataset: Dataset, folds: Sequence[Split]) -> tuple[str, ...]:
    """`W-FOLD-CLASS` for each fold that neither trains on, or does not judge, a class that other cases have."""
    by_id = {case.id: case for case in dataset.cases}
    remarks = []
    for head in dataset.heads:
        found = Counter(case.classes[head] for case in dataset.cases if head in case.classes and case.split != "test")
        for number, split in enumerate(folds):
            for part, verb in ((split.train, "trains on"), (split.val, "judges")):
                here = {by_id[case].classes.get(head) for case in part}
                for name in dataset.heads[head]:
                    if found[name] and name not in here:
                        words = f"fold {number} {verb} no case of {head} {name!r}, of which there are {found[name]}"
                        remarks.append(f"W-FOLD-CLASS: {words}")
    return tuple(remarks)


def _trait(dataset: Dataset, cases: list[Case], stratify_by: str) -> Callable[[Case], str] | None:
    """What is dealt evenly of a case; None when nothing is."""
    if stratify_by == "none":
        return None
    if stratify_by == BY_CLASS:
        head = next(iter(dataset.heads), None)
        return None if head is None else lambda case: case.classes.get(head, "")
    known = sorted({name for case in cases for name in case.attributes})
    if stratify_by not in known:
        raise _refusal(
            f"no case of the manifest has an attribute {stratify_by!r} to stratify by",
            f"Choose class, none, or an attribute: {suggest(stratify_by, known)}",
        )
    return lambda case: case.attributes.get(stratify_by, "")


def _strata(cases: list[Case], trait: Callable[[Case], str] | None) -> dict[str, str]:
    """Each patient's trait: the commonest among the patient's cases, ties to the first; all alike without one."""
    found: dict[str, Counter[str]] = {}
    for case in cases:
        found.setdefault(case.group, Counter())["" if trait is None else trait(case)] += 1
    return {group: counts.most_common(1)[0][0] for group, counts in found.items()}


def _deal(strata: dict[str, str], num_folds: int, seed: int) -> list[set[str]]:
    if num_folds < 2:
        raise _refusal(f"{num_folds} folds leave nothing to train on", "Ask for at least 2 folds.")
    if len(strata) < num_folds:
        raise _refusal(
            f"{len(strata)} patients cannot be dealt into {num_folds} folds",
            "Ask for fewer folds, add cases, or mark cases as 'train' and 'val' in the manifest.",
        )
    groups = np.array(sorted(strata))
    # This old generator is the one behind the field's published folds.
    np.random.RandomState(seed).shuffle(groups)
    if len(set(strata.values())) == 1:
        return [set(part.tolist()) for part in np.array_split(groups, num_folds)]
    by_trait = sorted(groups.tolist(), key=lambda group: strata[group])
    return [set(by_trait[number::num_folds]) for number in range(num_folds)]


def _refusal(message: str, remedy: str) -> UsageError:
    return UsageError(message, code="E-SPLIT", remedy=remedy)
