"""Several yes-or-no heads as one multi-label answer, by hand and against scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics as peer

from medseg.ops.multilabel import multilabel_summary


def test_by_hand():
    """Heads a, b; answers yes at .9 .2 | .7 .6 | .1 .8, truths yes no | yes no | no yes.

    Five of six right; two of three cases entirely. Yes: a 2 of 2; b 1 right, 1 too many: F1 1 and 2/3; together 6 / 7.
    """
    probabilities = np.array([[0.9, 0.2], [0.7, 0.6], [0.1, 0.8]])
    summary = multilabel_summary(["a", "b"], probabilities, np.array([[1, 0], [1, 0], [0, 1]], dtype=bool))
    assert summary.model_dump() == {
        "heads": ("a", "b"), "n": 3, "exact_match": pytest.approx(2 / 3), "hamming_accuracy": pytest.approx(5 / 6),
        "micro_f1": pytest.approx(6 / 7), "macro_f1": pytest.approx(5 / 6), "macro_auroc": 1.0,
    }  # fmt: skip


def test_equals_scikit_learn():
    rng = np.random.default_rng(3)
    probabilities, reference = rng.random((60, 4)), rng.random((60, 4)) < 0.4
    answers = probabilities > 0.5
    summary = multilabel_summary(list("abcd"), probabilities, reference)
    assert summary.exact_match == pytest.approx(peer.accuracy_score(reference, answers))
    assert summary.hamming_accuracy == pytest.approx(1 - peer.hamming_loss(reference, answers))
    assert summary.micro_f1 == pytest.approx(peer.f1_score(reference, answers, average="micro"))
    assert summary.macro_f1 == pytest.approx(peer.f1_score(reference, answers, average="macro"))
    assert summary.macro_auroc == pytest.approx(peer.roc_auc_score(reference, probabilities, average="macro"))


def test_nobody_has_anything():
    summary = multilabel_summary(["a", "b"], np.full((2, 2), 0.1), np.zeros((2, 2), bool))
    assert (summary.exact_match, summary.micro_f1, summary.macro_f1, summary.macro_auroc) == (1, 1, 1, None)
