"""The same lesion under the same id at every examination, and what became of it in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medseg.clinical.change import ChangeRules, change_state, doubling_time
from medseg.clinical.examination import Examination, FoundLesion
from medseg.clinical.matching import LesionShape, Matching, MatchingRules, match_lesions
from medseg.core.document import Document
from medseg.core.followup import DoublingTime, LesionState, TrackedLesion
from medseg.core.measurements import Measurement
from medseg.core.terminology import tracking_uid
from medseg.ops.alignment import covers

_LEAST_COVERED = 0.5


class FollowUpRules(Document):
    """configs/follow_up.yaml."""

    schema_version: Literal[1] = 1
    matching: MatchingRules
    change: ChangeRules

    def flat(self) -> dict[str, float]:
        """Every number under its name, for the result."""
        return {**self.matching.model_dump(), **self.change.model_dump()}


@dataclass(frozen=True, eq=False)
class Tracked:
    """One time point followed up.

    Attributes:
        lesions: Every lesion known so far, in the order in which they were first seen.
        ids: Of each found lesion of the examination, in its order.
    """

    lesions: tuple[TrackedLesion, ...]
    ids: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Known:
    """A lesion as it was last seen."""

    id: str
    number: int
    uid: str
    shape: LesionShape
    last: Measurement
    last_at: int
    baseline_ml: float | None
    is_present: bool = True
    merged_into: str | None = None


def track(examinations: Sequence[Examination], *, rules: FollowUpRules) -> tuple[Tracked, ...]:
    """Follow every lesion through all examinations.

    Args:
        examinations: Baseline first.
        rules: What is the same, and what is a change.
    """
    tracker = _Tracker(examinations, rules)
    return tuple(tracker.follow(number) for number in range(len(examinations)))


class _Tracker:
    """What is known after each examination; `follow` is called once for each, in order."""

    def __init__(self, examinations: Sequence[Examination], rules: FollowUpRules) -> None:
        self._examinations = examinations
        self._rules = rules
        self._known: dict[str, _Known] = {}
        self._counts: Counter[str] = Counter()

    def follow(self, number: int) -> Tracked:
        here = self._examinations[number]
        present = [known for known in self._known.values() if known.is_present]
        matching = self._match(present, here.lesions)
        names = {b: present[a].id for a, b in matching.pairs}
        rest = [b for b in range(len(here.lesions)) if b not in names and b not in matching.parts]
        gone = [known for known in self._known.values() if not known.is_present and known.merged_into is None]
        again = self._match(gone, [here.lesions[b] for b in rest])
        names |= {rest[b]: gone[a].id for a, b in again.pairs}
        returned = {gone[a].id for a, _ in again.pairs}
        for b, lesion in enumerate(here.lesions):
            if b not in names:
                names[b] = self._name(lesion, number)
        parents, merged = _families(matching, present, names)
        made = {}
        for b, lesion in enumerate(here.lesions):
            made[names[b]] = self._seen(names[b], lesion, number, parents.get(names[b], ()), names[b] in returned)
        for known in list(self._known.values()):
            if known.id not in made:
                made[known.id] = self._unseen(known, merged.get(known.id, known.merged_into), here)
        return Tracked(tuple(made[name] for name in self._known), tuple(names[b] for b in range(len(here.lesions))))

    def _match(self, known: Sequence[_Known], found: Sequence[FoundLesion]) -> Matching:
        return match_lesions([one.shape for one in known], [one.shape for one in found], rules=self._rules.matching)

    def _name(self, lesion: FoundLesion, number: int) -> str:
        """Make a lesion known that was never seen before."""
        label = lesion.shape.label
        self._counts[label] += 1
        name = f"{label}-{self._counts[label]}"
        uid = tracking_uid(self._examinations[number].study, lesion.measurement.id)
        first_ml = lesion.shape.volume_ml if number == 0 else None
        place = len(self._known) + 1
        self._known[name] = _Known(
            name, place, uid, lesion.shape, lesion.measurement, number, first_ml, is_present=False
        )
        return name

    def _seen(
        self, name: str, lesion: FoundLesion, number: int, parents: tuple[str, ...], is_returned: bool
    ) -> TrackedLesion:
        known = self._known[name]
        before = known.last if known.is_present else None
        is_comparable = before is not None and not parents
        now = lesion.measurement.model_copy(update={"id": name, "tracking_uid": known.uid})
        state: LesionState
        if number == 0:
            state = "baseline"
        elif is_returned:
            state = "reappeared"
        elif parents:
            state = "merged" if len(parents) > 1 else "split"
        else:
            state = "new" if before is None else change_state(before, now, rules=self._rules.change)
        # A part, or a lesion of several, is not the lesion of the baseline that it could be compared with.
        first_ml = None if parents else known.baseline_ml
        self._known[name] = replace(
            known, shape=lesion.shape, last=now, last_at=number, baseline_ml=first_ml, is_present=True
        )
        return TrackedLesion(
            id=name,
            number=known.number,
            label=now.label,
            tracking_uid=known.uid,
            state=state,
            parents=parents,
            measurement=now,
            change_from_previous=now.volume_ml / before.volume_ml - 1 if before and is_comparable else None,
            change_from_baseline=now.volume_ml / first_ml - 1 if first_ml is not None and number else None,
            doubling=self._doubling(known, before, now, number) if before and is_comparable else None,
        )

    def _unseen(self, known: _Known, merged_into: str | None, here: Examination) -> TrackedLesion:
        there = here.alignment.to_moving(known.shape.thinned_mm)
        is_covered = float(covers(here.geometry, there).mean()) >= _LEAST_COVERED
        state: LesionState = "merged" if merged_into else "vanished" if is_covered else "not covered"
        self._known[known.id] = replace(known, is_present=state == "not covered", merged_into=merged_into)
        is_gone = state == "vanished"
        return TrackedLesion(
            id=known.id,
            number=known.number,
            label=known.shape.label,
            tracking_uid=known.uid,
            state=state,
            merged_into=merged_into,
            measurement=None,
            change_from_previous=-1.0 if is_gone and known.is_present else None,
            change_from_baseline=-1.0 if is_gone and known.baseline_ml is not None else None,
        )

    def _doubling(self, known: _Known, before: Measurement, now: Measurement, number: int) -> DoublingTime | None:
        earlier, later = self._examinations[known.last_at], self._examinations[number]
        if earlier.day is None or later.day is None:
            return None
        return doubling_time(before, now, days=(later.day - earlier.day).days, since=earlier.case)


def _families(
    matching: Matching, present: Sequence[_Known], names: Mapping[int, str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Ids of the parents of each lesion that split or merged, and where each swallowed lesion went."""
    parents: dict[str, tuple[str, ...]] = {}
    for b, a in matching.parts.items():
        parents[present[a].id] = (present[a].id,)
        parents[names[b]] = (present[a].id,)
    merged = {present[a].id: names[b] for a, b in matching.swallowed.items()}
    for swallowed, into in merged.items():
        parents[into] = (*parents.get(into, (into,)), swallowed)
    return parents, merged
