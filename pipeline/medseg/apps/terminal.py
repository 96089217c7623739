"""What a person sees: bars, tables, one-line errors. Everything on standard error except results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from medseg.workflows.train_warnings import collapsed_heads

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from medseg.engine.clock import Status

Item = TypeVar("Item")
_LINE_EVERY_S = 10.0
_ESTIMATING_S = 30.0  # where steps are slow


class Terminal:
    """Results to standard output, everything else to standard error; bars become plain lines without a terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)

    def leave_to_others(self) -> None:
        """From now on errors alone: another process of the same command tells the rest."""
        self.quiet = self.out.quiet = True

    def say(self, text: str) -> None:
        """A line on the way; silent with --quiet."""
        if not self.quiet:
            self.err.print(escape(text))

    def result(self, text: str) -> None:
        self.out.print(escape(text))

    def json(self, text: str) -> None:
        if not self.out.quiet:
            sys.stdout.write(text if text.endswith("\n") else text + "\n")

    def error(self, text: str) -> None:
        self.err.print(f"[bold red]error[/] {escape(text)}")

    def warning(self, text: str) -> None:
        if not self.out.quiet:  # else the process that tells has the same warning
            self.err.print(f"[yellow]warning[/] {escape(text)}")

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        title: str | None = None,
        whole: Collection[str] = (),
    ) -> None:
        """Columns share the width; those named in `whole` are never broken, nor is the title."""
        if title is not None:
            self.out.print(f"[italic]{escape(title)}[/]")
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold", no_wrap=column in whole)
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.out.print(table, soft_wrap=False)

    def progress(self, items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
        """A bar on a terminal, a line at the end otherwise, also where it is interrupted."""
        if self.quiet or not self.err.is_terminal:
            yield from self._counted(items, description, total)
            return
        columns = (
            TextColumn("{task.description:<26}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.err) as bars:
            task = bars.add_task(description, total=total)
            for item in items:
                yield item
                bars.advance(task)

    def _counted(self, items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
        start, num_done = time.monotonic(), 0
        try:
            for item in items:
                yield item
                num_done += 1
        finally:
            done = total if num_done == total else f"{num_done} of {total}"
            self.say(f"{description}: {done} in {time.monotonic() - start:.1f} s")


TERMINAL = Terminal()


class TrainingWatch:
    """A training's progress: a live bar, or a line every ten seconds."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._last = 0.0
        self._bar: Progress | None = None
        if terminal.err.is_terminal and not terminal.quiet:
            columns = (
                TextColumn("training"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=terminal.err)
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def __call__(self, status: Status) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=status.share, description=_describe(status))
            if status.share >= 1.0:
                self.close()
        elif time.monotonic() - self._last > _LINE_EVERY_S:
            self._last = time.monotonic()
            self._terminal.say(f"training {status.share:4.0%}  {_describe(status)}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _describe(status: Status) -> str:
    minutes, seconds = divmod(round(status.remaining_s), 60)
    hidden = {"gradient_norm", "skipped"}
    losses = ", ".join(f"{name} {value:.3f}" for name, value in status.losses.items() if name not in hidden)
    scores = ", ".join(
        f"{name} {value:.3f}"
        for name, value in status.validation.items()
        if name == "dice" or name.endswith(("/accuracy", "/auroc"))
    )
    is_known = status.step >= 5 or status.step > status.steps_per_s * _ESTIMATING_S
    left = f"{minutes}:{seconds:02d} left" if is_known else "estimating"
    pace = f"{status.steps_per_s:.2f} steps/s ({status.samples_per_s:.1f} patches/s)"
    # No warning yet: at the end each head is fitted once more.
    alarm = "; ".join(f"{head}: one class so far" for head in collapsed_heads(status.validation) if status.share > 0.5)
    parts = (f"loss: {losses}", scores and f"validation: {scores}", alarm)
    return f"step {status.step}, {left}, {pace}, " + "; ".join(filter(None, parts))
