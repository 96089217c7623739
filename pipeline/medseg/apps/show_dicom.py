"""What was written for a hospital's systems, as text or JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from medseg.core.errors import UsageError

if TYPE_CHECKING:
    from medseg.apps.terminal import Terminal
    from medseg.core.segments import Algorithm
    from medseg.workflows.to_dicom import ToDicomPlan, WrittenDicom

_MOST_ROWS = 40


def parse_algorithm(text: str | None, made_by: str) -> Algorithm | None:
    """`name:version` and who drew; None when neither was said.

    Raises:
        UsageError: E-OPTION.
    """
    import medseg
    from medseg.core.segments import Algorithm

    kind = made_by.upper()
    if kind not in {"AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"}:
        message = f"cannot read --made-by {made_by!r}"
        raise UsageError(message, code="E-OPTION", remedy="Write automatic, semiautomatic or manual.")
    if text is None and kind == "AUTOMATIC":
        return None
    name, _, version = (text or "unstated").partition(":")
    values = {"name": name, "version": version or "unstated", "kind": kind}
    return Algorithm.parse({**values, "software_version": medseg.__version__})


def planned(terminal: Terminal, plan: ToDicomPlan, *, as_json: bool) -> None:
    if as_json:
        terminal.json(plan.to_json())
        return
    rows = [
        (one.label, str(one.value), f"{one.num_voxels:,}", one.code, one.meaning, "lesion" if one.is_lesion else "")
        for one in plan.labels
    ]
    terminal.table(("label", "value", "voxels", "code", "meaning", ""), rows)
    _flags(terminal, plan.flags)
    terminal.result(f"would write {', '.join(plan.files)}, on {plan.num_slices} slices of series {plan.series_uid}")


def written(terminal: Terminal, made: WrittenDicom, *, as_json: bool) -> None:
    flags = (*made.plan.flags, *made.objects.flags)
    if as_json:
        segments = [segment.model_dump(mode="json") for segment in made.objects.segments]
        values = {"out": str(made.out), "files": made.objects.files, "segments": segments, "flags": flags}
        terminal.json(json.dumps(values, indent=2))
        return
    rows = [
        (str(segment.number), segment.label, segment.term.meaning, segment.tracking_uid or "")
        for segment in made.objects.segments[:_MOST_ROWS]
    ]
    terminal.table(("segment", "label", "meaning", "tracking UID"), rows)
    rest = len(made.objects.segments) - len(rows)
    if rest > 0:
        terminal.result(f"... and {rest} more")
    _flags(terminal, flags)
    for file in made.objects.files.values():
        terminal.result(f"written: {made.out / file}")


def _flags(terminal: Terminal, flags: tuple[str, ...]) -> None:
    for flag in flags:
        terminal.warning(flag)
