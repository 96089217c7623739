"""Cases over processes: order, and the death of one."""

import operator
import os
import signal
from functools import partial

import pytest

from medseg.workflows.parallel import each_in_processes


def no_death(item, ending):
    raise AssertionError((item, ending))


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes):
    doubled = each_in_processes(partial(operator.mul, 2), list(range(7)), processes=processes, on_death=no_death)
    assert list(doubled) == [0, 2, 4, 6, 8, 10, 12]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_process_that_dies_costs_its_case_and_says_why():
    """`signal.raise_signal` kills the process with SIGKILL and does nothing with SIGURG, ignored by default."""
    items = [signal.SIGURG, signal.SIGURG, signal.SIGKILL, signal.SIGURG, signal.SIGSEGV, signal.SIGURG]
    results = each_in_processes(
        signal.raise_signal, items, processes=2, on_death=lambda item, ending: f"{item.name}: {ending}"
    )
    found = list(results)
    assert [found[n] for n in (0, 1, 3, 5)] == [None] * 4
    assert found[2] == (
        "SIGKILL: its process was stopped by SIGKILL; the system stops a process so when memory runs out"
    )
    assert found[4] == "SIGSEGV: its process was stopped by SIGSEGV"


def test_an_exit_is_told_too():
    (found,) = each_in_processes(os._exit, [3], processes=2, on_death=lambda _, ending: ending)
    assert found == "its process ended with exit code 3"


def test_what_a_function_raises_ends_the_run():
    with pytest.raises(ZeroDivisionError):
        list(each_in_processes(partial(operator.floordiv, 1), [1, 0, 1], processes=2, on_death=no_death))
