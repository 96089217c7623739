"""Classical models on tables whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.engine.baseline import Teaching, fit_baseline

FAMILIES = ("svm", "tree", "forest", "logistic")


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr("medseg.engine.baseline._NUM_TREES", 10)


def dealt(num_cases: int, num_folds: int = 3) -> list[np.ndarray]:
    return [np.arange(first, num_cases, num_folds) for first in range(num_folds)]


def blobs(num_cases: int, num_classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """One feature parts the classes, one is noise in other units, one is missing in every third case."""
    random = np.random.default_rng(seed)
    classes = np.arange(num_cases) // 2 % num_classes
    table = np.stack([classes + random.normal(0, 0.1, num_cases), random.normal(5e6, 1e6, num_cases)], axis=1)
    third = np.where(np.arange(num_cases) % 3 == 0, np.nan, random.normal(size=num_cases))
    return np.column_stack([table, third]), classes


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_can_be_told_apart_is(family, num_classes):
    table, classes = blobs(60, num_classes)
    fitted = fit_baseline(family, Teaching(table, classes, dealt(60)))
    fresh, answer = blobs(30, num_classes, seed=1)
    found = fitted.predict(fresh)
    assert found.shape == (30, num_classes)
    assert found.sum(axis=1) == pytest.approx(np.ones(30))
    assert (found.argmax(axis=1) == answer).mean() > 0.9
    assert fitted.training_auroc > 0.95


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_is_not_learnt_out_of_fold(family):
    random = np.random.default_rng(0)
    table, classes = random.normal(size=(80, 4)), np.arange(80) % 2
    assert fit_baseline(family, Teaching(table, classes, dealt(80))).training_auroc < 0.75


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_repeats_itself(family):
    table, classes = blobs(30, 2)
    first, again = (fit_baseline(family, Teaching(table, classes, dealt(30), seed=4)) for _ in range(2))
    assert first.chosen == again.chosen
    assert np.array_equal(first.predict(table), again.predict(table))


@pytest.mark.parametrize("family", FAMILIES)
def test_rare_classes_weigh_as_much_as_common_ones(family):
    """Ninety to ten, a feature that helps a little: nobody answers with the common class alone."""
    random = np.random.default_rng(0)
    classes = (np.arange(100) % 10 == 0).astype(np.int64)
    table = (classes + random.normal(0, 0.8, 100))[:, None]
    answers = fit_baseline(family, Teaching(table, classes, dealt(100))).predict(table).argmax(axis=1)
    assert answers[classes == 1].mean() >= 0.5


def test_what_is_missing_in_every_training_case_is_filled_in_and_means_nothing():
    table, classes = blobs(30, 2)
    table[:, 2] = np.nan
    fitted = fit_baseline("logistic", Teaching(table, classes, dealt(30)))
    known = table.copy()
    known[:, 2] = 1e9
    assert np.array_equal(fitted.predict(known), fitted.predict(known[:, [0, 1, 2]]))
    assert np.isfinite(fitted.predict(table)).all()


def test_one_monstrous_value_is_cut_off():
    """Far beyond anything in training, a feature says no more than five deviations do."""
    table, classes = blobs(40, 2)
    fitted = fit_baseline("logistic", Teaching(table, classes, dealt(40)))
    far, farther = table[:1].copy(), table[:1].copy()
    far[0, 1], farther[0, 1] = 1e9, 1e15
    assert np.array_equal(fitted.predict(far), fitted.predict(farther))


def test_missing_values_come_from_the_training_cases():
    """A judged table of its own medians would shift what is filled in."""
    table, classes = blobs(40, 2)
    fitted = fit_baseline("logistic", Teaching(table, classes, dealt(40)))
    hole = table[:1].copy()
    hole[0, 0] = np.nan
    filled = hole.copy()
    filled[0, 0] = np.nanmedian(table[:, 0])
    assert fitted.predict(hole) == pytest.approx(fitted.predict(filled))
