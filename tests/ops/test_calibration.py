"""Temperatures: recovered, harmless to answers, and judged by cases that had no part in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from medseg.ops.calibration import calibrate, fit_temperature, negative_log_likelihood, tempered
from medseg.ops.scores import expected_calibration_error


def _overconfident(temperature, *, n=4000, num_classes=3, seed=1):
    """Logits that are right as often as their softmax says, multiplied by `temperature`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (n, num_classes))
    reference = np.array([generator.choice(num_classes, p=row) for row in softmax(logits, axis=1)])
    return softmax(logits * temperature, axis=1), reference


@pytest.mark.parametrize("temperature", [3.0, 0.5])
def test_the_temperature_that_was_put_in_comes_out(temperature):
    probabilities, reference = _overconfident(temperature)
    assert fit_temperature(probabilities, reference) == pytest.approx(temperature, rel=0.06)


def test_it_divides_logits():
    logits = np.random.default_rng(0).normal(0, 4, (50, 4))
    np.testing.assert_allclose(tempered(softmax(logits, axis=1), 2.5), softmax(logits / 2.5, axis=1), atol=1e-9)


@given(st.lists(st.floats(-8, 8), min_size=3, max_size=3, unique=True), st.floats(0.2, 8))
def test_no_answer_changes(logits, temperature):
    probabilities = softmax(np.array([logits]), axis=1)
    # what rounding has made equal may come in either order
    if np.unique(np.round(probabilities, 12)).size == 3:
        assert tempered(probabilities, temperature).argmax() == probabilities.argmax()


def test_certainty_stays_finite():
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert np.isfinite(tempered(probabilities, 0.1)).all()
    assert negative_log_likelihood(probabilities, np.array([1, 0])) == pytest.approx(-np.log(1e-12))


def test_a_few_right_answers_do_not_ask_for_boundless_confidence():
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.1, 0.9]] * 4)
    reference = np.array([0] * 4 + [1] * 4)
    found = tempered(probabilities, fit_temperature(probabilities, reference))
    assert found.max() == pytest.approx(9 / 10, abs=1e-3)  # (n + 1) / (n + 2)


def test_calibration_is_measured_on_folds_that_had_no_part_in_it():
    probabilities, reference = _overconfident(4.0, n=500)
    folds = np.arange(500) % 5
    made = calibrate("k", probabilities, reference, folds)
    assert made.temperature == made.fitted == pytest.approx(4.0, rel=0.25)
    assert made.nll[1] < made.nll[0]
    assert made.brier[1] < made.brier[0]
    assert made.ece[1] < made.ece[0] / 2
    after = np.empty_like(probabilities)
    for fold in range(5):
        here = folds == fold
        after[here] = tempered(probabilities[here], fit_temperature(probabilities[~here], reference[~here]))
    assert made.ece[1] == pytest.approx(expected_calibration_error(after, reference))
    assert made.reliability[0] != made.reliability[1]


def test_a_temperature_that_helps_only_the_cases_it_was_fitted_to_is_not_kept():
    surer, reference = _overconfident(4.0, n=200, seed=2)
    doubtful, other = _overconfident(0.25, n=200, seed=3)
    made = calibrate("k", np.vstack([surer, doubtful]), np.concatenate([reference, other]), [0] * 200 + [1] * 200)
    assert made.nll[1] > made.nll[0]
    assert made.temperature == 1.0
    assert made.fitted != 1.0
