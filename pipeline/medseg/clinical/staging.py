"""Measured lesions and a rule table to categories by size: each with its rule, inputs, value, cut-offs and source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from medseg.clinical.conditions import Value
from medseg.clinical.rule_tables import Rule, RuleTable
from medseg.core.document import suggest
from medseg.core.errors import UsageError
from medseg.core.measurements import Measurement
from medseg.core.staging import Bin, MissingInput, RuleInput, StageResult

_EXACT_DECIMALS = 6  # below a nanometre a length is rounding of the computer
_BESIDE = 0.01  # of the uncertainty: as near to a cut-off as a category is looked for
_UNITS = {"mm": "mm", "mm3": "mm³"}

Sizes = dict[str, tuple[float, float]]


def stage_lesions(
    lesions: Sequence[Measurement], table: RuleTable, *, given: Mapping[str, str] | None = None
) -> tuple[StageResult, ...]:
    """Apply a table to the lesions of one case.

    Every measured value has the uncertainty of its calipers. The table is read at the value, at its lower and at its
    upper end: categories that differ make the result borderline, and all of them are named.

    Args:
        lesions: Measurements with a long axis; whole organs are left out.
        table: From `parse_table`.
        given: Answers to what the table asks, as text.

    Raises:
        UsageError: `E-STAGE-INPUT`, an answer that the table does not ask for or allow.
    """
    answers = _answers(table, given or {})
    measured = [one for one in lesions if one.long_axis is not None]
    if not measured:
        return (_unjudged(table, (), "no lesion was measured, so there is no size to judge"),)
    if table.subject == "each":
        return tuple(_judged(table, [one], len(measured), answers) for one in measured)
    return (_judged(table, measured, len(measured), answers),)


def _answers(table: RuleTable, given: Mapping[str, str]) -> dict[str, Value]:
    answers: dict[str, Value] = {}
    for name, text in given.items():
        asked = table.inputs.get(name)
        if asked is None:
            remedy = f"It asks for: {suggest(name, list(table.inputs))}"
            raise UsageError(f"{table.id} does not ask for {name!r}", code="E-STAGE-INPUT", remedy=remedy)
        if asked.answers:
            if text not in asked.answers:
                remedy = f"Answer one of: {', '.join(asked.answers)}."
                raise UsageError(f"{name} cannot be {text!r}", code="E-STAGE-INPUT", remedy=remedy)
            answers[name] = text
        else:
            answers[name] = _number(name, text)
    return answers


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        message = f"{name} must be a number of 0 or more, got {text!r}"
        raise UsageError(message, code="E-STAGE-INPUT", remedy=f"Write --given {name}=12.5.")
    return value


def _sizes(lesions: Sequence[Measurement], count: int) -> Sizes:
    """Name to value and uncertainty, of the lesion with the longest axis."""
    lesion = max(lesions, key=lambda one: one.long_axis.length_mm if one.long_axis else 0.0)
    sizes: Sizes = {"count": (float(count), 0.0)}
    axes = {"long_axis_mm": lesion.long_axis, "short_axis_mm": lesion.short_axis, "feret_mm": lesion.feret}
    sizes |= {name: (axis.length_mm, axis.uncertainty_mm) for name, axis in axes.items() if axis is not None}
    if lesion.long_axis is not None and lesion.short_axis is not None:
        long, short = lesion.long_axis, lesion.short_axis
        mean_uncertainty = (long.uncertainty_mm + short.uncertainty_mm) / 2
        sizes["mean_diameter_mm"] = ((long.length_mm + short.length_mm) / 2, mean_uncertainty)
    sizes["volume_mm3"] = (1000 * lesion.volume_ml, 1000 * lesion.volume_uncertainty_ml)
    return sizes


def _judged(table: RuleTable, lesions: Sequence[Measurement], count: int, answers: Mapping[str, Value]) -> StageResult:
    sizes = _sizes(lesions, count)
    longest = max(lesions, key=lambda one: one.long_axis.length_mm if one.long_axis else 0.0)
    ids = (longest.id,)
    values = _values(table, sizes, answers)
    missing = tuple(_missing(table, values))
    if missing:
        asked = "; ".join(f"{one.name} ({', '.join(one.answers) or 'a number'}): {one.question}" for one in missing)
        return _unjudged(table, ids, f"needs to know {asked}").model_copy(update={"missing": missing})
    found = _apply(table, values)
    if found is None:
        return _unjudged(table, ids, "no rule of the table applies to these values")
    rule, category = found
    ends = (_apply(table, _values(table, sizes, answers, shift=shift)) for shift in _shifts(table, sizes))
    reached = tuple(dict.fromkeys(end[1] for end in ends if end is not None))
    result = StageResult(
        **_about(table),
        lesions=ids,
        category=category,
        borderline=reached if len(reached) > 1 else (),
        rule=f"{table.id}.{rule.id}",
        measure=rule.measure,
        cut_offs=_cut_offs(rule),
        inputs=tuple(_inputs(table, rule, sizes, answers)),
        remark=_remark(table, rule, sizes, longest),
        statement="",
    )
    return result.model_copy(update={"statement": _statement(result, sizes)})


def _values(table: RuleTable, sizes: Sizes, answers: Mapping[str, Value], *, shift: float = 0.0) -> dict[str, Value]:
    """What rules compare: measured values, moved by `shift` times their uncertainty, and answers; rounded as asked."""
    values: dict[str, Value] = {name: max(0.0, value + shift * spread) for name, (value, spread) in sizes.items()}
    values |= answers
    return {
        name: value if isinstance(value, str) else round(value, table.rounding.get(name, _EXACT_DECIMALS))
        for name, value in values.items()
    }


def _shifts(table: RuleTable, sizes: Sizes) -> list[float]:
    """Shares of the uncertainty at which a category can begin: both ends, the value, and either side of cut-offs."""
    found = {-1.0, 0.0, 1.0}
    for rule in table.rules:
        value, spread = sizes.get(rule.measure or "", (0.0, 0.0))
        for bound in (one.bound for one in rule.bins if one.bound is not None and spread > 0):
            found |= {(bound + step * spread - value) / spread for step in (-_BESIDE, 0.0, _BESIDE)}
    return sorted(shift for shift in found if -1 <= shift <= 1)


def _missing(table: RuleTable, values: Mapping[str, Value]) -> Iterator[MissingInput]:
    for name, asked in table.inputs.items():
        condition = table.conditions.get(name) if asked.needed_when is not None else None
        is_needed = condition is None or (condition.names <= values.keys() and condition.holds(values))
        if is_needed and name not in values:
            yield MissingInput(name=name, question=asked.question, answers=asked.answers)


def _apply(table: RuleTable, values: Mapping[str, Value]) -> tuple[Rule, str] | None:
    """The first rule whose condition holds, and its category."""
    for rule in table.rules:
        condition = table.conditions.get(rule.id)
        # A rule that needs an answer which is not needed here is not about this lesion.
        if condition is not None and not (condition.names <= values.keys() and condition.holds(values)):
            continue
        if rule.category is not None:
            return rule, rule.category
        if rule.measure is not None and rule.measure in values:
            return rule, _bin_of(rule, float(values[rule.measure]))
    return None


def _bin_of(rule: Rule, value: float) -> str:
    for one in rule.bins:
        if (one.up_to is not None and value <= one.up_to) or (one.below is not None and value < one.below):
            return one.category
    return rule.bins[-1].category


def _cut_offs(rule: Rule) -> tuple[Bin, ...]:
    bounds = [one.bound for one in rule.bins]
    is_left = any(one.below is not None for one in rule.bins)
    return tuple(
        Bin(category=one.category, above=low, up_to=one.bound, closed="left" if is_left else "right")
        for one, low in zip(rule.bins, [None, *bounds], strict=False)
    )


def _inputs(table: RuleTable, rule: Rule, sizes: Sizes, answers: Mapping[str, Value]) -> Iterator[RuleInput]:
    condition = table.conditions.get(rule.id)
    used = {*(condition.names if condition else ()), *([rule.measure] if rule.measure else [])}
    for name in sorted(used & sizes.keys()):
        value, spread = sizes[name]
        yield RuleInput(name=name, value=value, uncertainty=spread, origin="measured")
    for name, answer in answers.items():
        yield RuleInput(name=name, value=answer, origin="given")


def _remark(table: RuleTable, rule: Rule, sizes: Sizes, lesion: Measurement) -> str:
    """What the image cuts off, and what another measure of the lesion would say when it says something else."""
    remarks = ["it reaches the border of the image, so its true size is larger"] if lesion.is_cut_off else []
    if table.cross_check is not None and rule.measure in sizes:
        here, there = (_values(table, sizes, {})[name] for name in (rule.measure, table.cross_check))
        other = _bin_of(rule, float(there))
        if other != _bin_of(rule, float(here)):
            remarks.append(f"{_quantity(table.cross_check, float(there))} would be {other}")
    return "; ".join(remarks)


def _statement(result: StageResult, sizes: Sizes) -> str:
    parts = [f"{', '.join(result.lesions)}: {result.category} ({result.title}; {result.component})"]
    if result.measure in sizes:
        parts.append(_quantity(result.measure, *sizes[result.measure]))
    parts += [f"{one.name} {one.value}" for one in result.inputs if one.origin == "given"]
    if result.borderline:
        parts.append(f"borderline: the measurement's uncertainty reaches {' and '.join(result.borderline)}")
    return "; ".join([*parts, *([result.remark] if result.remark else [])])


def _quantity(name: str, value: float, spread: float | None = None) -> str:
    words, _, unit = name.rpartition("_")
    if unit not in _UNITS:
        return f"{name} {value:g}"
    digits = 0 if unit == "mm3" else 1
    doubt = "" if spread is None else f" ± {spread:.{digits}f}"
    named = "longest distance in space" if words == "feret" else words.replace("_", " ")
    return f"{named} {value:.{digits}f}{doubt} {_UNITS[unit]}"


def _unjudged(table: RuleTable, lesions: tuple[str, ...], why: str) -> StageResult:
    place = f"{', '.join(lesions)}: " if lesions else ""
    return StageResult(
        **_about(table), lesions=lesions, category=None, statement=f"{place}no category ({table.title}): {why}"
    )


def _about(table: RuleTable) -> dict[str, str]:
    return {
        "table": table.id,
        "title": table.title,
        "edition": table.edition,
        "source": table.source,
        "scope": table.scope,
        "licence": table.licence,
        "component": table.component,
    }
