"""A training's length in epochs or time, over several sessions."""

import itertools
import math
import time

import pytest

from medseg.core.settings import TrainSettings
from medseg.engine.checkpoint import TrainingProgress
from medseg.engine.clock import Clock

NOTHING = TrainingProgress()


def clock(progress=NOTHING, *, batch_size=2, final_factor=1.0, now=time.monotonic, **length) -> Clock:
    settings = TrainSettings(**length)
    return Clock(settings, progress, num_cases=7, batch_size=batch_size, final_factor=final_factor, now=now)


def standing() -> float:
    """A clock by which everything takes no time."""
    return 0.0


def run_out(running: Clock) -> int:
    """Steps until the end."""
    steps = 0
    while not running.over():
        running.advance()
        steps += 1
    return steps


def test_an_epoch_is_every_case_once_in_whole_steps():
    assert run_out(clock(epochs=3)) == 3 * math.ceil(7 / 2)


def test_a_smaller_batch_after_a_restart_keeps_what_was_done():
    first = clock(epochs=4)
    for _ in range(8):
        first.advance()
    rest = clock(first.progress(), batch_size=1, epochs=4)
    assert first.share() == 0.5
    assert rest.share() == pytest.approx(16 / 28)  # 16 patches seen, 4 x 7 to see
    assert run_out(rest) == 12


def test_a_finished_training_that_is_made_longer_goes_on_in_its_middle_and_is_validated_again():
    first = clock(epochs=10, now=standing)
    while not first.over():
        if first.validation_due():
            first.timed_validation(dict)
        first.advance()
    done = first.progress()
    assert clock(done, epochs=10).over()
    assert clock(done, epochs=8).over()
    longer = clock(done, epochs=20, now=standing)
    assert longer.share() == 0.5
    assert not longer.validation_due()
    shares = []
    while not longer.over():
        if longer.validation_due():
            shares.append(longer.share())
            longer.timed_validation(dict)
        longer.advance()
    assert [round(share, 1) for share in shares] == [0.6, 0.7, 0.8, 0.9]


def test_a_longer_budget_goes_on_and_the_same_one_does_not():
    done = TrainingProgress(step=100, samples=200, elapsed_s=600.0, next_validation=1.0, validation_s=3.0)
    assert clock(done, budget="10m").over()
    assert clock(done, budget="5m").over()
    assert clock(done, budget="20m").share() == pytest.approx(600 / (1200 - 1.2 * 3 - 2), abs=1e-3)


def test_where_a_resumed_training_is_validated_next_does_not_depend_on_the_resumption():
    whole = clock(epochs=10, now=standing)
    for _ in range(6):
        if whole.validation_due():
            whole.timed_validation(dict)
        whole.advance()
    again = clock(whole.progress(), epochs=10, now=standing)
    while not whole.validation_due():
        assert not again.validation_due()
        whole.advance()
        again.advance()
    assert again.validation_due()


@pytest.mark.parametrize(("validation_s", "times"), [(0.0, 9), (1.0, 9), (20.0, 5), (500.0, 1)])
def test_validating_takes_little_of_a_training_in_epochs_too(validation_s, times):
    seconds = [0.0]
    running = clock(epochs=100, now=lambda: seconds[0])

    def validated() -> dict[str, float]:
        seconds[0] += validation_s
        return {}

    count = 0
    while not running.over():
        if running.validation_due():
            running.timed_validation(validated)
            count += 1
        running.advance()
        seconds[0] += 5.0  # 2000 s of steps in all
    assert count == times


def test_throughput_counts_this_session_only():
    running = clock(TrainingProgress(step=1000, samples=2000), epochs=1000)
    running.advance()
    time.sleep(0.05)
    status = running.status({}, {})
    assert status.samples_per_s == pytest.approx(2 * status.steps_per_s, rel=0.9)  # time passes between the two
    assert status.step == 1001
    assert status.remaining_s >= 0


def test_throughput_counts_a_step_that_has_just_been_made(monkeypatch):
    """The schedule's time stands still within a step; what is shown does not."""
    times = iter([0.0, 2.0])
    monkeypatch.setattr("medseg.engine.clock.time.monotonic", lambda: next(times))
    running = clock(epochs=10)
    running.advance()
    assert running.samples_per_s() == pytest.approx(2 / 2.0)


def test_losses_are_told_from_the_first_step_and_every_few_seconds_where_steps_are_slow():
    def told(step_s: float) -> list[int]:
        seconds = itertools.count(0.0, step_s)
        running = Clock(
            TrainSettings(epochs=9), NOTHING, num_cases=4, batch_size=2, final_factor=1.0, now=lambda: next(seconds)
        )
        steps = []
        while not running.over():
            running.advance()
            steps += [running.step] if running.telling_due() else []
        return steps

    assert told(0.1) == [1, 10]
    assert told(4.0) == [1, 4, 7, 10, 13, 16]
