"""One classification head: every baseline on every kind of features, and the network, judged on the same cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medseg.core.baseline import BaselineHead, BaselineModel, FeatureSet
from medseg.core.errors import UsageError
from medseg.engine.baseline import Table, Teaching, fit_baseline
from medseg.workflows.baseline_sides import inner_folds
from medseg.workflows.baseline_verdict import Judges, contrast_with

if TYPE_CHECKING:
    from medseg.core.baseline import BaselineSettings
    from medseg.core.case import Dataset
    from medseg.workflows.baseline_cases import Measured


def judge_head(
    head: str, dataset: Dataset, taught: Sequence[Measured], judged: Sequence[Measured], settings: BaselineSettings
) -> BaselineHead:
    """Fit and judge the baselines of one head.

    Args:
        head: Its name.
        dataset: Names its classes.
        taught: Training cases; those without a class of the head do not take part.
        judged: Judged cases, likewise.
        settings: Models, inner folds, seed.

    Raises:
        UsageError: E-BASELINE-CLASS.
    """
    names = dataset.heads[head]
    teach = [one for one in taught if head in one.case.classes]
    judge = [one for one in judged if head in one.case.classes]
    if not judge:
        message = f"no judged case has a class of head {head!r}"
        raise UsageError(message, code="E-BASELINE-CLASS", remedy="Leave the head out with --head, or judge others.")
    judges = Judges(head, names, _classes(judge, head, names), [one.case.group for one in judge])
    folds = inner_folds([one.case for one in teach], dataset, head, num_folds=settings.inner_folds)
    found: list[tuple[BaselineModel, Table]] = []
    for kind in _kinds(teach):
        features = tuple(dict.fromkeys(name for one in teach for name in one.features[kind]))
        table = _table(judge, kind, features)
        teaching = Teaching(_table(teach, kind, features), _classes(teach, head, names), folds, settings.seed)
        for family in settings.models:
            fitted = fit_baseline(family, teaching)
            answers = fitted.predict(table)
            made = BaselineModel(
                family=family,
                features=kind,
                num_features=len(features),
                chosen=fitted.chosen,
                training_auroc=fitted.training_auroc,
                summary=judges.summary(answers),
            )
            found.append((made, answers))
    found.sort(key=lambda one: -(one[0].summary.auroc or 0.0))
    network = _network_answers(judge, head, names)
    return BaselineHead(
        head=head,
        classes=names,
        num_training_cases=len(teach),
        num_training_patients=len({one.case.group for one in teach}),
        num_judged_cases=len(judge),
        num_judged_patients=len(set(judges.patients)),
        models=tuple(made for made, _ in found),
        network=None if network is None else judges.summary(network),
        contrast=None if network is None else contrast_with(network, *found[0], judges),
    )


def _kinds(cases: Sequence[Measured]) -> tuple[FeatureSet, ...]:
    return tuple(dict.fromkeys(kind for one in cases for kind in one.features))


def _classes(cases: Sequence[Measured], head: str, names: tuple[str, ...]) -> NDArray[np.int64]:
    return np.array([names.index(one.case.classes[head]) for one in cases], dtype=np.int64)


def _network_answers(judged: Sequence[Measured], head: str, names: tuple[str, ...]) -> Table | None:
    """(n, classes); None when the network has no such head."""
    if not all(head in one.answers for one in judged):
        return None
    return np.array([[one.answers[head][name] for name in names] for one in judged])


def _table(cases: Sequence[Measured], kind: FeatureSet, features: Sequence[str]) -> Table:
    """(n, features), NaN where a case has no such feature: the models fill it in."""
    rows = [[one.features[kind].get(name, np.nan) for name in features] for one in cases]
    return np.array(rows, dtype=np.float64)
