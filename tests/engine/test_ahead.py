from __future__ import annotations

import threading

import pytest

from medseg.core.errors import InputError, case_context
from medseg.engine.ahead import Ahead


def _recording():
    asked: list[tuple[int, str]] = []

    def draw(step):
        asked.append((step, threading.current_thread().name.split("_")[0]))
        return f"batch {step}"

    return draw, asked


@pytest.mark.parametrize("threaded", [False, True])
def test_every_step_gets_its_batch_in_order(threaded):
    draw, asked = _recording()
    with Ahead(draw, threaded=threaded) as batches:
        assert [batches.batch(step) for step in range(3, 7)] == [f"batch {step}" for step in range(3, 7)]
    steps = [step for step, _ in asked]
    assert steps[:4] == [3, 4, 5, 6]
    assert [name for _, name in asked[1:4]] == ["next batch" if threaded else "MainThread"] * 3


def test_another_step_than_the_one_drawn_ahead_is_drawn_anew():
    draw, _ = _recording()
    with Ahead(draw, threaded=True) as batches:
        assert [batches.batch(step) for step in (0, 5, 6, 2)] == ["batch 0", "batch 5", "batch 6", "batch 2"]


def test_what_fails_ahead_is_raised_at_its_step_with_the_case():
    def draw(step):
        if step == 1:
            with case_context("liver_07"):
                raise InputError("gone", code="E-STORE-DAMAGED")
        return step

    with Ahead(draw, threaded=True) as batches:
        assert batches.batch(0) == 0
        with pytest.raises(InputError, match="gone") as caught:
            batches.batch(1)
    assert caught.value.case == "liver_07"


def test_who_stops_does_not_wait_for_a_disk_that_does_not_answer():
    release, begun = threading.Event(), threading.Event()

    def draw(step):
        if step:
            begun.set()
            assert release.wait(20)
        return step

    try:
        with Ahead(draw, threaded=True) as batches:
            batches.batch(0)
            assert begun.wait(20)
        assert not release.is_set()
    finally:
        release.set()
