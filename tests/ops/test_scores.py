"""Classification scores against hand-derived cases, brute force, scikit-learn and published numbers."""

import numpy as np
import pytest
from sklearn import metrics as peer

from medseg.core.errors import InputError
from medseg.ops.scores import (
    auprc,
    auroc,
    brier_score,
    classification_summary,
    expected_calibration_error,
    reliability_points,
    roc_curve_points,
)


def binary(scores):
    scores = np.asarray(scores, dtype=float)
    return np.stack([1 - scores, scores], axis=1)


def cohort(seed, num_classes, size=90, digits=2):
    """Probabilities that know something of the reference, rounded so that ties occur."""
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, num_classes, size)
    logits = rng.normal(size=(size, num_classes)) + 1.2 * np.eye(num_classes)[reference]
    probabilities = np.exp(logits).round(digits)
    return probabilities / probabilities.sum(axis=1, keepdims=True), reference


def test_summary_by_hand():
    """Six cases, three classes; answers (a, a, b, b, c, a) to references (a, a, a, b, b, b).

    Confusion: a -> 2 a, 1 b; b -> 1 a, 1 b, 1 c; c never occurs. Accuracy 3 / 6; recall a 2/3, b 1/3, so balanced
    accuracy 1/2 over the two classes that occur; precision a 2/3, b 1/2, c 0/1; F1 a 4/6, b 2/5, c 0: macro 16/45.
    """
    answers, reference = np.array([0, 0, 1, 1, 2, 0]), np.array([0, 0, 0, 1, 1, 1])
    summary = classification_summary("grade", ("a", "b", "c"), np.eye(3)[answers] * 0.7 + 0.1, reference)
    assert summary.confusion == ((2, 1, 0), (1, 1, 1), (0, 0, 0))
    assert summary.accuracy == pytest.approx(1 / 2)
    assert summary.balanced_accuracy == pytest.approx(1 / 2)
    assert summary.recall == pytest.approx({"a": 2 / 3, "b": 1 / 3, "c": 0})
    assert summary.precision == pytest.approx({"a": 2 / 3, "b": 1 / 2, "c": 0})
    assert summary.f1 == pytest.approx({"a": 2 / 3, "b": 2 / 5, "c": 0})
    assert summary.macro_f1 == pytest.approx(16 / 45)
    assert (summary.head, summary.classes, summary.n, summary.collapsed) == ("grade", ("a", "b", "c"), 6, False)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_summary_equals_scikit_learn(num_classes):
    probabilities, reference = cohort(num_classes, num_classes)
    names = tuple("abcde"[:num_classes])
    summary = classification_summary("grade", names, probabilities, reference)
    answers = probabilities.argmax(axis=1)
    precision, recall, f1, _ = peer.precision_recall_fscore_support(reference, answers, zero_division=0)
    assert summary.accuracy == pytest.approx(peer.accuracy_score(reference, answers))
    assert summary.balanced_accuracy == pytest.approx(peer.balanced_accuracy_score(reference, answers))
    assert summary.macro_f1 == pytest.approx(peer.f1_score(reference, answers, average="macro"))
    assert list(summary.precision.values()) == pytest.approx(precision)
    assert list(summary.recall.values()) == pytest.approx(recall)
    assert list(summary.f1.values()) == pytest.approx(f1)
    assert np.array_equal(summary.confusion, peer.confusion_matrix(reference, answers))
    if num_classes == 2:
        scores = probabilities[:, 1]
        assert summary.auroc == pytest.approx(peer.roc_auc_score(reference, scores))
        assert summary.auprc == pytest.approx(peer.average_precision_score(reference, scores))
        assert summary.brier == pytest.approx(peer.brier_score_loss(reference, scores))
    else:
        hot = np.eye(num_classes)[reference]
        assert summary.auroc == pytest.approx(peer.roc_auc_score(reference, probabilities, multi_class="ovr"))
        assert summary.auprc == pytest.approx(peer.average_precision_score(hot, probabilities))
        assert summary.brier == pytest.approx(peer.brier_score_loss(reference, probabilities))


