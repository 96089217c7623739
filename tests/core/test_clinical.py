from __future__ import annotations

import pytest
from pydantic import ValidationError

from medseg.core.clinical import ClinicalColumn, as_number, encode, encoded_width, given, remarks
from medseg.core.errors import InputError
from medseg.core.plan import ClassificationPlan

AGE = ClinicalColumn(name="age", mean=60.0, deviation=8.0)
SEX = ClinicalColumn(name="sex", levels=("F", "M"))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"age": "64", "sex": "F"}, (0.5, 0, 1, 0, 0)),
        ({"age": "052Y", "sex": " M "}, (-1, 0, 0, 1, 0)),
        ({"sex": "F"}, (0, 1, 1, 0, 0)),
        ({"age": "n/a", "sex": "X"}, (0, 1, 0, 0, 1)),
        ({"age": "1000", "sex": ""}, (5, 0, 0, 0, 1)),
        ({"age": "-1000"}, (-5, 0, 0, 0, 1)),
    ],
)
def test_a_case_in_numbers_by_hand(attributes, expected):
    assert encode((AGE, SEX), attributes) == expected
    assert encoded_width((AGE, SEX)) == len(expected)


def test_what_is_missing_and_what_was_never_seen_are_said():
    assert remarks((AGE, SEX), {"age": "60", "sex": "M"}) == ()
    missing, unseen = remarks((AGE, SEX), {"age": "unknown", "sex": "X"})
    assert missing == "W-CLINICAL: age is not given; the diagnosis was made without it"
    assert unseen == "W-CLINICAL: sex has a value that no training case had; the diagnosis was made without it"


def test_nothing_but_the_chosen_columns_is_kept():
    assert given({"age": " 60 ", "sex": "?", "name": "Eve"}, (AGE, SEX)) == {"age": "60"}


def test_a_word_among_numbers_is_refused():
    with pytest.raises(InputError, match="age is 'old', not a number") as refused:
        encode((AGE,), {"age": "old"})
    assert refused.value.code == "E-CLINICAL-VALUE"


@pytest.mark.parametrize(("text", "number"), [("63", 63), ("063Y", 63), ("1e2", 100), ("inf", None), ("6,3", None)])
def test_what_is_a_number(text, number):
    assert as_number(text) == number


def test_columns_are_checked_where_a_plan_is_read():
    with pytest.raises(ValidationError, match="greater than 0"):
        ClinicalColumn(name="age", deviation=0)
    with pytest.raises(ValidationError, match="must differ"):
        ClinicalColumn(name="sex", levels=("F", "F"))
    with pytest.raises(ValidationError, match="twice"):
        ClassificationPlan(heads={"a": ("x", "y")}, view="whole", pool_labels=(), clinical=(AGE, AGE))
