"""Which cases teach the baselines and which judge them: those of the network, never one patient on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medseg.core.document import suggest
from medseg.core.errors import ModelError, UsageError
from medseg.data.splits import split_cases

if TYPE_CHECKING:
    from medseg.core.baseline import BaselineSettings
    from medseg.core.case import Case, Dataset
    from medseg.io.bundle import Bundle

_FEWEST_PATIENTS = 2  # of a class: one to learn from while the other is held back
_DEFAULT_FOLDS = 5


@dataclass(frozen=True)
class Sides:
    """Cases, in the order of their ids."""

    teach: tuple[Case, ...]
    judge: tuple[Case, ...]


def choose_sides(dataset: Dataset, settings: BaselineSettings, model: Bundle | None) -> Sides:
    """The split of the network's training; with `judge="test"` its test cases judge instead.

    Raises:
        UsageError: E-SPLIT without a case to judge, or as `split_cases`.
        ModelError: E-BASELINE-MODEL when the model was made for other labels or classes, was trained on cases that are
            not here, or has seen a patient who is to judge.
    """
    if model is not None:
        _require_fitting(dataset, model)
    trained = {} if model is None else model.manifest.provenance.settings
    split = split_cases(
        dataset,
        fold=_first(settings.fold, trained.get("fold")),
        num_folds=_first(settings.num_folds, trained.get("num_folds")) or _DEFAULT_FOLDS,
    )
    teach = set(split.train if model is None else model.manifest.training_cases)
    judge = {case.id for case in dataset.cases if case.split == "test"} if settings.judge == "test" else {*split.val}
    cases = sorted(dataset.cases, key=lambda case: case.id)
    sides = Sides(*(tuple(case for case in cases if case.id in part) for part in (teach, judge)))
    if not sides.judge:
        raise UsageError(
            f"no case is left to judge on ({settings.judge})",
            code="E-SPLIT",
            remedy="Hold cases back as 'val' or 'test' in the manifest, or ask for another --fold.",
        )
    seen = {case.group for case in sides.teach} & {case.group for case in sides.judge}
    if seen:
        raise ModelError(
            f"patient {min(seen)} is to judge ({len(seen)} of them are), but was trained on",
            code="E-BASELINE-MODEL",
            file=None if model is None else model.folder,
            remedy="Name a model of this split with --bundle, ask for the --fold of this one, or --judge test.",
        )
    return sides


def wanted_heads(dataset: Dataset, settings: BaselineSettings) -> tuple[str, ...]:
    """The heads asked for, or all.

    Raises:
        UsageError: E-NO-HEAD.
    """
    for head in settings.heads or ():
        if head not in dataset.heads:
            raise UsageError(
                f"the dataset has no classification head {head!r}",
                code="E-NO-HEAD",
                remedy=f"In 'heads' of the dataset: {suggest(head, list(dataset.heads))}",
            )
    if not dataset.heads:
        numbers = f"; the baselines answer classes alone, not {', '.join(dataset.targets)}" if dataset.targets else ""
        raise UsageError(
            f"the dataset {dataset.name} has no classification head: there is nothing to tell apart{numbers}",
            code="E-NO-HEAD",
            remedy="Name the classes in 'heads' of the manifest and give each case its own in 'classes'.",
        )
    return settings.heads or tuple(dataset.heads)


def inner_folds(cases: Sequence[Case], dataset: Dataset, head: str, *, num_folds: int) -> tuple[NDArray[np.int64], ...]:
    """Positions of the cases to hold back in turn while settings are chosen; every class is left in each time.

    Args:
        cases: That teach, each with a class of the head.
        dataset: Names the classes.
        head: Whose classes are dealt evenly.
        num_folds: At most; fewer where a class has fewer patients.

    Raises:
        UsageError: E-BASELINE-CLASS, naming the class with too few training patients.
    """
    patients = {name: {case.group for case in cases if case.classes[head] == name} for name in dataset.heads[head]}
    rarest = min(patients, key=lambda name: len(patients[name]))
    if len(patients[rarest]) < _FEWEST_PATIENTS:
        raise _too_few(head, rarest, len(patients[rarest]))
    part = dataset.model_copy(
        update={
            "heads": {head: dataset.heads[head]},
            "cases": tuple(case.model_copy(update={"split": None, "fold": None}) for case in cases),
        }
    )
    places = {case.id: place for place, case in enumerate(cases)}
    count = min(num_folds, len(patients[rarest]))
    folds = []
    for number in range(count):
        split = split_cases(part, fold=number, num_folds=count)
        left = {cases[places[name]].classes[head] for name in split.train}
        for name in dataset.heads[head]:
            if name not in left:
                raise _too_few(head, name, len(patients[name]))
        folds.append(np.array([places[name] for name in split.val], dtype=np.int64))
    return tuple(folds)


def _too_few(head: str, name: str, count: int) -> UsageError:
    return UsageError(
        f"class {name!r} of head {head!r} has {count} training patient(s), too few to learn from one while another is "
        f"held back; expected at least {_FEWEST_PATIENTS}",
        code="E-BASELINE-CLASS",
        remedy="Add patients of this class, take the class out of the dataset, or leave the head out with --head.",
    )


def _require_fitting(dataset: Dataset, model: Bundle) -> None:
    classification = model.plan.classification
    heads = {} if classification is None else classification.heads
    unknown = sorted(set(model.manifest.training_cases) - {case.id for case in dataset.cases})
    if model.plan.labels != dataset.labels:
        fault = f"its labels are {model.plan.labels}, those of the dataset {dataset.labels}"
    elif any(dataset.heads.get(head) != names for head, names in heads.items()):
        fault = f"its classes are {heads}, those of the dataset {dataset.heads}"
    elif unknown:
        fault = f"it was trained on {len(unknown)} case(s) that the dataset lacks, such as {unknown[0]}"
    else:
        return
    raise ModelError(
        f"the model is not one of this dataset: {fault}",
        code="E-BASELINE-MODEL",
        file=model.folder,
        remedy="Name the model's own dataset with --manifest, another model with --bundle, or --no-network.",
    )


def _first(*values: object) -> int | None:
    return next((value for value in values if isinstance(value, int)), None)
