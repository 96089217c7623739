"""Classical classifiers on a table of features: settings chosen by cross-validation, fitted, ready to be judged.

Missing features are filled in with the median of the training cases, every feature is standardised by the training
cases and cut off at 5 deviations, and the classes weigh the same whatever their number of cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.baseline import Family
from medseg.ops.scores import auroc

Table = NDArray[np.float64]

_MOST_DEVIATIONS = 5.0
_NUM_TREES = 300
# Simplest first: of settings that score the same the first is kept.
_GRIDS: dict[Family, dict[str, tuple[float, ...]]] = {
    "svm": {"C": (0.1, 1, 10, 100), "gamma": (0.1, 1)},
    "tree": {"max_depth": (2, 3, 5, 8), "min_samples_leaf": (8, 2)},
    "forest": {"min_samples_leaf": (8, 3, 1), "max_features": (0.1, 0.3)},
    "logistic": {"C": (0.001, 0.01, 0.1, 1, 10)},
}


@dataclass(frozen=True, eq=False)
class Teaching:
    """What a baseline learns from.

    Attributes:
        table: (n, features), NaN where a feature is missing.
        classes: (n,) index of each case's class; every class from 0 to the last occurs.
        folds: Positions of the cases held back in turn; each case once, never a patient in two.
        seed: Of the trees.
    """

    table: Table
    classes: NDArray[np.int64]
    folds: Sequence[NDArray[np.int64]]
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Fitted:
    """A baseline that was fitted.

    Attributes:
        chosen: Its settings.
        training_auroc: Out of fold, with these settings.
        predict: (m, features) to (m, classes) probabilities.
    """

    chosen: dict[str, float]
    training_auroc: float
    predict: Callable[[Table], Table]


def fit_baseline(family: Family, teaching: Teaching) -> Fitted:
    """Choose the settings by the area under the ROC curve out of fold, then fit on all training cases.

    A support vector machine has distances, not probabilities: a logistic regression on the distances out of fold makes
    them of the distances (Platt, 1999).
    """
    scored = []
    for values in product(*_GRIDS[family].values()):
        chosen = dict(zip(_GRIDS[family], values, strict=True))
        scores = _out_of_fold(family, chosen, teaching)
        found = auroc(scores, teaching.classes)
        scored.append((0.5 if found is None else found.value, chosen, scores))
    area, chosen, scores = max(scored, key=lambda one: one[0])
    model = _fit(family, chosen, teaching.table, teaching.classes, seed=teaching.seed)
    if family != "svm":
        return Fitted(chosen, area, lambda table: _scores(model, table))
    calibration = _estimator("logistic", {"C": 10.0}, width=scores.shape[1], seed=0).fit(scores, teaching.classes)
    return Fitted(chosen, area, lambda table: _scores(calibration, _scores(model, table)))


def _out_of_fold(family: Family, chosen: dict[str, float], teaching: Teaching) -> Table:
    """(n, classes) scores of each case by a model that has not seen its patient."""
    scores = np.empty((teaching.classes.size, int(teaching.classes.max()) + 1))
    for held_back in teaching.folds:
        rest = np.setdiff1d(np.arange(teaching.classes.size), held_back)
        model = _fit(family, chosen, teaching.table[rest], teaching.classes[rest], seed=teaching.seed)
        scores[held_back] = _scores(model, teaching.table[held_back])
    return scores


def _fit(family: Family, chosen: dict[str, float], table: Table, classes: NDArray[np.int64], *, seed: int) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    return make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        FunctionTransformer(np.clip, kw_args={"a_min": -_MOST_DEVIATIONS, "a_max": _MOST_DEVIATIONS}),
        _estimator(family, chosen, width=table.shape[1], seed=seed),
    ).fit(table, classes)


def _estimator(family: Family, chosen: dict[str, float], *, width: int, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC
    from sklearn.tree import DecisionTreeClassifier

    match family:
        case "svm":
            return SVC(C=chosen["C"], gamma=chosen["gamma"] / width, class_weight="balanced")
        case "tree":
            return DecisionTreeClassifier(class_weight="balanced", random_state=seed, **chosen)
        case "forest":
            return RandomForestClassifier(_NUM_TREES, class_weight="balanced", random_state=seed, **chosen)
        case "logistic":
            return LogisticRegression(class_weight="balanced", max_iter=5000, **chosen)


def _scores(model: Any, table: Table) -> Table:
    """(m, classes): probabilities where the model has them, else distances."""
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(table), dtype=np.float64)
    distances = np.asarray(model.decision_function(table), dtype=np.float64)
    return np.stack([-distances, distances], axis=1) if distances.ndim == 1 else distances
