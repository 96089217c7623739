"""Which columns of a manifest stay, and as what."""

from __future__ import annotations

from datetime import timedelta

import pytest

from medseg.core.case import Case, Dataset
from medseg.core.errors import UsageError
from medseg.data.nameless import kept_columns, require_columns


def case(**columns):
    return Case(id="meyer-1", patient="PAT0017", images=("a.nii",), attributes=columns)


def earlier(day):
    return day - timedelta(days=40)


def test_nothing_stays_unless_asked_for():
    assert kept_columns(case(site="Ulm", sex="F", age="44", date="2024-02-03"), (), None) == {}


def test_what_is_asked_for_stays_as_it_is():
    columns = case(site="Ulm", sex="F", age="44", notes="shy")
    assert kept_columns(columns, ("site", "age"), None) == {"site": "Ulm", "age": "44"}


@pytest.mark.parametrize(("said", "kept"), [("89", "89"), ("90", "90"), ("103.5", "90"), ("0101Y", "90"), ("?", "?")])
def test_old_age_is_ninety(said, kept):
    assert kept_columns(case(age=said), ("age",), None) == {"age": kept}


@pytest.mark.parametrize("said", ["seen at meyer-1", "PAT0017", "xpat0017x"])
def test_a_column_that_names_the_case_or_the_patient_goes(said):
    assert kept_columns(case(site=said), ("site",), None) == {}


@pytest.mark.parametrize(
    ("said", "moved"),
    [
        ("2024-02-03", "2023-12-25"),
        ("20240203", "20231225"),
        ("2024-02-03 11:12", "2023-12-25"),
        ("2024-02-31", ""),
        ("2024-0203", None),
    ],
)
def test_dates_move_without_being_asked_for_and_lose_the_time_of_day(said, moved):
    assert kept_columns(case(seen=said), (), earlier) == ({"seen": moved} if moved else {})
    assert kept_columns(case(seen=said), ("seen",), None) == ({"seen": said} if moved is None else {})


@pytest.mark.parametrize("name", ["birthdate", "patient_birth", "DOB", "Geburtstag"])
def test_dates_of_birth_never_stay(name):
    assert kept_columns(case(**{name: "1961-02-03"}), (name,), earlier) == {}


def test_days_before_the_calendar_go():
    assert kept_columns(case(seen="0001-01-05"), (), lambda _: None) == {}


def test_a_misspelt_column_is_refused():
    dataset = Dataset(name="d", cases=(case(site="Ulm"),))
    require_columns(dataset, ("site",))
    with pytest.raises(UsageError, match=r"E-DEID-COLUMN.*did you mean 'site'"):
        require_columns(dataset, ("sites",))