def test_delong_equals_the_published_example():
    """Ratings 1 to 5 of 109 CT images (Hanley and McNeil, Radiology 1982, 143:29, table I).

    The Stata Base Reference Manual, entry roctab, prints for them the area .8932, DeLong's standard error .0307 and
    the interval .83295 to .95339.
    """
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    ratings = np.concatenate([np.repeat(range(1, 6), normal), np.repeat(range(1, 6), abnormal)]) / 10
    area = auroc(binary(ratings), np.repeat([0, 1], [58, 51]))
    assert area.value == pytest.approx(0.8932, abs=5e-5)
    assert (area.high - area.low) / 2 / 1.959964 == pytest.approx(0.0307, abs=5e-5)
    assert (area.low, area.high) == pytest.approx((0.83295, 0.95339), abs=5e-6)


def test_delong_equals_its_definition():
    """Structural components pair by pair: 1 for a win, 1/2 for a tie, 0 for a loss; sample variances over sizes."""
    probabilities, reference = cohort(7, 2, digits=1)
    positives, negatives = probabilities[reference == 1, 1], probabilities[reference == 0, 1]
    wins = np.array([[(p > n) + 0.5 * (p == n) for n in negatives] for p in positives])
    variance = wins.mean(axis=1).var(ddof=1) / len(positives) + wins.mean(axis=0).var(ddof=1) / len(negatives)
    area = auroc(probabilities, reference)
    assert area.value == pytest.approx(wins.mean())
    assert area.high - area.low == pytest.approx(2 * 1.959964 * np.sqrt(variance))


def test_macro_interval_agrees_with_the_bootstrap():
    """The mean of five correlated areas: its standard error equals that of 2,000 resampled cohorts to 10 %."""
    probabilities, reference = cohort(3, 5, size=400, digits=4)
    rng = np.random.default_rng(0)
    resampled = [auroc(probabilities[draw], reference[draw]).value for draw in rng.integers(0, 400, (2000, 400))]
    area = auroc(probabilities, reference)
    assert (area.high - area.low) / 2 / 1.959964 == pytest.approx(np.std(resampled), rel=0.1)


def test_perfect_and_undefined_areas():
    scores = binary([0.1, 0.2, 0.8, 0.9])
    assert auroc(scores, np.array([0, 0, 1, 1])) == (1, 1, 1)
    assert auroc(scores, np.array([0, 0, 0, 1])) == (1, None, None)
    assert auroc(scores, np.array([1, 1, 1, 1])) is None
    assert auprc(scores, np.array([1, 1, 1, 1])) is None
    summary = classification_summary("x", ("n", "y"), scores, np.array([1, 1, 1, 1]))
    assert (summary.auroc, summary.auroc_low, summary.auroc_high, summary.auprc) == (None,) * 4


def test_a_class_that_never_occurs_is_left_out_of_the_macro_area():
    probabilities, reference = cohort(1, 3)
    padded = np.concatenate([probabilities, np.zeros((len(reference), 1))], axis=1)
    assert auroc(padded, reference) == pytest.approx(auroc(probabilities, reference))


def test_calibration_by_hand():
    """Confidences .9, .9, .84 (two right; bin above .8 to .9) and .6 (right): gaps .88 - 2/3 and 1 - .6, as 3 : 1."""
    probabilities, reference = binary([0.9, 0.9, 0.16, 0.6]), np.array([1, 0, 0, 1])
    points = reliability_points(probabilities, reference, num_bins=10)
    assert [tuple(point.model_dump().values()) for point in points] == [
        (pytest.approx(0.6), 1.0, 1),
        (pytest.approx(0.88), pytest.approx(2 / 3), 3),
    ]
    expected = (3 * (0.88 - 2 / 3) + 0.4) / 4
    assert expected_calibration_error(probabilities, reference, num_bins=10) == pytest.approx(expected)


