"""What was exported, as text or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.apps.show import facts

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.apps.terminal import Terminal
    from medseg.core.export import ExportRecord


def exported(terminal: Terminal, made: ExportRecord, out: Path, *, as_json: bool) -> None:
    if as_json:
        terminal.json(made.to_json())
        return
    rows = [("model", made.model), ("format", made.format), ("checked on", made.checked_on)]
    for check in made.checks:
        where = f"member {check.member}" if len(made.checks) > 1 else "answer"
        worst = f", mask Dice at least {min(check.dice.values()):.4f}" if check.dice else ""
        classes = f", classes within {check.class_difference:.2g}" if made.heads else ""
        size = f"logits within {check.largest_difference:.2g} (relative {check.relative_difference:.2g})"
        rows.append((where, f"{size}{worst}{classes}"))
    rows += [(f"MONAI's run, {name}", f"Dice {value:.4f}") for name, value in made.pipeline_dice.items()]
    rows += [(f"{part.what}", ", ".join(part.files)) for part in made.parts]
    rows += [("not in it", words) for words in made.left_out]
    rows += [("differs because", words) for words in made.differences]
    facts(terminal, [*rows, ("how to run it", str(out / "export.json"))])
