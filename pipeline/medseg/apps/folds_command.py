"""What `medseg train --folds` does and says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from medseg.apps import show_folds
from medseg.apps.terminal import TERMINAL, TrainingWatch

if TYPE_CHECKING:
    from medseg.core.settings import Settings
    from medseg.engine.clock import Status
    from medseg.workflows.workspace import Workspace


def train_folds(place: Workspace, settings: Settings, *, name: str | None, restart: bool, as_json: bool) -> None:
    """Cross-validate and show the table."""
    from medseg.workflows.claim import require_no_run
    from medseg.workflows.workspace import FOLDS

    chosen, name = settings.train, name or FOLDS
    for fold in range(chosen.num_folds) if chosen.fold is None else [chosen.fold]:
        require_no_run(place.run(f"{name}/fold{fold}", None))  # before anything that takes seconds to load
    from medseg.workflows.cross_validate import Watchers, cross_validate

    watch = _WatchOfFolds()
    try:
        made = cross_validate(
            place,
            settings,
            name=name,
            restart=restart,
            watchers=Watchers(TERMINAL.progress, watch, watch.say),
        )
    finally:
        watch.close()
    show_folds.cross_validated(TERMINAL, made, as_json=as_json)
    if made.report is None and not made.missing:
        raise typer.Exit(130)


class _WatchOfFolds:
    """A bar of its own for each training."""

    def __init__(self) -> None:
        self._watch: TrainingWatch | None = None

    def __call__(self, status: Status) -> None:
        self._watch = self._watch or TrainingWatch(TERMINAL)
        self._watch(status)

    def say(self, words: str) -> None:
        self.close()
        (TERMINAL.warning if words.startswith("W-") else TERMINAL.say)(words)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
