"""Where a training stands between its first step and its end, in steps or in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.core.errors import UsageError
from medseg.engine.checkpoint import TrainingProgress

if TYPE_CHECKING:
    from medseg.core.settings import TrainSettings

_CHECKPOINT_EVERY_S = 60.0
_TELL_EVERY_S = 10.0
_VALIDATIONS = 10
_SAFETY_S = 2.0


def require_time(settings: TrainSettings) -> None:
    """Refuse a budget in which no step is made.

    Raises:
        UsageError: E-BUDGET.
    """
    if settings.budget_s is not None and settings.budget_s <= _SAFETY_S:
        raise UsageError(
            f"a budget of {settings.budget} holds no step: {_SAFETY_S:.0f} s of it are kept for the end",
            code="E-BUDGET",
            remedy="Give minutes or hours; `medseg train --dry-run` measures how many steps they hold.",
        )


@dataclass(frozen=True)
class Status:
    """What a training tells its watcher after each step.

    Attributes:
        share: Of the whole training, 0 to 1.
        losses: Running means by name.
        validation: The latest scores.
        remaining_s: Seconds until the end.
        steps_per_s: Throughput of this session.
        samples_per_s: The same in patches.
    """

    step: int
    share: float
    losses: dict[str, float]
    validation: dict[str, float]
    remaining_s: float
    steps_per_s: float
    samples_per_s: float


class Clock:
    """Counts steps and seconds, over all sessions of one training."""

    def __init__(
        self,
        settings: TrainSettings,
        progress: TrainingProgress,
        *,
        num_cases: int,
        batch_size: int,
        final_factor: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start where the last session ended.

        Args:
            settings: The length; a longer one than the last session's stretches the rest of the schedule.
            progress: Where it ended.
            num_cases: In one epoch, which is rounded up to whole steps.
            batch_size: Samples of a step.
            final_factor: How many times more cases the last validation has than the ones on the way.
            now: Seconds; several processes must all be given the same.
        """
        self._now = now
        self._share = 0.0
        self._final_factor = final_factor
        self.step, self._samples = progress.step, progress.samples
        self._settings = settings
        self._before = progress
        self._batch_size = batch_size
        epoch = math.ceil(num_cases / batch_size) * batch_size
        self._num_samples = None if settings.epochs is None else settings.epochs * epoch
        self._validation_s = progress.validation_s
        self._start = self._last_checkpoint = self._last_told = self._time = now()
        self._began = time.monotonic()
        # A training that was made longer stands at a smaller share than the one at which it was last validated.
        self._next_validation = min(progress.next_validation or 1.0, self.share() + self._between_validations())

    def advance(self) -> None:
        """One step was made."""
        self.step += 1
        self._samples += self._batch_size

    def elapsed(self) -> float:
        return self._before.elapsed_s + self._time - self._start

    def share(self) -> float:
        if self._num_samples is not None:
            return min(1.0, self._samples / self._num_samples)
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
        """Run a validation; the next one waits until validating costs at most a twentieth of the time."""
        start = self._now()
        scores = work()
        self._time = self._now()
        self._validation_s = self._time - start
        self._next_validation = self.share() + self._between_validations()
        return scores

    def _between_validations(self) -> float:
        share = self.share()
        expected = self._settings.budget_s or (self.elapsed() / share if share else math.inf)
        return max(1 / _VALIDATIONS, 20 * self._validation_s / max(expected, 1e-6))

    def telling_due(self) -> bool:
        """At the first step, every tenth, and where steps are slow every few seconds."""
        due = self.step == 1 or self.step % 10 == 0 or self._time - self._last_told >= _TELL_EVERY_S
        if due:
            self._last_told = self._time
        return due

    def checkpoint_due(self) -> bool:
        if self._time - self._last_checkpoint < _CHECKPOINT_EVERY_S:
            return False
        self._last_checkpoint = self._time
        return True

    def progress(self) -> TrainingProgress:
        return TrainingProgress(
            step=self.step,
            samples=self._samples,
            elapsed_s=self.elapsed(),
            next_validation=self._next_validation,
            validation_s=self._validation_s,
            identity=self._before.identity,
        )

    def samples_per_s(self) -> float:
        """Throughput of this session in patches, validations included."""
        return (self._samples - self._before.samples) / self._here()

    def _here(self) -> float:
        """Seconds of this session as this process counts them: what it shows need not agree with the others."""
        return max(time.monotonic() - self._began, 1e-6)

    def status(self, losses: dict[str, float], validation: dict[str, float]) -> Status:
        share, elapsed = self.share(), self.elapsed()
        return Status(
            step=self.step,
            share=share,
            losses=losses,
            validation=validation,
            remaining_s=elapsed * (1 - share) / max(share, 1e-6),
            steps_per_s=(self.step - self._before.step) / self._here(),
            samples_per_s=self.samples_per_s(),
        )
