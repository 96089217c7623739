from __future__ import annotations

import pytest

from medseg.core.case import Case, Dataset
from medseg.core.errors import MedsegError
from medseg.planning.clinical import clinical_columns
from medseg.planning.network import Notes

HEADS = {"grade": ("low", "high")}


def _dataset(column, values, *, heads=HEADS, test=()):
    rows = [(value, None) for value in values] + [(value, "test") for value in test]
    cases = tuple(
        Case(id=f"c{n}", images=(f"{n}.nii.gz",), split=split, attributes={} if value is None else {column: value})
        for n, (value, split) in enumerate(rows)
    )
    return Dataset(name="d", heads=heads, cases=cases)


def test_numbers_by_hand_from_training_cases_alone():
    notes = Notes()
    dataset = _dataset("age", ["50", "060Y", "70", None, "unknown"], test=["9000", "old"])
    (column,) = clinical_columns(dataset, ["age"], notes)
    assert (column.name, column.levels, column.mean) == ("age", (), 60.0)
    assert column.deviation == pytest.approx((200 / 3) ** 0.5)
    (decision,) = notes.decisions
    assert decision.value == "number: mean 60, deviation 8.165"
    assert decision.reason == "of the training cases; 2 of 5 training cases have none"


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (["M", "F", "F", ""], ("F", "M")),
        (["0", "1", "1"], ("0", "1")),
        (["1", "T2", "T3"], ("1", "T2", "T3")),
        (["40", "60"], ()),
        (["0", "1", "2"], ()),
        (["0.5", "1"], ()),
    ],
)
def test_words_and_codes_are_levels(values, levels):
    (column,) = clinical_columns(_dataset("one", values), ["one"], Notes())
    assert column.levels == levels


@pytest.mark.parametrize(
    ("values", "name", "code", "words"),
    [
        (["60", "70"], "agee", "E-CLINICAL-COLUMN", "did you mean 'age'"),
        (["60", "60", None], "age", "E-CLINICAL-COLUMN", "is 60 in every training case"),
        (["60", "60.0"], "age", "E-CLINICAL-COLUMN", "in every training case"),
        (["?", ""], "age", "E-CLINICAL-COLUMN", "no training case has a value"),
        (list("abcdefghi"), "age", "E-CLINICAL-COLUMN", "9 different words, at most 8"),
        (["60", "old", "70"], "age", "E-CLINICAL-VALUE", "age is 'old', and a number in 2 of 3"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(values, name, code, words):
    with pytest.raises(MedsegError, match=words) as refused:
        clinical_columns(_dataset("age", values), [name], Notes())
    assert refused.value.code == code


def test_without_a_class_there_is_nothing_to_join():
    with pytest.raises(MedsegError, match="no class or value that age could help"):
        clinical_columns(_dataset("age", ["60", "70"], heads={}), ["age"], Notes())
    assert clinical_columns(_dataset("age", ["60", "70"], heads={}), [], Notes()) == ()


def test_eight_words_are_learnt_and_a_column_named_twice_is_one():
    (column,) = clinical_columns(_dataset("site", list("abcdefgh")), ["site", "site"], Notes())
    assert column.levels == tuple("abcdefgh")
