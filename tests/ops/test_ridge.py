from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from medseg.ops.ridge import errors_left_out, ridge_path


def _data(*, num_cases=40, views=1, width=5, seed=0):
    random = np.random.default_rng(seed)
    features = random.normal(size=(num_cases, views, width)) * np.arange(1, width + 1) + 3
    return features, features[:, :, 0].mean(1) * 2 - 1 + random.normal(size=num_cases) * 0.1


@pytest.mark.parametrize("views", [1, 3])
def test_weights_equal_those_of_another_library(views):
    features, wanted = _data(views=views)
    trust = np.array([1.0, 4.0, 4.0, 4.0, 4.0])
    rows, repeated = features.reshape(-1, 5), np.repeat(wanted, views)
    ((weights, bias),) = ridge_path(features, wanted, [0.3], trust=trust)
    # A feature divided by the root of its trust is one whose weight costs that much more.
    scale = rows.std(0) * np.sqrt(trust)
    peer = Ridge(alpha=0.3 * len(rows)).fit((rows - rows.mean(0)) / scale, repeated)
    assert weights == pytest.approx(peer.coef_ / scale)
    assert rows @ weights + bias == pytest.approx(peer.predict((rows - rows.mean(0)) / scale))


def test_loss_left_out_by_hand():
    """Strict beyond measure, every fold answers the mean of the others: that of 1 and 3, and of 0 and 2."""
    features, wanted = np.array([[[0.0]], [[1.0]], [[2.0]], [[3.0]]]), np.array([0.0, 1.0, 2.0, 3.0])
    folds = [np.array([True, False, True, False]), np.array([False, True, False, True])]
    errors, constant = errors_left_out(features, wanted, [1e9, 1e-9], trust=np.ones(1), folds=folds)
    assert constant == pytest.approx([4, 0, 0, 4])
    assert errors[0] == pytest.approx([4, 0, 0, 4], abs=1e-6)
    assert errors[1] == pytest.approx([0, 0, 0, 0], abs=1e-6)


def test_a_feature_that_never_changes_gets_no_weight():
    features, wanted = _data(width=3)
    features[:, :, 2] = 7.0
    ((weights, _),) = ridge_path(features, wanted, [0.01], trust=np.ones(3))
    assert weights[2] == 0
    assert weights[0] == pytest.approx(2, abs=0.05)
