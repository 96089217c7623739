from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from medseg.nn.diagnosis import OrdinalLayer
from medseg.ops.logistic import Problem, logistic_path

KINDS = pytest.mark.parametrize(
    ("ordered", "mistaken"), [(False, 0.0), (False, 0.2), (True, 0.0), (True, 0.2)], ids=str
)


def _problem(*, views=1, num_classes=3, num_cases=60, seed=0, **changes):
    """The first feature rises with the class, the others say nothing; cases count differently."""
    random = np.random.default_rng(seed)
    targets = np.arange(num_cases) % num_classes
    features = random.normal(size=(num_cases, views, 4)) * [1, 2, 3, 4] + 5
    features[:, :, 0] += targets[:, None]
    shares = random.uniform(0.5, 1.5, num_cases)
    values = {"shares": shares / shares.sum(), "trust": np.array([1.0, 2.0, 2.0, 2.0]), "num_classes": num_classes}
    return Problem(features, targets, **values | changes)


def _peer_surprise(problem, layer):
    """By torch, and the rule of total probability over the true class."""
    true = layer(torch.from_numpy(problem.features)).softmax(2)
    given = torch.take_along_dim(true, torch.from_numpy(problem.targets)[:, None, None], dim=2)[..., 0]
    other = problem.mistaken / (problem.num_classes - 1)
    given = (1 - problem.mistaken) * given + other * (1 - given)
    return -(torch.from_numpy(problem.shares) * given.log().mean(1)).sum()


def _layer(problem, weights, constants):
    layer = OrdinalLayer(4, 3) if problem.ordered else nn.Linear(4, 3)
    layer = layer.double().requires_grad_(requires_grad=False)
    layer.weight.copy_(torch.from_numpy(weights))
    layer.bias.copy_(torch.from_numpy(constants))
    return layer


@KINDS
def test_the_gradient_is_the_slope(ordered, mistaken):
    problem = _problem(ordered=ordered, mistaken=mistaken)
    values = 0.1 * np.random.default_rng(1).normal(size=len(problem.start()))
    values[-2:] = 0.0, 0.1  # of ordered classes these are used the other way round
    _, gradient = problem.surprise(values, 0.3)
    steps = 1e-5 * np.eye(len(values))
    slopes = [
        (problem.surprise(values + step, 0.3)[0] - problem.surprise(values - step, 0.3)[0]) / 2e-5 for step in steps
    ]
    assert gradient == pytest.approx(np.array(slopes), abs=1e-6)


@KINDS
def test_the_surprise_is_that_of_the_networks_layers(ordered, mistaken):
    problem = _problem(ordered=ordered, mistaken=mistaken)
    values = 0.1 * np.random.default_rng(2).normal(size=len(problem.start()))
    ours, _ = problem.surprise(values, 0.0)
    assert ours == pytest.approx(float(_peer_surprise(problem, _layer(problem, *problem.parted(values)))))


@pytest.mark.parametrize("views", [1, 3])
def test_weights_equal_those_of_another_library(views):
    problem = _problem(views=views)
    rows, targets = problem.features.reshape(-1, 4), np.repeat(problem.targets, views)
    # A feature divided by the root of its trust is one whose weight costs that much more.
    scale = rows.std(0, ddof=1) * np.sqrt(problem.trust)
    standard = (rows - rows.mean(0)) / scale
    peer = LogisticRegression(C=1 / (2 * 0.01), tol=1e-10, max_iter=1000)
    peer.fit(standard, targets, sample_weight=np.repeat(problem.shares / views, views))
    ((weights, constants),) = logistic_path(problem, [0.01])
    ours = functional.softmax(torch.from_numpy(rows @ weights.T + constants), dim=1)
    assert ours.numpy() == pytest.approx(peer.predict_proba(standard), abs=1e-4)


@KINDS
def test_no_layer_near_by_is_better(ordered, mistaken):
    problem = _problem(views=2, ordered=ordered, mistaken=mistaken)
    scale = problem.features.reshape(-1, 4).std(0, ddof=1)

    def total(weights, constants):
        penalty = 0.02 * (problem.trust * (weights * scale) ** 2).sum()
        return float(_peer_surprise(problem, _layer(problem, weights, constants))) + penalty

    *_, (weights, constants) = logistic_path(problem, [1.0, 0.02])
    best = total(weights, constants)
    random = np.random.default_rng(3)
    for _ in range(50):
        near = weights + 0.01 * random.normal(size=weights.shape), constants + 0.01 * random.normal(size=len(constants))
        assert total(*near) > best
    assert total(0 * weights, constants) > best + 0.01


def test_a_penalty_is_taken_when_its_turn_has_come():
    taken = []

    def penalties():
        for penalty in (1.0, 0.1, 0.01):
            taken.append(penalty)
            if penalty == 0.1:
                raise InterruptedError
            yield penalty

    with pytest.raises(InterruptedError):
        logistic_path(_problem(), penalties())
    assert taken == [1.0, 0.1]
