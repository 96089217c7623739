"""What is better beyond chance is taken, what is better by luck is not, and the choosing is judged by other folds."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.answering import Cleanup
from medseg.core.choice import Choice
from medseg.ops.choosing import Scores, choose, judge_choosing

RULES = (Cleanup(), Cleanup(min_volume_ml=0.1), Cleanup(keep_largest=True))


def _scores(tables, *, patients=None, better=1, num_cases=40):
    names = patients or [f"p{n}" for n in range(num_cases)]
    folds = np.arange(num_cases) % 5
    return Scores(tables, ("organ", "lesion"), RULES, tuple(names), folds, (0.0, 1.0), better)


def _table(generator, *, shift=0.0, organ=(0.0, 0.0), num_cases=40):
    """Scores around .8, the same for every rule but for what rules add to the organ."""
    table = np.repeat(0.8 + shift + 0.05 * generator.standard_normal((num_cases, 2, 1)), 3, axis=2)
    table[:, 0, 1:] += np.abs(generator.standard_normal((num_cases, 1))) * np.array(organ)
    return table


def test_a_real_gain_is_taken_and_luck_is_not():
    generator = np.random.default_rng(0)
    plain = _table(generator)
    better = plain + 0.02 + 0.01 * generator.standard_normal((40, 2, 1))
    lucky = plain + 0.05 * generator.standard_normal((40, 2, 1))
    lucky += 0.004 - (lucky - plain).mean()
    choice, steps = choose(_scores({"plain": plain, "lucky": lucky}))
    assert choice == Choice(candidate="plain")
    assert steps[0].gain.mean == pytest.approx(0.004)
    assert [step.taken for step in steps] == [False] * 5
    choice, steps = choose(_scores({"plain": plain, "better": better, "lucky": lucky}))
    assert choice.candidate == "better"
    assert [(step.subject, step.taken) for step in steps[:2]] == [("better", True), ("lucky", False)]
    assert steps[1].change == "instead of better"


def test_each_label_is_cleaned_as_its_own_scores_say():
    table = _table(np.random.default_rng(1), organ=(0.01, 0.03))
    table[:, 1, 2] -= 0.1
    choice, steps = choose(_scores({"plain": table}))
    assert choice.cleanup == {"organ": Cleanup(keep_largest=True)}
    assert [(step.subject, step.taken) for step in steps] == [
        ("organ", True), ("organ", True), ("lesion", False), ("lesion", False),
    ]  # fmt: skip
    assert steps[1].gain.mean == pytest.approx((table[:, 0, 2] - table[:, 0, 1]).mean())


def test_of_distances_the_lower_is_better():
    table = _table(np.random.default_rng(2), organ=(0.0, 0.03))
    assert choose(_scores({"plain": table}, better=-1))[0].cleanup == {}
    assert choose(_scores({"plain": -table}, better=-1))[0].cleanup == {"organ": Cleanup(keep_largest=True)}


def test_patients_are_what_counts():
    """Forty cases of two patients say little, however alike they are."""
    table = _table(np.random.default_rng(3))
    better = table + np.where(np.arange(40) < 30, 0.02, 0.001)[:, None, None]
    assert choose(_scores({"plain": table, "better": better}))[0].candidate == "better"
    two = ["a"] * 30 + ["b"] * 10
    assert choose(_scores({"plain": table, "better": better}, patients=two))[0].candidate == "plain"


def test_labels_that_were_not_annotated_do_not_count():
    table = _table(np.random.default_rng(4), organ=(0.0, 0.03))
    table[::2, 0] = np.nan
    scores = _scores({"plain": table})
    choice, steps = choose(scores)
    assert choice.cleanup == {"organ": Cleanup(keep_largest=True)}
    assert steps[0].gain.n == 20
    by_case = scores.by_case(choice)
    assert by_case[0] == table[0, 1, 0]
    assert by_case[1] == pytest.approx((table[1, 0, 2] + table[1, 1, 0]) / 2)


def test_a_choice_is_judged_by_folds_that_had_no_part_in_it():
    """A candidate that is good in one fold only is not chosen there by the others, and spoils none of them."""
    plain = _table(np.random.default_rng(5))
    odd = plain - 0.01
    odd[np.arange(40) % 5 == 0] += 0.5
    scores = _scores({"plain": plain, "odd": odd})
    values, choices = judge_choosing(scores)
    assert [choice.candidate for choice in choices] == [
        choose(scores.of(scores.folds != fold))[0].candidate for fold in range(5)
    ]
    assert choices[0].candidate == "plain"
    np.testing.assert_allclose(values[scores.folds == 0], scores.by_case(Choice(candidate="plain"))[scores.folds == 0])


def test_noise_is_not_reported_as_progress():
    """Of configurations that are all alike the chosen one's own score flatters; the judged choosing does not."""
    gaps = []
    for seed in range(8):
        generator = np.random.default_rng(seed)
        tables = {f"c{n}": 0.8 + 0.05 * generator.standard_normal((20, 1, 1)) for n in range(8)}
        folds = np.arange(20) % 2
        patients = tuple(f"p{n}" for n in range(20))
        scores = Scores(tables, ("organ",), RULES[:1], patients, folds, (0.0, 1.0))
        gaps.append(scores.by_case(choose(scores)[0]).mean() - judge_choosing(scores)[0].mean())
    assert np.mean(gaps) > 0.002
