from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.errors import UsageError
from medseg.core.settings import PreprocessSettings, Settings, TrainSettings, merge, parse_window, seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2h3m4s", 7384),
        (" 5M ", 300),
        ("45", 45),
        ("0.5", 0.5),
    ],
)
def test_durations(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "0", "0s", "-5", "5 minutes", "1h30", "30m1h", "nan", "inf", "1e999"])
def test_refuses_what_is_no_duration(text):
    with pytest.raises(ValueError, match="must be"):
        seconds(text)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_durations_add_up(hours, minutes, rest):
    assert seconds(f"{hours}h{minutes}m{rest}s") == 3600 * hours + 60 * minutes + rest


def test_training_lasts_a_budget_unless_epochs_are_given():
    assert TrainSettings().budget_s == 1800
    by_epochs = TrainSettings.parse({"epochs": 3})
    assert (by_epochs.budget, by_epochs.budget_s, by_epochs.epochs) == (None, None, 3)


@pytest.mark.parametrize("values", [{"epochs": 3, "budget": "30m"}, {"budget": None}])
def test_exactly_one_length(values):
    with pytest.raises(UsageError, match="either budget or epochs"):
        TrainSettings.parse(values)


def test_the_budget_is_read_when_it_is_set():
    with pytest.raises(UsageError, match=r"budget: .*such as 90s, 20m or 1h30m, got 'a while'$"):
        TrainSettings.parse({"budget": "a while"})


def test_the_command_line_wins_over_the_file_and_none_leaves_it():
    file = Settings.parse({"train": {"epochs": 3, "seed": 4, "learning_rate": 1e-3}})
    merged = merge(file, "train", {"budget": "5m", "seed": None, "learning_rate": 2e-3}).train
    assert (merged.budget, merged.epochs, merged.seed, merged.learning_rate) == ("5m", None, 4, 2e-3)
    back = merge(Settings(train=merged), "train", {"epochs": 7}).train
    assert (back.budget, back.epochs) == (None, 7)


def test_both_lengths_on_the_command_line_are_refused_in_few_words():
    with pytest.raises(UsageError) as caught:
        merge(Settings(), "train", {"budget": "5m", "epochs": 2})
    assert caught.value.message == "give either budget or epochs"


def test_merge_leaves_the_other_sections_and_the_input_alone():
    before = Settings.parse({"infer": {"overlap": 0.25}})
    after = merge(before, "train", {"seed": 9})
    assert (before.train.seed, after.train.seed, after.infer) == (0, 9, before.infer)


def test_merge_checks_what_it_is_given():
    with pytest.raises(UsageError, match="overlap"):
        merge(Settings(), "infer", {"overlap": 0.95})
    with pytest.raises(UsageError, match=r"did you mean 'overlap'\?"):
        merge(Settings(), "infer", {"overlapp": 0.5})


@pytest.mark.parametrize(
    "values", [{"spacing_mm": (1, 0, 1)}, {"spacing_mm": (1, float("nan"), 1)}, {"patch_size": (32, -1, 32)}]
)
def test_a_grid_has_positive_sizes(values):
    with pytest.raises(UsageError, match="three positive numbers"):
        PreprocessSettings.parse(values)


def test_takes_a_grid():
    chosen = PreprocessSettings.parse({"spacing_mm": [1, 1, 2.5], "patch_size": [32, 32, 16]})
    assert (chosen.spacing_mm, chosen.patch_size) == ((1, 1, 2.5), (32, 32, 16))


def test_windows():
    named = {"lung": (-1000.0, 400.0)}
    assert parse_window("lung", named) == (-1000, 400)
    assert parse_window("-160,240", named) == (-160, 240)


@pytest.mark.parametrize("text", ["bone", "5", "1,2,3", "240,-160", "3,3", "nan,5", "5,nan", "-inf,5", "5,inf", "a,b"])
def test_refuses_what_is_no_window(text):
    with pytest.raises(UsageError, match="neither a known name") as caught:
        parse_window(text, {"lung": (-1000.0, 400.0)})
    assert caught.value.code == "E-WINDOW"
    assert "lung" in caught.value.remedy
