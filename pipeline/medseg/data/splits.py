"""Which cases teach and which judge: never one patient on both sides."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from medseg.core.case import Case, Dataset
from medseg.core.errors import UsageError


@dataclass(frozen=True)
class Split:
    """Ids of the cases to train on and to validate on, sorted."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def split_cases(
    dataset: Dataset, *, fold: int | None = None, num_folds: int = 5, seed: int = 12345, stratify: bool = True
) -> Split:
    """Divide a dataset; cases marked `test` are left out altogether.

    What the manifest says comes first: its `fold` numbers, or its `split` marks unless a fold is asked for. Otherwise
    the patients are shuffled and dealt into folds, each class of the first classification head evenly. Without classes
    the folds are those of scikit-learn's `KFold(num_folds, shuffle=True, random_state=seed)` over the sorted patients.
    The order of the cases in the manifest does not matter.

    Args:
        dataset: With its cases.
        fold: The fold to validate on; None means the manifest's `val` cases, or fold 0.
        num_folds: Into how many folds the patients are dealt.
        seed: Of the shuffle.
        stratify: Whether classes are dealt evenly.

    Raises:
        UsageError: `E-SPLIT`, fewer patients than folds, a fold that does not exist, or nothing to train on.
    """
    cases = sorted((case for case in dataset.cases if case.split != "test"), key=lambda case: case.id)
    if any(case.fold is not None for case in cases):
        judges = _cases_of_fold(cases, fold or 0)
    elif fold is None and any(case.split == "val" for case in cases):
        judges = {case.id for case in cases if case.split == "val"}
    else:
        head = next(iter(dataset.heads), None) if stratify else None
        groups = _deal(_strata(cases, head), num_folds, seed, stratify=head is not None)
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


def _strata(cases: list[Case], head: str | None) -> dict[str, str]:
    """Each patient's class: the commonest among the patient's cases, ties to the first."""
    classes: dict[str, Counter[str]] = {}
    for case in cases:
        classes.setdefault(case.group, Counter())[case.classes.get(head, "") if head else ""] += 1
    return {group: counts.most_common(1)[0][0] for group, counts in classes.items()}


def _deal(strata: dict[str, str], num_folds: int, seed: int, *, stratify: bool) -> list[set[str]]:
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
    if not stratify:
        return [set(part.tolist()) for part in np.array_split(groups, num_folds)]
    by_class = sorted(groups.tolist(), key=lambda group: strata[group])
    return [set(by_class[number::num_folds]) for number in range(num_folds)]


def _refusal(message: str, remedy: str) -> UsageError:
    return UsageError(message, code="E-SPLIT", remedy=remedy)
