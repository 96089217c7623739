from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import r2_score, root_mean_squared_error

from medseg.core.errors import InputError
from medseg.core.values import ValueAnswer
from medseg.ops.values import value_summary


def _answers(values, references, patients=None):
    patients = [f"p{n}" for n in range(len(values))] if patients is None else patients
    return [
        (patient, ValueAnswer(name="age", unit="years", value=value, low=20, high=80, reference=reference))
        for patient, value, reference in zip(patients, values, references, strict=True)
    ]


def test_numbers_by_hand():
    found = value_summary("age", "years", _answers([30.0, 50.0, 90.0, 44.0], [20.0, 50.0, 80.0, None]))
    assert (found.n, found.num_without_reference, found.num_outside) == (3, 1, 1)
    assert found.mae.mean == found.bias.mean == pytest.approx(20 / 3)
    assert found.rmse.value == pytest.approx((200 / 3) ** 0.5)
    assert found.r2.value == pytest.approx(1 - 200 / 1800)
    assert found.spearman.value == 1
    assert (found.rmse.low, found.r2.high, found.spearman.low) == (None, None, None)


def test_numbers_equal_those_of_other_libraries_with_ties():
    random = np.random.default_rng(3)
    references = random.integers(20, 80, size=60).astype(float)
    values = np.round(references + random.normal(size=60) * 15, -1)
    found = value_summary("age", "years", _answers(values.tolist(), references.tolist()))
    assert found.rmse.value == pytest.approx(root_mean_squared_error(references, values))
    assert found.r2.value == pytest.approx(r2_score(references, values))
    assert found.spearman.value == pytest.approx(spearmanr(references, values).statistic)
    for one in (found.rmse, found.r2, found.spearman):
        assert one.low < one.value < one.high


def test_intervals_draw_whole_patients():
    """Four copies of every case of a patient say no more than one: the interval stays, it does not halve."""
    random = np.random.default_rng(5)
    references = random.uniform(20, 80, size=30)
    values = references + random.normal(size=30) * 10
    once = value_summary("age", "", _answers(values.tolist(), references.tolist()))
    patients = [f"p{n}" for n in range(30)] * 4
    often = value_summary("age", "", _answers([*values] * 4, [*references] * 4, patients))
    for name in ("rmse", "r2", "spearman"):
        narrow, wide = (getattr(found, name).high - getattr(found, name).low for found in (often, once))
        assert narrow == pytest.approx(wide, rel=0.15)


def test_what_does_not_exist_is_none():
    same = value_summary("age", "", _answers([30.0, 40.0], [50.0, 50.0]))
    assert same.r2 is None
    assert same.spearman is None
    assert value_summary("age", "", _answers([30.0, 30.0], [40.0, 50.0])).spearman is None


def test_no_reference_and_answers_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="one finite number per case"):
        value_summary("age", "", _answers([30.0], [None]))
    with pytest.raises(InputError, match="1 not finite"):
        value_summary("age", "", _answers([float("nan"), 3.0], [40.0, 50.0]))
