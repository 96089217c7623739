"""Logistic regression of a case-level class on features seen in several views.

Shape legend: N cases, V views of each, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]
Weights = Pair  # (K, F) and the constants (K,); of ordered classes (1, F) and (K - 1,)

_LEAST_DEVIATION = 0.05
_LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True, eq=False)
class Problem:
    """What is learnt from, and what is asked of it.

    Attributes:
        features: (N, V, F); every view of a case is to give the case's class.
        targets: (N,) the classes' numbers.
        shares: (N,) how much each case counts.
        trust: (F,) how dear each feature is.
        num_classes: K.
        ordered: Whether classes are steps of one score: the cumulative-link model (McCullagh, J R Stat Soc B 1980),
            whose constants are used in falling order.
        mistaken: Share of the given classes that are taken to be wrong, each other class as likely to be the true one:
            the answer is the true class, and a case that contradicts all others says little (Bootkrajang and Kaban,
            ECML PKDD 2012).
    """

    features: NDArray[np.float64]
    targets: NDArray[np.int64]
    shares: NDArray[np.float64]
    trust: NDArray[np.float64]
    num_classes: int
    ordered: bool = False
    mistaken: float = 0.0

    def standardised(self) -> tuple[Problem, NDArray[np.float64], NDArray[np.float64]]:
        """Each row a case of its own, with its features in deviations; what was taken off, and the deviations."""
        views = self.features.shape[1]
        rows = self.features.reshape(-1, self.features.shape[2])
        shift, scale = rows.mean(0), np.maximum(rows.std(0, ddof=1), _LEAST_DEVIATION)
        alone = replace(
            self,
            features=((rows - shift) / scale)[:, None],
            targets=np.repeat(self.targets, views),
            shares=np.repeat(self.shares / views, views),
        )
        return alone, shift, scale

    def start(self) -> NDArray[np.float64]:
        """Weights of 0, and classes of the same probability."""
        steps = 1 - np.arange(1, self.num_classes) / self.num_classes
        constants = logit(steps) if self.ordered else np.zeros(self.num_classes)
        num_weights = self.features.shape[2] * (1 if self.ordered else self.num_classes)
        return np.concatenate([np.zeros(num_weights), constants])

    def parted(self, values: NDArray[np.float64]) -> Weights:
        """Weights and constants."""
        num_constants = self.num_classes - 1 if self.ordered else self.num_classes
        return values[:-num_constants].reshape(-1, self.features.shape[2]), values[-num_constants:]

    def surprise(self, values: NDArray[np.float64], penalty: float) -> tuple[float, NDArray[np.float64]]:
        """Minus the logarithm of how likely the given classes are, plus the penalty; and its gradient."""
        weights, constants = self.parted(values)
        order = np.argsort(-constants) if self.ordered else np.arange(len(constants))
        scores = self.features[:, 0] @ weights.T + constants[order]
        likely, slopes = self._in_steps(scores) if self.ordered else self._apart(scores)
        surprise, pull = -likely, np.ones(len(likely))
        if self.mistaken:
            other = self.mistaken / (self.num_classes - 1)
            true = np.exp(likely)
            given = (1 - self.mistaken) * true + other * (1 - true)
            surprise, pull = -np.log(given), (1 - self.mistaken - other) * true / given
        by_score = -(self.shares * pull)[:, None] * slopes
        by_constant = np.empty_like(constants)
        by_constant[order] = by_score.sum(0)
        by_row = by_score.sum(1, keepdims=True) if self.ordered else by_score
        by_weight = by_row.T @ self.features[:, 0] + 2 * penalty * self.trust * weights
        total = self.shares @ surprise + penalty * (self.trust * weights**2).sum()
        return float(total), np.concatenate([by_weight.ravel(), by_constant])

    def _apart(self, scores: NDArray[np.float64]) -> Pair:
        """(N,) logarithm of the given class's probability and (N, K) its slopes, from (N, K) scores."""
        logarithms = log_softmax(scores, axis=1)
        slopes, every = -np.exp(logarithms), np.arange(len(scores))
        slopes[every, self.targets] += 1
        return logarithms[every, self.targets], slopes

    def _in_steps(self, scores: NDArray[np.float64]) -> Pair:
        """The same of ordered classes, from (N, K - 1) scores for lying above each step."""
        above, every = expit(scores), np.arange(len(scores))
        edges = np.pad(np.pad(above, ((0, 0), (1, 0)), constant_values=1.0), ((0, 0), (0, 1)))
        exact = (edges[:, :-1] - edges[:, 1:])[every, self.targets]
        likely = np.maximum(exact, _LEAST_PROBABILITY)
        steep = np.pad(above * (1 - above), ((0, 0), (1, 1)))  # the outermost edges stand still
        slopes = np.zeros_like(steep)
        slopes[every, self.targets] = steep[every, self.targets]
        slopes[every, self.targets + 1] = -steep[every, self.targets + 1]
        slopes *= ((exact >= _LEAST_PROBABILITY) / likely)[:, None]
        return np.log(likely), slopes[:, 1:-1]


def logistic_path(problem: Problem, penalties: Iterable[float]) -> list[Weights]:
    """The weights of the least mean surprise plus penalty, for each penalty, each found from the one before.

    Features count in their deviations; the penalty is the sum of trust times squared weight, and constants are free.

    Args:
        problem: What is asked.
        penalties: Above 0, falling; one is taken when its turn has come.
    """
    alone, shift, scale = problem.standardised()
    found, values = [], alone.start()
    for penalty in penalties:
        values = minimize(
            partial(alone.surprise, penalty=penalty),
            values,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 200, "gtol": 1e-6, "ftol": 1e-12},
        ).x
        weights, constants = alone.parted(values)
        weights = weights / scale
        found.append((weights, constants - weights @ shift))
    return found