def test_brier_by_hand():
    """Two classes: (.1^2 + .6^2) / 2; three: every class counts, .5^2 + .3^2 + .2^2."""
    assert brier_score(binary([0.9, 0.6]), np.array([1, 0])) == pytest.approx(0.185)
    assert brier_score(np.array([[0.5, 0.3, 0.2]]), np.array([0])) == pytest.approx(0.38)


def test_roc_curve_equals_scikit_learn():
    probabilities, reference = cohort(4, 2, digits=1)
    curve = roc_curve_points(probabilities[:, 1], reference == 1)
    rates = peer.roc_curve(reference, probabilities[:, 1], drop_intermediate=False)
    thresholds = [np.inf, *curve.thresholds[1:]]
    for ours, theirs in zip((curve.false_positive_rate, curve.true_positive_rate, thresholds), rates, strict=True):
        np.testing.assert_allclose(ours, theirs)


def test_each_class_against_the_rest_equals_scikit_learn():
    probabilities, reference = cohort(7, 3)
    summary = classification_summary("head", ["a", "b", "c"], probabilities, reference)
    for n, name in enumerate("abc"):
        area = summary.areas[name]
        assert area.auroc == pytest.approx(peer.roc_auc_score(reference == n, probabilities[:, n]))
        assert area.auprc == pytest.approx(peer.average_precision_score(reference == n, probabilities[:, n]))
        assert area.auroc_low < area.auroc < area.auroc_high
    assert [curve.name for curve in summary.roc] == ["a", "b", "c"]
    assert np.mean([area.auroc for area in summary.areas.values()]) == pytest.approx(summary.auroc)
    assert sum(one.num_cases for one in summary.reliability) == len(reference)


def test_a_class_that_never_occurs_has_no_area_of_its_own():
    summary = classification_summary("head", ["a", "b", "c"], np.eye(3)[[0, 1, 0]], np.array([0, 1, 0]))
    assert summary.areas["c"].model_dump() == dict.fromkeys(("auroc", "auroc_low", "auroc_high", "auprc"))
    assert [curve.name for curve in summary.roc] == ["a", "b"]


@pytest.mark.parametrize(
    ("answers", "references", "collapsed"),
    [
        ([0] * 19 + [1], [0] * 10 + [1] * 10, True),
        ([0] * 18 + [1] * 2, [0] * 10 + [1] * 10, False),
        ([0] * 20, [0] * 19 + [1], False),
        ([1] * 20, [0] * 19 + [1], True),
        ([1] * 20, [0] * 20, False),
        ([1], [0], False),
    ],
)
def test_collapse_alarm(answers, references, collapsed):
    summary = classification_summary("x", ("n", "y"), np.eye(2)[answers], np.array(references))
    assert summary.collapsed is collapsed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probabilities": np.zeros((0, 2)), "reference": np.zeros(0, int)}, "0 cases"),
        ({"reference": np.zeros(3, int)}, "3 cases"),
        ({"classes": ("a", "b", "c")}, "3 classes"),
        ({"probabilities": np.full((4, 2), 0.6)}, "sum to 1"),
        ({"probabilities": np.full((4, 2), np.nan)}, "sum to 1"),
        ({"reference": np.array([0, 1, 1, 2])}, "0 to 1"),
        ({"reference": np.array([0, 1, 1, -1])}, "0 to 1"),
    ],
)
def test_refusals(change, words):
    given = {"classes": ("a", "b"), "probabilities": np.full((4, 2), 0.5), "reference": np.array([0, 1, 1, 0])}
    with pytest.raises(InputError, match="E-SCORE-INPUT") as caught:
        classification_summary("grade", **(given | change))
    assert words in str(caught.value)
    assert "grade" in str(caught.value)


def test_a_curve_needs_both_kinds():
    with pytest.raises(InputError, match="got 2 of 2"):
        roc_curve_points(np.array([0.1, 0.2]), np.array([True, True]))
