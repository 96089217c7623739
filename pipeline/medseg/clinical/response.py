"""Complete or partial response, stable or progressive disease: targets, their sum, baseline and nadir.

Every number of a criterion comes from its rule table. Research use only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from medseg.clinical.criteria import Criterion
from medseg.core.followup import UNITS, Category, Response, TargetValue, TrackedLesion

Lesions = Sequence[TrackedLesion]

_ROUNDING = 1e-9  # a change of exactly 30 % is one, whatever the last binary digit says


@dataclass(frozen=True)
class _Sum:
    """The targets at one examination; `total` counts those that can be measured."""

    case: str
    targets: tuple[TargetValue, ...]
    missing: tuple[str, ...]
    total: float
    uncertainty: float
    are_gone: bool


def choose_targets(baseline: Lesions, criterion: Criterion) -> tuple[str, ...]:
    """The largest measurable lesions, as many as the criterion allows in all and in one organ."""
    able = [lesion.measurement for lesion in baseline if lesion.measurement is not None]
    able = [lesion for lesion in able if criterion.is_measurable(lesion)]
    taken: Counter[str] = Counter()
    chosen: list[str] = []
    for lesion in sorted(able, key=lambda lesion: (-criterion.value_of(lesion)[0], lesion.id)):
        organ = lesion.organ or lesion.label
        is_full = criterion.targets.per_organ is not None and taken[organ] >= criterion.targets.per_organ
        if len(chosen) < criterion.targets.most and not is_full:
            taken[organ] += 1
            chosen.append(lesion.id)
    return tuple(chosen)


def judge(
    examinations: Sequence[tuple[str, Lesions]], criterion: Criterion
) -> tuple[tuple[str, ...], tuple[Response, ...]]:
    """Judge every examination after the baseline.

    Args:
        examinations: Case and lesions, baseline first.
        criterion: The rule table.

    Returns:
        The ids of the targets, and one response per later examination.
    """
    baseline = examinations[0][1]
    course = _Course(criterion, choose_targets(baseline, criterion), _roots(examinations), {one.id for one in baseline})
    sums = [_sum(case, lesions, course) for case, lesions in examinations]
    responses = (
        _respond(sums[number], sums[:number], lesions, course)
        for number, (_, lesions) in enumerate(examinations)
        if number
    )
    return course.targets, tuple(responses)


@dataclass(frozen=True)
class _Course:
    """What all examinations share: `roots` maps every lesion to the one it split off from, or to itself."""

    criterion: Criterion
    targets: tuple[str, ...]
    roots: Mapping[str, str]
    at_baseline: Collection[str]

    def is_late(self, lesion: TrackedLesion) -> bool:
        """Seen here, and no part of anything that the baseline shows."""
        return lesion.measurement is not None and self.roots[lesion.id] not in self.at_baseline


def _roots(examinations: Sequence[tuple[str, Lesions]]) -> dict[str, str]:
    roots: dict[str, str] = {}
    for lesion in (lesion for _, lesions in examinations for lesion in lesions):
        came_off = next((parent for parent in lesion.parents if parent != lesion.id), None)
        is_part = lesion.state == "split" and lesion.id not in lesion.parents and came_off is not None
        roots.setdefault(lesion.id, roots[came_off] if is_part and came_off is not None else lesion.id)
    return roots


def _sum(case: str, lesions: Lesions, course: _Course) -> _Sum:
    """RECIST 1.1, 4.3.2: parts of a split are added together, a merged lesion counts once."""
    by_id = {lesion.id: lesion for lesion in lesions}
    counted: dict[str, str] = {}
    values, missing, are_gone = [], [], True
    for target in course.targets:
        parts = [lesion for lesion in lesions if course.roots[lesion.id] == target]
        if any(lesion.state == "not covered" for lesion in parts):
            missing.append(target)
            continue
        carriers = list(dict.fromkeys(_carrier(lesion, by_id) for lesion in parts))
        fresh = [name for name in carriers if name not in counted]
        measured = [found for name in fresh if (found := by_id[name].measurement) is not None]
        are_gone = are_gone and all(course.criterion.is_normal(measurement) for measurement in measured)
        added = [course.criterion.value_of(measurement) for measurement in measured]
        remarks = [f"counted with {counted[name]}" for name in carriers if name in counted]
        remarks += [f"sum of {len(measured)} parts"] if len(measured) > 1 else []
        remarks += ["reaches the border of the image"] if any(one.is_cut_off for one in measured) else []
        counted |= dict.fromkeys(fresh, target)
        total, uncertainty = sum(value for value, _ in added), math.hypot(*(error for _, error in added))
        values.append(TargetValue(id=target, value=total, uncertainty=uncertainty, remark="; ".join(remarks)))
    total, uncertainty = sum(one.value for one in values), math.hypot(*(one.uncertainty for one in values))
    return _Sum(case, tuple(values), tuple(missing), total, uncertainty, are_gone and not missing)


def _carrier(lesion: TrackedLesion, by_id: Mapping[str, TrackedLesion]) -> str:
    """The lesion in which this one goes on."""
    seen = {lesion.id}
    while lesion.merged_into is not None and lesion.merged_into not in seen:
        lesion = by_id[lesion.merged_into]
        seen.add(lesion.id)
    return lesion.id


def _respond(now: _Sum, before: Sequence[_Sum], lesions: Lesions, course: _Course) -> Response:
    criterion, baseline = course.criterion, before[0]
    nadir = min((one for one in before if not one.missing), key=lambda one: one.total)
    late = [lesion for lesion in lesions if course.is_late(lesion)]
    certain = [one.id for one in late if one.measurement is not None and criterion.is_unequivocal(one.measurement)]
    category, sentence = _decide(now, baseline, nadir, certain, _rest(lesions, course), course)
    has_targets = bool(course.targets)
    is_whole = has_targets and not now.missing
    return Response(
        criterion=criterion.id,
        category=category,
        decided_by=sentence,
        quantity=criterion.quantity,
        targets=now.targets,
        total=now.total if is_whole else None,
        uncertainty=now.uncertainty if is_whole else None,
        baseline_total=baseline.total if has_targets else None,
        nadir_total=nadir.total if has_targets else None,
        nadir_at=nadir.case if has_targets else None,
        change_from_baseline=_relative(now.total, baseline.total) if is_whole else None,
        change_from_nadir=_relative(now.total, nadir.total) if is_whole else None,
        cut_offs=criterion.cut_offs(),
        borderline=is_whole and not certain and category != "CR" and _is_borderline(now, baseline, nadir, criterion),
        new_lesions=tuple(certain),
        notes=tuple(_notes(late, certain, now, course)),
    )


def _decide(
    now: _Sum, baseline: _Sum, nadir: _Sum, new: Sequence[str], rest: Sequence[str], course: _Course
) -> tuple[Category, str]:
    """The category and the sentence that says what decided; the first that applies."""
    criterion = course.criterion
    if new:
        return "PD", f"{_count(new, 'new lesion')} ({', '.join(new)}) that the baseline does not show"
    if not course.targets:
        where = "no measurable lesion at the baseline" if course.at_baseline else "no lesion at the baseline"
        return "NE", f"{where}, so there is nothing that {criterion.name} could compare"
    if _has_progressed(now, nadir, criterion):
        known = " of those that can be measured" if now.missing else ""
        return "PD", f"the sum{known} {_since(now, nadir, criterion)}, at {nadir.case}"
    if now.missing:
        return "NE", f"{_count(now.missing, 'target')} ({', '.join(now.missing)}) outside the image"
    return _without_progression(now, baseline, nadir, rest, criterion)


def _has_progressed(now: _Sum, nadir: _Sum, criterion: Criterion) -> bool:
    rise, share = now.total - nadir.total, _relative(now.total, nadir.total)
    is_large = share is None or share >= criterion.progression.relative - _ROUNDING
    return rise > 0 and is_large and rise >= criterion.progression.absolute - _ROUNDING


def _without_progression(
    now: _Sum, baseline: _Sum, nadir: _Sum, rest: Sequence[str], criterion: Criterion
) -> tuple[Category, str]:
    if now.are_gone and rest:
        return "PR", f"all targets are gone, {_count(rest, 'other lesion')} of the baseline ({', '.join(rest)}) not"
    if now.are_gone:
        return "CR", "every lesion of the baseline is gone" + (" or a normal node" if now.total else "")
    change = _relative(now.total, baseline.total) or 0.0
    if change <= criterion.partial.relative + _ROUNDING:
        return "PR", f"the sum is {-change:.1%} below the baseline, at least {-criterion.partial.relative:.0%}"
    return "SD", f"the sum changed by {change:+.1%} since the baseline and {_since(now, nadir, criterion)}"


def _since(now: _Sum, nadir: _Sum, criterion: Criterion) -> str:
    rise, share = now.total - nadir.total, _relative(now.total, nadir.total)
    relative = "" if share is None else f" ({share:+.1%})"
    side = "above" if rise >= 0 else "below"
    return f"is {abs(rise):.4g} {UNITS[criterion.quantity]}{relative} {side} its smallest value before"


def _rest(lesions: Lesions, course: _Course) -> list[str]:
    """Lesions of the baseline that are no targets and still there, normal nodes left out."""
    return [
        lesion.id
        for lesion in lesions
        if lesion.measurement is not None
        and course.roots[lesion.id] in course.at_baseline
        and course.roots[lesion.id] not in course.targets
        and not course.criterion.is_normal(lesion.measurement)
    ]


def _is_borderline(now: _Sum, baseline: _Sum, nadir: _Sum, criterion: Criterion) -> bool:
    """Whether the range of the sums reaches across a cut-off."""
    factor = 1 + criterion.progression.relative
    risen = max(nadir.total * factor, nadir.total + criterion.progression.absolute)
    fallen = baseline.total * (1 + criterion.partial.relative)
    return abs(now.total - risen) <= math.hypot(now.uncertainty, factor * nadir.uncertainty) or abs(
        now.total - fallen
    ) <= math.hypot(now.uncertainty, (1 + criterion.partial.relative) * baseline.uncertainty)


def _notes(late: Lesions, certain: Sequence[str], now: _Sum, course: _Course) -> Iterator[str]:
    small = [lesion.id for lesion in late if lesion.id not in certain]
    if small:
        least = course.criterion.new_lesion.least_long_axis_mm
        yield f"new, but normal nodes or shorter than {least:g} mm, for a reader to judge: {', '.join(small)}"
    for target in (target for target in now.targets if target.remark):
        yield f"{target.id}: {target.remark}"


def _relative(value: float, reference: float) -> float | None:
    return (value - reference) / reference if reference else None


def _count(things: Sequence[str], word: str) -> str:
    return f"{len(things)} {word}{'s' if len(things) > 1 else ''}"
