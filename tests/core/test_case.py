from __future__ import annotations

import pytest
from pydantic import ValidationError

from medseg.core.case import Case, Dataset, case_id


def test_label_names_follow_the_values_not_the_order_of_the_manifest():
    assert Dataset(name="d", labels={"spleen": 7, "liver": 3, "tumour": 300}).label_names == (
        "liver",
        "spleen",
        "tumour",
    )


def test_a_case_without_patient_is_its_own_group():
    assert Case(id="a1", images=("x.nii",)).group == "a1"
    assert Case(id="a1", patient="p", images=("x.nii",)).group == "p"


@pytest.mark.parametrize("text", ["liver 07 (a)", "._-x_", "Müller", "", "???", "a" * 300])
def test_any_text_becomes_an_id_that_a_case_may_have(text):
    assert Case(id=case_id(text), images=("x.nii",)).id == case_id(case_id(text))


def test_an_id_says_what_the_text_said():
    assert [case_id(text) for text in ("liver_07", "liver 07", "???")] == ["liver_07", "liver_07", "case"]


def test_finds_a_case():
    cases = tuple(Case(id=name, images=("x.nii",)) for name in "abc")
    assert Dataset(name="d", cases=cases).case("b") is cases[1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"labels": {"liver": 0}}, "1 to 65535"),
        ({"labels": {"liver": 65536}}, "1 to 65535"),
        ({"labels": {"liver": 4, "spleen": 4}}, "share one value"),
        ({"labels": {f"l{value}": value for value in range(1, 256)}}, "at most 254 labels"),
        ({"labels": {"liver": 1}, "ignore_value": 1}, "also the value of a label"),
        ({"ignore_value": 65536}, "0 to 65535"),
        ({"ignore_value": -1}, "0 to 65535"),
        ({"heads": {"grade": ("low",)}}, "two different"),
        ({"heads": {"grade": ("low", "low")}}, "two different"),
        ({"channels": ()}, "at least 1"),
        ({"generator": {"name": "phantom", "num_cases": 1}}, "greater than or equal to 2"),
    ],
)
def test_refuses_an_inconsistent_dataset(fields, words):
    with pytest.raises(ValidationError, match=words):
        Dataset(name="d", **fields)


def test_takes_as_many_labels_as_a_byte_holds():
    assert len(Dataset(name="d", labels={f"l{value}": value for value in range(1, 255)}).label_names) == 254


@pytest.mark.parametrize("case_id", ["", "../up", "a b", "-x", "a" * 129])
def test_refuses_an_id_that_is_no_file_name(case_id):
    with pytest.raises(ValidationError, match="id"):
        Case(id=case_id, images=("x.nii",))
