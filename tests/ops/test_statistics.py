"""Cohort statistics: hand-derived numbers, laws, and whether the interval keeps its promise."""

import numpy as np
import pytest
from scipy import stats

from medseg.core.errors import InputError
from medseg.core.findings import LabelMetrics
from medseg.ops.statistics import estimate, paired_comparison, summarise_labels


def row(label, *, dice=0.9, presence="both", hd_mm=5.0):
    return LabelMetrics(
        label=label, presence=presence, dice=dice, iou=dice / (2 - dice), precision=dice, recall=dice, hd_mm=hd_mm,
        hd95_mm=hd_mm / 2, assd_mm=hd_mm / 10, nsd=dice, tolerance_mm=1, volume_ml=1, reference_volume_ml=1,
    )  # fmt: skip


def names(size):
    return [f"patient-{number}" for number in range(size)]


def test_mean_median_and_quartiles():
    answer = estimate([1, 2, 3, 4, 10], names(5))
    assert (answer.mean, answer.median, answer.quartile_1, answer.quartile_3, answer.n) == (4, 3, 2, 4, 5)


def test_few_patients_get_students_interval():
    """Values 1, 2, 3 of three patients: 2 -+ t(.975, 2) / sqrt(3), t = 4.30265."""
    answer = estimate([1, 2, 3], names(3))
    assert (answer.low, answer.high) == pytest.approx((2 - 4.30265 / np.sqrt(3), 2 + 4.30265 / np.sqrt(3)), abs=1e-4)


def test_clustered_error_by_hand():
    """Patients (1, 3), (2), (6): mean 3, residuals 4 - 6, 2 - 3, 6 - 3 = -2, -1, 3 over 4 cases.

    Standard error sqrt(3 / 2 x 14) / 4 = sqrt(21) / 4; Student's t with 2 degrees.
    """
    answer = estimate([1, 3, 2, 6], ["a", "a", "b", "c"])
    margin = stats.t.ppf(0.975, 2) * np.sqrt(21) / 4
    assert (answer.low, answer.mean, answer.high) == pytest.approx((3 - margin, 3, 3 + margin))


def test_one_patient_says_nothing_of_others():
    answer = estimate([0.8, 0.9], ["a", "a"], bounds=(0, 1))
    assert (answer.low, answer.high) == (0, 1)
    assert estimate([5.0], ["a"]).high is None


def test_repeating_every_case_does_not_narrow_the_interval():
    values = np.random.default_rng(0).beta(18, 2, 30)
    once = estimate(values, names(30))
    thrice = estimate(np.tile(values, 3), names(30) * 3)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


def test_the_interval_is_cut_at_the_bounds_and_collapses_without_spread():
    assert estimate([1.0] * 19 + [0.2], names(20), bounds=(0, 1)).high == 1
    same = estimate([0.7] * 20, names(20))
    assert (same.low, same.high) == pytest.approx((0.7, 0.7))


def test_same_seed_same_interval():
    values = np.random.default_rng(1).normal(size=40)
    assert estimate(values, names(40), seed=3) == estimate(values, names(40), seed=3)
    assert estimate(values, names(40), seed=3) != estimate(values, names(40), seed=4)


def test_many_resamples_are_drawn_in_pieces_and_agree_with_normal_theory():
    values = np.random.default_rng(2).normal(size=5000)
    answer = estimate(values, names(5000))
    assert (answer.high - answer.low) / 2 == pytest.approx(1.96 * values.std() / np.sqrt(5000), rel=0.08)


@pytest.mark.parametrize("num_patients", [20, 50])
def test_the_interval_covers_the_true_mean(num_patients):
    """300 cohorts of skewed, clustered Dice values; within 3.5 standard errors of 95 %.

    Patient means are Beta(18, 2), cases Beta around them with the same mean .9. The full table is in docs/metrics.md.
    """
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(300):
        sizes = rng.integers(1, 4, num_patients)
        centres = np.repeat(rng.beta(18, 2, num_patients), sizes)
        answer = estimate(rng.beta(40 * centres, 40 * (1 - centres)), np.repeat(names(num_patients), sizes))
        covered += answer.low <= 0.9 <= answer.high
    assert 0.91 <= covered / 300 <= 0.99


