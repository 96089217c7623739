"""What is said of an exception that is not ours never quotes a file."""

from __future__ import annotations

import pytest
from pydicom.valuerep import DSfloat

from medseg.core.errors import InputError, told, told_at_length

CANARY = "ZZCANARY"


def caught(raiser):
    with pytest.raises(Exception) as info:  # noqa: PT011 - any exception
        raiser()
    return info.value


def of_a_reader():
    DSfloat(CANARY)


def chained():
    try:
        of_a_reader()
    except ValueError as error:
        message = "its header cannot be read"
        raise InputError(message, code="E-DICOM") from error


def test_a_readers_words_are_left_out_and_its_place_is_named():
    error = caught(of_a_reader)
    assert CANARY in str(error)
    assert CANARY not in told(error)
    assert told(error).startswith("ValueError in valuerep.py, line ")
    assert CANARY not in told_at_length(error)


def test_what_led_to_a_refusal_is_told_without_its_words():
    text = told_at_length(caught(chained))
    assert CANARY not in text
    assert "which led to" in text
    assert "its header cannot be read" in text


def test_other_words_stay():
    assert told(caught(lambda: int("five"))) == "ValueError: invalid literal for int() with base 10: 'five'"
    assert told(ValueError("without a place")) == "ValueError"
