"""Conditions of rule tables: a small language, read with `ast` and worked out by hand; nothing of it is ever run.

A condition is made of names that the table may use, numbers, texts in quotes, the comparisons == != < <= > >= (also
chained, as in 6 <= size < 8), and, or, not. Everything else is refused.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from medseg.core.errors import UsageError

Value = float | str

_MOST_CHARACTERS = 300
_MOST_NODES = 60
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_EQUALITY = (ast.Eq, ast.NotEq)


class Condition:
    """A condition that was read and found harmless.

    Args:
        text: As written in the table.
        numbers: Names that stand for numbers.
        texts: Names that stand for one of the given texts.

    Raises:
        UsageError: `E-RULE-CONDITION`, anything that the language does not have.
    """

    def __init__(self, text: str, *, numbers: Collection[str], texts: Mapping[str, Collection[str]]) -> None:
        self.text = text
        self._tree = _parse(text)
        _check(self._tree, text, numbers, texts)
        self.names = frozenset(node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name))

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether it is true; every name in `names` must have a value."""
        return _truth(self._tree, values)


def _parse(text: str) -> ast.expr:
    if len(text) > _MOST_CHARACTERS:
        raise _refused(text, f"longer than {_MOST_CHARACTERS} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _refused(text, "not an expression") from None
    if sum(1 for _ in ast.walk(tree)) > _MOST_NODES:
        raise _refused(text, f"more than {_MOST_NODES} parts")
    return tree


def _check(node: ast.expr, text: str, numbers: Collection[str], texts: Mapping[str, Collection[str]]) -> None:
    if isinstance(node, ast.BoolOp):
        for part in node.values:
            _check(part, text, numbers, texts)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check(node.operand, text, numbers, texts)
    elif isinstance(node, ast.Compare):
        _check_comparison(node, text, numbers, texts)
    else:
        raise _refused(text, f"{type(node).__name__} is no comparison, and, or, not")


def _check_comparison(
    node: ast.Compare, text: str, numbers: Collection[str], texts: Mapping[str, Collection[str]]
) -> None:
    operands = [node.left, *node.comparators]
    kinds = {_kind(operand, text, numbers, texts) for operand in operands}
    if len(kinds) > 1:
        raise _refused(text, "a number is compared with a text")
    names = [operand.id for operand in operands if isinstance(operand, ast.Name)]
    if not names:
        raise _refused(text, "a comparison without a name")
    for compare in node.ops:
        if type(compare) not in _COMPARISONS:
            raise _refused(text, f"{type(compare).__name__} is no comparison of the language")
        if kinds == {str} and not isinstance(compare, _EQUALITY):
            raise _refused(text, "texts can only be equal or not")
    for operand in operands:
        if isinstance(operand, ast.Constant) and isinstance(operand.value, str):
            known = {answer for name in names for answer in texts[name]}
            if operand.value not in known:
                raise _refused(text, f"{operand.value!r} is none of {', '.join(sorted(known))}")


def _kind(node: ast.expr, text: str, numbers: Collection[str], texts: Mapping[str, Collection[str]]) -> type:
    if isinstance(node, ast.Name):
        if node.id in numbers:
            return float
        if node.id in texts:
            return str
        raise _refused(text, f"unknown name {node.id!r}; known: {', '.join(sorted([*numbers, *texts]))}")
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return str
        if isinstance(node.value, int | float) and not isinstance(node.value, bool) and math.isfinite(node.value):
            return float
    raise _refused(text, f"{type(node).__name__} is neither a name, a number nor a text")


def _truth(node: ast.expr, values: Mapping[str, Value]) -> bool:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_truth(part, values) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_truth(part, values) for part in parts)
        case ast.UnaryOp(operand=part):
            return not _truth(part, values)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            found = [_value(part, values) for part in (left, *comparators)]
            pairs = zip(found, ops, found[1:], strict=False)
            return all(_COMPARISONS[type(compare)](one, other) for one, compare, other in pairs)
    message = f"a condition that was checked cannot hold {type(node).__name__}"
    raise AssertionError(message)


def _value(node: ast.expr, values: Mapping[str, Value]) -> Any:
    return values[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)


def _refused(text: str, why: str) -> UsageError:
    return UsageError(
        f"the condition {text[:80]!r} is refused: {why}",
        code="E-RULE-CONDITION",
        remedy="Use names of the table, numbers, texts in quotes, comparisons, and, or, not.",
    )
