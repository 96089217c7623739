"""Where a training stands between its first step and its end, in steps or in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.engine.checkpoint import TrainingProgress

if TYPE_CHECKING:
    from medseg.core.settings import TrainSettings

_CHECKPOINT_EVERY_S = 60.0
_VALIDATIONS = 10
_SAFETY_S = 2.0


@dataclass(frozen=True)
class Status:
    """What a training tells its watcher after each step.

    Attributes:
        share: Of the whole training, 0 to 1.
        losses: Running means by name.
        validation: The latest scores.
        remaining_s: Seconds until the end.
        steps_per_s: Throughput of this session.
    """

    step: int
    share: float
    losses: dict[str, float]
    validation: dict[str, float]
    remaining_s: float
    steps_per_s: float


class Clock:
    """Counts steps and seconds, over all sessions of one training."""

    def __init__(
        self,
        settings: TrainSettings,
        progress: TrainingProgress,
        *,
        steps_per_epoch: int,
        final_factor: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start or go on.

        Args:
            settings: Its budget or epochs.
            progress: Of earlier sessions.
            steps_per_epoch: A pass over the cases.
            final_factor: How many times more cases the last validation has than the ones on the way.
            now: Seconds; of several processes all must be given the same.
        """
        self._now = now
        self._share = 0.0
        self._final_factor = final_factor
        self.step = progress.step
        self._settings = settings
        self._before = progress
        self._next_validation = progress.next_validation or 1 / _VALIDATIONS
        self._validation_s = progress.validation_s
        self._num_steps = None if settings.epochs is None else settings.epochs * steps_per_epoch
        self._start = self._last_checkpoint = self._time = now()

    def elapsed(self) -> float:
        return self._before.elapsed_s + self._time - self._start

    def share(self) -> float:
        if self._num_steps is not None:
            return min(1.0, self.step / self._num_steps)
        usable = (self._settings.budget_s or 1.0) - 1.2 * self._final_validation_s() - _SAFETY_S
        # A validation slower than the last one must not turn the clock back.
        self._share = max(self._share, min(1.0, self.elapsed() / max(usable, 1e-3)))
        return self._share

    def _final_validation_s(self) -> float:
        """The one at the end looks at every case."""
        return self._validation_s * self._final_factor

    def over(self) -> bool:
        """Look at the time, which then stands still until the next look: what is decided by it agrees."""
        self._time = self._now()
        return self.share() >= 1.0

    def validation_due(self) -> bool:
        return self._next_validation <= self.share() < 1.0

    def timed_validation(self, work: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Run a validation; in a budget the next one waits until validating costs at most a twentieth of the time."""
        start = self._now()
        scores = work()
        self._time = self._now()
        self._validation_s = self._time - start
        cost = 20 * self._validation_s / self._settings.budget_s if self._settings.budget_s else 0.0
        self._next_validation = self.share() + max(1 / _VALIDATIONS, cost)
        return scores

    def checkpoint_due(self) -> bool:
        if self._time - self._last_checkpoint < _CHECKPOINT_EVERY_S:
            return False
        self._last_checkpoint = self._time
        return True

    def progress(self) -> TrainingProgress:
        return TrainingProgress(
            step=self.step,
            elapsed_s=self.elapsed(),
            next_validation=self._next_validation,
            validation_s=self._validation_s,
            identity=self._before.identity,
        )

    def status(self, losses: dict[str, float], validation: dict[str, float]) -> Status:
        share, elapsed = self.share(), self.elapsed()
        here = self._time - self._start
        return Status(
            step=self.step,
            share=share,
            losses=losses,
            validation=validation,
            remaining_s=elapsed * (1 - share) / max(share, 1e-6),
            steps_per_s=(self.step - self._before.step) / max(here, 1e-6),
        )
