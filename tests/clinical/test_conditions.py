"""The language of conditions: what it says, and everything else refused before anything could run."""

from __future__ import annotations

import pytest

from medseg.clinical.conditions import Condition
from medseg.clinical.rule_tables import parse_table
from medseg.core.errors import UsageError

NUMBERS = {"size", "count"}
TEXTS = {"kind": ("solid", "other")}


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("size < 6", {"size": 5.9}, True),
        ("size < 6", {"size": 6}, False),
        ("6 <= size < 8", {"size": 6}, True),
        ("6 <= size < 8", {"size": 8}, False),
        ("kind == 'solid' and size >= 3", {"kind": "solid", "size": 3}, True),
        ("kind == 'solid' and size >= 3", {"kind": "other", "size": 3}, False),
        ("kind != 'solid' or count > 1", {"kind": "solid", "count": 2}, True),
        ("not (count == 1)", {"count": 1}, False),
        ("not count == 1 and size > 2 or count != 3", {"count": 1, "size": 1}, True),
        ("size > count", {"size": 2, "count": 1}, True),
        ("'solid' == kind", {"kind": "solid"}, True),
    ],
)
def test_what_conditions_say(text, values, expected):
    condition = Condition(text, numbers=NUMBERS, texts=TEXTS)
    assert condition.holds(values) is expected
    assert condition.names == values.keys()


HOSTILE = [
    "__import__('os').system('true')",
    "exec('x=1')",
    "eval('1')",
    "open('/etc/passwd').read()",
    "size.__class__",
    "size.__class__ == 1",
    "().__class__.__bases__[0].__subclasses__()",
    "[x for x in (1, 2)]",
    "{x for x in (1, 2)}",
    "{1: 2}",
    "(lambda: 1)()",
    "lambda: size",
    "size if size else count",
    "(y := 5) > 3",
    "size[0] > 1",
    "size[0:1] == 1",
    "f'{size}' == 'a'",
    "size in (1, 2)",
    "size not in (1, 2)",
    "size is 1",
    "size is not 1",
    "size + 1 > 2",
    "size ** 999999 > 1",
    "9 ** 9 ** 9 > size",
    "-size > 1",
    "~size == 1",
    "+size > 1",
    "size",
    "1",
    "True",
    "size == True",
    "size == None",
    "size == 1j",
    "size == 1e999",
    "size == b'x'",
    "size == ...",
    "1 < 2",
    "'a' == 'a'",
    "kind < 'solid'",
    "kind == 1",
    "size == 'solid'",
    "kind == 'liquid'",
    "unknown > 1",
    "__builtins__ == 1",
    "await size",
    "yield size",
    "*size",
    "size; import os",
    "import os",
    "size > 1\nimport os",
    "size > \x00",
    "",
    "   ",
    "(" * 250 + "size > 1" + ")" * 250,
    "size > 1 and " * 30 + "size > 1",
    "not " * 70 + "size > 1",
    "size > " + "9" * 400,
    "size > 1 # " + "a" * 400,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_conditions_are_refused(text):
    with pytest.raises(UsageError, match="E-RULE-CONDITION"):
        Condition(text, numbers=NUMBERS, texts=TEXTS)


def bins(*bounds):
    """A bin for every bound, the last one open."""
    return {"bins": [*({**bound, "category": f"C{n}"} for n, bound in enumerate(bounds)), {"category": "last"}]}


def table(**changes):
    rule = {"id": "size", "measure": "long_axis_mm", "bins": [{"up_to": 10, "category": "A"}, {"category": "B"}]}
    values = {
        "id": "test",
        "title": "Test",
        "component": "size component only",
        "edition": "1",
        "source": "s",
        "scope": "s",
        "licence": "l",
        "subject": "largest",
        "rules": [rule | changes.pop("rule", {})],
    }
    return values | changes


def test_a_sound_table_is_accepted():
    assert parse_table(table()).rules[0].bins[0].bound == 10


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (table(rule={"when": "__import__('os')"}), "E-RULE-CONDITION"),
        (table(rule={"when": "nodule_type == 'solid'"}), "E-RULE-CONDITION"),  # not asked for
        (table(inputs={"timing": {"question": "q", "needed_when": "exec('1') == 1"}}), "E-RULE-CONDITION"),
        (table(rule={"bins": [{"up_to": 10, "category": "A"}]}), "E-RULE-BINS"),
        (table(rule={"bins": [{"category": "A"}, {"category": "B"}]}), "E-RULE-BINS"),
        (
            table(rule=bins({"up_to": 5}, {"up_to": 5})),
            "E-RULE-BINS",
        ),
        (
            table(rule=bins({"up_to": 9}, {"up_to": 5})),
            "E-RULE-BINS",
        ),
        (
            table(rule=bins({"up_to": 5}, {"below": 9})),
            "E-RULE-BINS",
        ),
        (table(rule={"bins": [{"up_to": 5, "below": 6, "category": "A"}, {"category": "C"}]}), "E-RULE-BINS"),
        (table(rule={"bins": [{"up_to": 5, "category": "A"}, {"up_to": 9, "category": "B"}]}), "E-RULE-BINS"),
        (table(rule={"bins": []}), "E-RULE-BINS"),
        (table(rule={"category": "A"}), "E-RULE-BINS"),
        (table(rule={"measure": None}), "E-RULE-BINS"),
        (table(rule={"measure": "__class__"}), "E-RULE-BINS"),
        (table(rule={"measure": "solid_component_mm"}), "E-RULE-BINS"),
        (table(rule={"bins": [{"up_to": -5, "category": "A"}, {"category": "B"}]}), "E-CONFIG"),
        (table(rule={"bins": [{"up_to": "ten", "category": "A"}, {"category": "B"}]}), "E-CONFIG"),
        (table(rule={"bins": "x"}), "E-CONFIG"),
        (table(rule={"id": "../../etc"}), "E-CONFIG"),
        (table(rule={"code": "import os"}), "E-CONFIG"),
        (table(rules=[]), "E-CONFIG"),
        (table(rules=[{"id": "a", "category": "A"}, {"id": "a", "category": "B"}]), "E-CONFIG"),
        (table(id="Not an id"), "E-CONFIG"),
        (table(edition=""), "E-CONFIG"),
        (table(source=""), "E-CONFIG"),
        (table(licence=""), "E-CONFIG"),
        (table(subject="everything"), "E-CONFIG"),
        (table(cross_check="__class__"), "E-CONFIG"),
        (table(rounding={"__class__": 1}), "E-CONFIG"),
        (table(inputs={"__class__": {"question": "q"}}), "E-CONFIG"),
        (table(schema_version=2), "E-CONFIG"),
        (table(extra=1), "E-CONFIG"),
    ],
)
def test_hostile_tables_are_refused(values, code):
    with pytest.raises(UsageError) as refused:
        parse_table(values)
    assert refused.value.code == code
