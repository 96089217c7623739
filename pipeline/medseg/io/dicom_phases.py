"""Several volumes in one series: phases of a contrast agent or a heart beat, echoes, diffusion weightings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from medseg.core.errors import InputError
from medseg.io.dicom_planes import Plane

_LISTED = "They are listed by `medseg series`."


@dataclass(frozen=True, eq=False)
class Phase:
    """One of the volumes of a series.

    Attributes:
        number: 1 for the first in the list; accepted by `phase=` like a part of the text.
        names: The attributes that tell it from the others.
        text: These with their values: `EchoTime 4.6`.
    """

    number: int
    names: tuple[str, ...]
    text: str
    planes: tuple[Plane, ...]

    def describe(self) -> str:
        return f"{self.number}: {self.text} ({len(self.planes)} slices)"


def find_phases(places: Sequence[Sequence[Plane]]) -> tuple[Phase, ...]:
    """Tell planes that share their places apart by what their headers say; empty when that is not possible.

    The first attribute, or pair of attributes, with as many values as a place has planes decides, when no value
    occurs twice in one place.

    Args:
        places: Planes grouped by place.
    """
    planes = [plane for place in places for plane in place]
    num_wanted = max(map(len, places))
    names = list(dict.fromkeys(name for plane in planes for name in plane.marks))
    for chosen in (*combinations(names, 1), *combinations(names, 2)):
        groups: dict[tuple[str, ...], list[Plane]] = {}
        for plane in planes:
            groups.setdefault(_key(plane, chosen), []).append(plane)
        is_one_each = all(len({_key(plane, chosen) for plane in place}) == len(place) for place in places)
        if len(groups) == num_wanted > 1 and is_one_each:
            return tuple(
                Phase(
                    number,
                    chosen,
                    ", ".join(f"{n} {v or 'absent'}" for n, v in zip(chosen, key, strict=True)),
                    tuple(group),
                )
                for number, (key, group) in enumerate(sorted(groups.items(), key=_by_number), start=1)
            )
    return ()


def choose_phase(phases: Sequence[Phase], wanted: str | None, path: Path) -> tuple[Plane, ...]:
    """The planes of the phase that is asked for.

    Raises:
        InputError: `E-SERIES-4D` when none was asked for, `E-PHASE` when what was asked for is not one of them.
    """
    told_apart = f"told apart by {' and '.join(phases[0].names)}"
    if wanted is None:
        message = f"each place was imaged {len(phases)} times, {told_apart}"
        remedy = f"Choose one with --phase NUMBER or --phase TEXT. {_LISTED}"
        raise InputError(message, code="E-SERIES-4D", file=path, remedy=remedy)
    found = [phase for phase in phases if wanted in {str(phase.number), phase.text, phase.text.partition(" ")[2]}]
    found = found or [phase for phase in phases if wanted.casefold() in phase.text.casefold()]
    if len(found) != 1:
        message = f"{'no' if not found else 'more than one'} phase is {wanted!r} among {len(phases)}, {told_apart}"
        raise InputError(message, code="E-PHASE", file=path, remedy=f"Choose one of them by number. {_LISTED}")
    return found[0].planes


def refuse_phase(wanted: str | None, path: Path) -> None:
    """A series with one volume has its first phase only.

    Raises:
        InputError: `E-PHASE`.
    """
    if wanted not in {None, "1"}:
        message = f"phase {wanted!r} was asked for, but the series holds one volume"
        raise InputError(message, code="E-PHASE", file=path, remedy="Leave --phase out.")


def _key(plane: Plane, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(plane.marks.get(name, "") for name in names)


def _by_number(item: tuple[tuple[str, ...], list[Plane]]) -> list[tuple[float, str]]:
    return [(_number(value), value) for value in item[0]]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")
