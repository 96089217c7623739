from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from medseg.ops.ordinal import ordinal_summary, weighted_kappa

STAGES = ("I", "II", "III")


def test_steps_by_hand():
    """Answers (0, 0, 1, 2) to references (0, 1, 1, 0).

    Squared steps found: 0 + 1 + 0 + 4 = 5. By chance, with rows of the reference (2, 2, 0) and columns of the answers
    (2, 1, 1) over 4 cases: row 0 gives 2 (1 x 1 + 1 x 4) = 10, row 1 gives 2 (2 x 1 + 1 x 1) = 6, together 16 / 4 = 4.
    """
    answers, reference = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0])
    assert weighted_kappa(answers, reference, num_classes=3) == pytest.approx(1 - 5 / 4)
    summary = ordinal_summary(STAGES, np.eye(3)[answers], reference)
    assert summary.mae_steps == pytest.approx(3 / 4)
    assert summary.kappa == pytest.approx(-1 / 4)
    assert list(summary.cuts) == ["II", "III"]
    assert summary.cuts["II"].auroc == pytest.approx(0.5)
    assert summary.cuts["III"].auroc is None


@pytest.mark.parametrize("seed", range(4))
def test_kappa_and_cuts_equal_scikit_learn(seed):
    random = np.random.default_rng(seed)
    reference = random.integers(0, 4, 60)
    probabilities = random.dirichlet(np.ones(4), 60) + 0.4 * np.eye(4)[reference]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    summary = ordinal_summary(("0", "1", "2", "3"), probabilities, reference)
    peer = cohen_kappa_score(reference, probabilities.argmax(axis=1), weights="quadratic")
    assert summary.kappa == pytest.approx(peer)
    for cut in (1, 2, 3):
        area = roc_auc_score(reference >= cut, probabilities[:, cut:].sum(axis=1))
        assert summary.cuts[str(cut)].auroc == pytest.approx(area)


def test_a_far_off_answer_costs_more_than_a_near_one():
    reference = np.array([0, 0, 1, 1, 2, 2])
    near, far = np.array([0, 1, 1, 1, 2, 2]), np.array([0, 2, 1, 1, 2, 2])
    kappas = [weighted_kappa(answers, reference, num_classes=3) for answers in (reference, near, far)]
    assert kappas[0] == 1
    assert 1 > kappas[1] > kappas[2]


def test_one_class_on_both_sides_says_nothing():
    alike = np.ones(5, dtype=np.int64)
    assert weighted_kappa(alike, alike, num_classes=3) is None
    assert ordinal_summary(STAGES, np.eye(3)[alike], alike).mae_steps == 0
