"""What a user must know of a model: labels and classes it never saw, answers all the same, too few steps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medseg.core.case import Dataset
    from medseg.core.findings import CaseFailure
    from medseg.core.plan import Plan
    from medseg.core.settings import TrainSettings
    from medseg.data.splits import Split
    from medseg.data.store import LoadedCase, Store

COLLAPSED = "collapsed"
_MOST_NAMES = 5
_USEFUL_STEPS = 1000


def foreseen_warnings(cases: Sequence[LoadedCase], store: Store, split: Split) -> tuple[str, ...]:
    """What is known before the first step: cases left out, labels and classes that nothing teaches.

    Args:
        cases: To learn from.
        store: Where they come from.
        split: Of its cases.
    """
    return (
        *failure_warnings(store.index.failures),
        *label_warnings(cases, store.plan),
        *class_warnings(store.dataset, split),
    )


def failure_warnings(failures: Sequence[CaseFailure]) -> tuple[str, ...]:
    """`W-CASES-LEFT-OUT` when cases of the dataset are not in the store.

    Args:
        failures: Of `preprocess`.
    """
    if not failures:
        return ()
    named = [f"{failure.case} ({failure.code})" for failure in failures[:_MOST_NAMES]]
    more = f" and {len(failures) - _MOST_NAMES} more" if len(failures) > _MOST_NAMES else ""
    names = f"{', '.join(named)}{more}"
    return (f"W-CASES-LEFT-OUT: {len(failures)} case(s) could not be preprocessed and have no part in this: {names}",)


def label_warnings(cases: Sequence[LoadedCase], plan: Plan) -> tuple[str, ...]:
    """`W-LABEL-UNSEEN` for each label without a voxel in the training cases' masks.

    Args:
        cases: To learn from.
        plan: Whose labels are to be learnt.
    """
    with_mask = [case for case in cases if case.labels.numel()]
    shown = {int(index) for case in with_mask for index in case.foreground[:][:, 0].tolist()}
    return tuple(
        f"W-LABEL-UNSEEN: none of the {len(with_mask)} training cases with a mask shows {name!r}; "
        "the model has no reason to find it"
        for index, name in enumerate(plan.label_names, start=1)
        if index not in shown
    )


def class_warnings(dataset: Dataset, split: Split) -> tuple[str, ...]:
    """`W-CLASS-UNSEEN` for each class and `W-VALUE-UNSEEN` for each target without a training case.

    `W-CLASS-ONE` for a head left with one class.
    """
    training = [case for case in dataset.cases if case.id in set(split.train)]
    warnings = []
    for head, names in dataset.heads.items():
        seen = Counter(case.classes[head] for case in training if head in case.classes)
        held = Counter(case.classes.get(head) for case in dataset.cases if case.id in set(split.val))
        warnings += [
            f"W-CLASS-UNSEEN: no training case has {head} {name!r} ({held[name]} held-back cases have); "
            "the model has no reason to answer it"
            for name in names
            if not seen[name]
        ]
        if len(seen) < 2:
            found = f"is {next(iter(seen))!r} in all {seen.total()}" if seen else "is known in none of the"
            warnings.append(f"W-CLASS-ONE: {head} {found} training cases: there is nothing to tell apart")
    warnings += [
        f"W-VALUE-UNSEEN: no training case of this split has a value of {name}; the model has no reason for its answer"
        for name in dataset.targets
        if not any(name in case.values for case in training)
    ]
    return tuple(warnings)


def collapsed_heads(validation: Mapping[str, float]) -> tuple[str, ...]:
    """The heads that give nearly all held-back cases the same class although they differ.

    Args:
        validation: Scores by name, `HEAD/collapsed` among them.
    """
    scores = (name.rpartition("/") for name, value in validation.items() if value)
    return tuple(head for head, _, score in scores if score == COLLAPSED)


def collapse_warnings(validation: Mapping[str, float]) -> tuple[str, ...]:
    """`W-COLLAPSED` for each head that has collapsed in a validation."""
    return tuple(
        f"W-COLLAPSED: {head} gives nearly every held-back case the same class, though they differ "
        f"(balanced accuracy {validation[f'{head}/balanced_accuracy']:.2f})"
        for head in collapsed_heads(validation)
    )


def short_warnings(
    settings: TrainSettings, *, num_steps: int, steps_per_epoch: int, seconds_per_step: float
) -> tuple[str, ...]:
    """`W-SHORT` for a training that ends before it saw every case, or while its learning rate has hardly risen.

    Args:
        settings: Its length and warm-up.
        num_steps: That it makes, or made.
        steps_per_epoch: That show every training case once.
        seconds_per_step: With everything in between.
    """
    if num_steps >= max(steps_per_epoch, 2 * settings.warmup_steps):
        return ()
    length = f"--budget {settings.budget}" if settings.budget else f"--epochs {settings.epochs}"
    wanted = max(_USEFUL_STEPS, 2 * steps_per_epoch)
    budget, epochs = _duration(wanted * seconds_per_step), math.ceil(wanted / steps_per_epoch)
    return (
        f"W-SHORT: {length} came to {num_steps} steps: the model has hardly begun to learn. "
        f"Every training case is seen once in {steps_per_epoch} steps, and the learning rate rises over the first "
        f"{settings.warmup_steps}. For {wanted:,} steps as they went here give --budget {budget} or --epochs {epochs}",
    )


def _duration(seconds: float) -> str:
    """As a budget is written, rounded up to whole minutes, from two hours on to whole hours."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes}m" if minutes < 120 else f"{math.ceil(minutes / 60)}h"
