from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import Field

from medseg.core.baseline import BaselineSettings
from medseg.core.case import Dataset
from medseg.core.document import Document, suggest
from medseg.core.errors import UsageError
from medseg.core.settings import Settings


class Leaf(Document):
    threshold: float = 0.5


class Tree(Document):
    name: str
    leaf: Leaf | None = None
    leaves: tuple[Leaf, ...] = ()
    by_name: dict[str, Leaf] = {}  # noqa: RUF012 - pydantic copies defaults


@pytest.mark.parametrize(
    "values",
    [
        {"name": "t", "leaf": {"treshold": 1}},
        {"name": "t", "leaves": [{}, {"treshold": 1}]},
        {"name": "t", "by_name": {"first": {"treshold": 1}}},
    ],
)
def test_an_unknown_key_is_met_with_the_near_one_at_any_depth(values):
    with pytest.raises(UsageError, match=r"unknown key '.*treshold': did you mean 'threshold'\?"):
        Tree.parse(values)


def test_an_unknown_key_with_nothing_near_gets_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown key 'zzz': known: by_name, leaf, leaves, name"):
        Tree.parse({"name": "t", "zzz": 1})


def test_an_unknown_key_of_a_section():
    with pytest.raises(UsageError, match=r"unknown key 'train.epocs': did you mean 'epochs'\?"):
        Settings.parse({"train": {"epocs": 3}})


def test_a_wrong_value_names_key_value_file_and_code():
    with pytest.raises(UsageError) as caught:
        Tree.parse({"name": "t", "leaf": {"threshold": "high"}}, file=Path("tree.json"))
    assert caught.value.code == "E-CONFIG"
    assert caught.value.file == Path("tree.json")
    assert "leaf.threshold: " in caught.value.message
    assert "(got 'high')" in caught.value.message


def test_a_missing_key_shows_no_value():
    with pytest.raises(UsageError, match=r"name: field required$"):
        Tree.parse({})


def test_what_is_no_object_is_refused_by_the_models_name():
    with pytest.raises(UsageError, match=r"Tree: .*\(got \[1\]\)"):
        Tree.parse([1])


def test_five_faults_are_told_and_the_rest_counted():
    with pytest.raises(UsageError, match=r"\(and 2 more\)"):
        Tree.parse({"name": "t", "leaves": [{"threshold": "x"}] * 7})


def test_a_list_that_is_empty_for_its_wrong_member_is_told_by_the_member():
    with pytest.raises(UsageError) as caught:
        BaselineSettings.parse({"models": ["svmm"]})
    assert caught.value.message == "models.0: input should be 'svm', 'tree', 'forest' or 'logistic' (got 'svmm')"


@pytest.mark.parametrize(
    ("leaves", "words"), [("x", r"leaves: input should be a list \(got 'x'\)"), ([{}], "leaves: list should have at ")]
)
def test_a_tuple_is_a_list_to_who_writes_it(leaves, words):
    class Pair(Document):
        leaves: tuple[Leaf, ...] = Field(min_length=2)

    with pytest.raises(UsageError, match=words):
        Pair.parse({"leaves": leaves})


def test_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Leaf().threshold = 1.0


def test_json_round_trip_with_infinity():
    text = Leaf(threshold=float("inf")).to_json()
    assert text.endswith("}\n")
    assert Leaf.parse(json.loads(text)).threshold == float("inf")


def test_suggest():
    assert suggest("livr", ["liver", "spleen"]) == "did you mean 'liver'?"
    assert suggest("qqq", ["b", "a"]) == "known: a, b"
    assert suggest("qqq", []) == "known: none"


def test_validators_speak_through_parse():
    with pytest.raises(UsageError, match="share one value"):
        Dataset.parse({"name": "d", "labels": {"a": 1, "b": 1}})