def test_labels_are_summarised_with_every_case_counted():
    rows = [
        ("a", row("liver")), ("a", row("tumour", dice=0.0, presence="missed", hd_mm=300)),
        ("b", row("liver", dice=0.8)), ("b", row("tumour", dice=1.0, presence="both_empty", hd_mm=0)),
        ("c", row("liver", dice=0.7)), ("c", row("tumour", dice=0.0, presence="invented", hd_mm=600)),
    ]  # fmt: skip
    liver, tumour = summarise_labels(rows)
    assert (liver.label, tumour.label) == ("liver", "tumour")
    assert liver.dice.mean == pytest.approx(0.8)
    assert (liver.num_missed, liver.num_invented, liver.num_both_empty) == (0, 0, 0)
    assert (tumour.num_missed, tumour.num_invented, tumour.num_both_empty) == (1, 1, 1)
    assert tumour.hd_mm.mean == pytest.approx(300)
    assert tumour.hd_mm.n == 3
    assert (tumour.dice.low, tumour.dice.high) == (0, 1)
    assert tumour.hd_mm.low == 0
    assert liver.dice == estimate([0.9, 0.8, 0.7], ["a", "b", "c"], bounds=(0, 1))
    assert summarise_labels([]) == ()


def test_paired_comparison_by_hand():
    """Differences .1 .. .6 of six patients, all upwards: the smallest two-sided signed-rank p, 2 / 2^6."""
    first = np.array([0.5, 0.5, 0.5, 0.5, 0.3, 0.3])
    second = first + np.arange(1, 7) / 10
    answer = paired_comparison(first, second, names(6))
    assert answer.difference.mean == pytest.approx(0.35)
    assert answer.wilcoxon_p == pytest.approx(2 / 64)
    assert (answer.num_higher, answer.num_lower, answer.num_equal) == (6, 0, 0)
    assert answer.distinguishable
    assert paired_comparison(second, first, names(6)).difference.mean == pytest.approx(-0.35)


def test_a_patient_counts_once_in_the_test():
    """The third patient's two cases differ by +1 and -3: a mean of -1, one of three patients downwards."""
    answer = paired_comparison([0, 0, 0, 3], [2, 3, 1, 0], ["a", "b", "c", "c"])
    assert answer.wilcoxon_p == pytest.approx(stats.wilcoxon([2, 3, -1]).pvalue)
    assert (answer.num_higher, answer.num_lower) == (3, 1)


def test_equal_models_cannot_be_told_apart():
    answer = paired_comparison([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], names(3))
    assert (answer.wilcoxon_p, answer.num_equal, answer.distinguishable) == (1, 3, False)


@pytest.mark.parametrize("values", [[], [1.0, 2.0], [1.0, 2.0, np.nan], [1.0, 2.0, np.inf], [[1.0, 2.0, 3.0]]])
def test_refusals(values):
    patients = names(3) if values else []
    with pytest.raises(InputError, match="E-STATISTICS-INPUT"):
        estimate(values, patients)
    with pytest.raises(InputError, match="E-STATISTICS-INPUT"):
        paired_comparison([1.0] * len(patients), values, patients)


def test_no_interval_of_a_distance_leaves_the_image():
    rows = [(f"p{n}", row("liver", hd_mm=200.0 if n < 3 else 4.0)) for n in range(8)]
    (free,) = summarise_labels(rows)
    assert free.hd_mm.high is not None
    longest_mm = (free.hd_mm.mean + free.hd_mm.high) / 2
    (cut,) = summarise_labels(rows, longest_mm=longest_mm)
    assert (cut.hd_mm.mean, cut.hd_mm.high) == (free.hd_mm.mean, longest_mm)
    assert cut.dice == free.dice


def test_a_single_failure_widens_the_interval_to_both_sides():
    """One of 24 far off: a third of the draws lack it, and they say that the true mean may be well above."""
    (summary,) = summarise_labels([(f"p{n}", row("liver", hd_mm=500.0 if n == 0 else 4.0)) for n in range(24)])
    interval = summary.hd_mm
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low < 10
    assert interval.high > interval.mean + 10
