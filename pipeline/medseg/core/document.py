"""The one shape of everything that lives on disk as JSON or YAML."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from medseg.core.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


class Document(BaseModel):
    """Frozen, complete, and strict about unknown keys: a misspelt key is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    @classmethod
    def parse(cls, values: dict[str, Any], *, file: Path | None = None) -> Self:
        """Validate `values`; all faults together are one error.

        Raises:
            UsageError: E-CONFIG, naming the key, the value and the cure of each.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            told = error.errors(include_url=False)
            inner = {fault["loc"][:depth] for fault in told for depth in range(1, len(fault["loc"]))}
            faults = [fault for fault in told if fault["loc"] not in inner]  # an outer one only follows from them
            described = "; ".join(_describe(cls, fault) for fault in faults[:5])
            more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
            raise UsageError(f"{described}{more}", code="E-CONFIG", file=file) from None

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def suggest(word: str, known: list[str]) -> str:
    """`did you mean 'x'?`, or the known words when none is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"


def _describe(model: type[BaseModel], fault: Any) -> str:
    path = [str(part) for part in fault["loc"]]
    where = ".".join(path) or model.__name__
    if fault["type"] == "extra_forbidden":
        return f"unknown key {where!r}: {suggest(path[-1], _keys_at(model, path[:-1]))}"
    message = fault["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("Tuple", "List")
    if fault["type"] == "value_error" and not path:  # of things that contradict one another: all would bury the words
        return str(message)
    is_said = fault["type"] == "missing" or ", got " in message
    given = "" if is_said else f" (got {fault['input']!r:.80})"
    return f"{where}: {message[0].lower() + message[1:]}{given}"


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        # What is no field is a position in a list or a key of a dict: the model found at the field before still holds.
        field = model.model_fields.get(part)
        inner = model if field is None else _model_in(field.annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The document that a field holds: itself, an optional one, or each member of a tuple or dict."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
