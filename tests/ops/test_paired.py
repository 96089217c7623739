"""Two models on the same cases: the paired DeLong test against its definition, Holm and sample sizes by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from medseg.core.errors import InputError
from medseg.ops.paired import (
    auroc_difference,
    balanced_accuracy_difference,
    detectable_difference,
    holm,
    patients_needed,
    spread_of_patients,
)


def two_models(seed=4, size=60):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, size)
    shared = rng.normal(0, 0.6, size)
    scores = [np.round(gain * truth + shared + rng.normal(0, 0.5, size), 1) for gain in (0.6, 1.2)]  # with ties
    tables = []
    for one in scores:
        p = 1 / (1 + np.exp(-one))
        tables.append(np.stack([1 - p, p], axis=1))
    return *tables, truth


def by_definition(first, second, truth):
    """Areas, and the variance of their difference from the kernel psi of every pair, in O(m n)."""
    areas, over_positives, over_negatives = [], [], []
    for table in (first, second):
        score = table[:, 1]
        gap = score[truth == 1][:, None] - score[truth == 0][None]
        kernel = (gap > 0) + 0.5 * (gap == 0)
        areas.append(kernel.mean())
        over_positives.append(kernel.mean(axis=1))
        over_negatives.append(kernel.mean(axis=0))
    covariance = np.cov(over_positives) / (truth == 1).sum() + np.cov(over_negatives) / (truth == 0).sum()
    return *areas, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]


def names(size):
    return [f"p{n}" for n in range(size)]


def test_the_paired_test_is_delongs_by_definition():
    first, second, truth = two_models()
    answer = auroc_difference(first, second, truth, names(60))
    one, other, variance = by_definition(first, second, truth)
    assert (answer.first, answer.second) == pytest.approx((one, other))
    assert answer.deviation == pytest.approx(math.sqrt(variance))
    assert answer.p == pytest.approx(2 * stats.norm.sf(abs(other - one) / math.sqrt(variance)))
    margin = stats.norm.ppf(0.975) * math.sqrt(variance)
    assert (answer.low, answer.high) == pytest.approx((other - one - margin, other - one + margin))


def test_a_patients_cases_do_not_count_twice():
    """Every case doubled under the same patient leaves the spread as it was, up to the m (m - 1) of the estimator."""
    first, second, truth = two_models()
    once = auroc_difference(first, second, truth, names(60))
    twice = auroc_difference(np.tile(first, (2, 1)), np.tile(second, (2, 1)), np.tile(truth, 2), names(60) * 2)
    unaware = auroc_difference(np.tile(first, (2, 1)), np.tile(second, (2, 1)), np.tile(truth, 2), names(120))
    assert twice.deviation == pytest.approx(once.deviation, rel=0.03)
    assert unaware.deviation == pytest.approx(once.deviation / math.sqrt(2), rel=0.03)


def test_false_alarms_are_as_rare_as_promised():
    """400 pairs of equally good models: about 5 % below .05."""
    alarms = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        truth = np.arange(80) % 2
        tables = []
        for _ in range(2):
            p = 1 / (1 + np.exp(-(truth + rng.normal(0, 1, 80))))
            tables.append(np.stack([1 - p, p], axis=1))
        alarms += auroc_difference(*tables, truth, names(80)).p < 0.05
    assert 0.02 <= alarms / 400 <= 0.09


def test_equal_models_and_what_cannot_be_judged():
    first, _, truth = two_models()
    same = auroc_difference(first, first, truth, names(60))
    assert (same.low, same.high, same.p) == (0, 0, 1)
    assert auroc_difference(first, first, np.zeros(60, int), names(60)) is None
    right = np.eye(2)[[0, 0, 1, 1]]
    opposite = auroc_difference(right, 1 - right, np.array([0, 0, 1, 1]), names(4))
    assert (opposite.first, opposite.second, opposite.low, opposite.p) == (1, 0, None, 1)
    lone = auroc_difference(right, right, np.array([0, 0, 0, 1]), names(4))
    assert lone.low is None
    with pytest.raises(InputError, match="E-SCORE-INPUT"):
        auroc_difference(first, first[:50], truth, names(60))


def test_holm_by_hand():
    """.01 x 4, .02 x 3 (raised to no less than .04), .03 x 2, .5 x 1, in any order."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.04, 0.9]) == pytest.approx([0.08, 0.9])
    assert holm([0.2]) == [0.2]
    assert holm([0.6, 0.7]) == [1, 1]


def test_spread_counts_patients_not_cases():
    """Patients' means 1, 2, 6: mean 3, squares 4 + 1 + 9, over 2."""
    assert spread_of_patients([0, 2, 2, 6], ["a", "a", "b", "c"]) == pytest.approx(math.sqrt(7))
    assert spread_of_patients([1, 2], ["a", "a"]) == 0


def test_how_many_patients_by_hand():
    """(1.959964 + .841621) x .1 / sqrt(64) = .03502; and ((2.801585 x .1) / .02)^2 = 196.2, so 197."""
    assert detectable_difference(0.1, 64) == pytest.approx(0.0350198, abs=1e-6)
    assert patients_needed(0.1, -0.02) == 197
    assert patients_needed(0.1, 0.02, num_tests=3) == 262  # z(1 - .05 / 6) = 2.393980
    assert patients_needed(0.001, 1.0) == 6


def test_the_number_needed_keeps_its_promise():
    """With so many patients about 80 % of 300 simulated studies find the difference."""
    rng = np.random.default_rng(8)
    needed = patients_needed(0.05, 0.02)
    found = [stats.ttest_1samp(rng.normal(0.02, 0.05, needed), 0).pvalue < 0.05 for _ in range(300)]
    assert 0.7 <= np.mean(found) <= 0.9


def test_balanced_accuracy_difference_by_hand():
    """First: 2 of 4 and 1 of 2 right (.5); second: 3 of 4 and 2 of 2 (.875)."""
    reference = np.array([0, 0, 0, 0, 1, 1])
    first, second = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 0, 0, 1, 1, 1])
    value, low, high = balanced_accuracy_difference(first, second, reference, list("abcdef"))
    assert value == pytest.approx(0.875 - 0.5)
    assert -1 <= low <= value <= high <= 1


def test_balanced_accuracy_difference_draws_patients():
    """Twins of every case under one patient add nothing: the interval is that of the patients."""
    random = np.random.default_rng(1)
    reference = random.integers(0, 3, 60)
    first, second = (np.where(random.random(60) < share, reference, 0) for share in (0.6, 0.8))
    patients = [str(number) for number in range(60)]
    once = balanced_accuracy_difference(first, second, reference, patients)
    twice = balanced_accuracy_difference(
        *(np.repeat(one, 2) for one in (first, second, reference)), [*np.repeat(patients, 2)]
    )
    apart = balanced_accuracy_difference(
        *(np.repeat(one, 2) for one in (first, second, reference)), [str(number) for number in range(120)]
    )
    assert twice == pytest.approx(once)
    assert apart[2] - apart[1] < 0.85 * (once[2] - once[1])
    assert once[0] > 0


def test_equal_answers_do_not_differ():
    reference = np.array([0, 1, 2, 1])
    assert balanced_accuracy_difference(reference, reference, reference, list("abcd")) == (0, 0, 0)
