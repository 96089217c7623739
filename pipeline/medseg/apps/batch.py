"""`--engine ray`: workers here or on a cluster, and cases that outlive them.

A worker that is lost is replaced and its case begun again, unless its result was already committed; from the first loss
on one more worker than asked for stands by. A case whose workers are lost three times is given up.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from medseg.apps.cluster import connected, share_of_cluster
from medseg.core.errors import MedsegError, ResourceError
from medseg.core.findings import CasePrediction
from medseg.io.contained import contained
from medseg.io.handover import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from medseg.core.batch import Engine
    from medseg.io.bundle import Bundle
    from medseg.workflows.infer import Outcome
    from medseg.workflows.infer_case import Job
    from medseg.workflows.inputs import InferCase
    from medseg.workflows.parallel import Each

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
_TRIES = 3
_FALSE_STARTS = 10
_WORKERS = 2
_LOSSES = f"{_TRIES} workers were lost while they worked on it"


def on_ray(job: Job, bundle: Bundle, cases: Sequence[InferCase]) -> Iterator[tuple[InferCase, Outcome]]:
    """Do the cases of `medseg infer` on Ray, in the order in which they end.

    Raises:
        UsageError, ResourceError: As `connected`.
    """
    from medseg.workflows.infer_record import standing

    def committed(case: InferCase) -> CasePrediction | None:
        found = standing(case, job.out, job.provenance_of(case))
        is_ours = isinstance(found, CasePrediction) and found.provenance.created == job.provenance.created
        return found if isinstance(found, CasePrediction) and is_ours else None

    num_workers = min(job.settings.workers or _WORKERS, len(cases))
    with connected(job.settings.address, num_workers) as ray:
        new = _hiring(ray, job.settings, num_workers, with_gpu=job.settings.device != "cpu")
        hire = partial(new, partial(_inference, job), partial(contained, job.settings))
        crew: _Crew[InferCase, CasePrediction | Refusal]
        crew = _Crew(ray, hire, cases, committed=committed, given_up=_given_up)
        for number, answer in crew.work(num_workers):
            case = cases[number]
            yield case, _refused(case, answer) if isinstance(answer, Refusal) else answer


@contextmanager
def engine_of(settings: Engine) -> Iterator[Each | None]:
    """Who does the cases of the other verbs: workers of Ray when asked for, else None.

    Raises:
        UsageError, ResourceError: As `connected`.
    """
    if settings.engine == "local":
        yield None
        return
    num_workers = settings.workers or _WORKERS
    with connected(settings.address, num_workers) as ray:
        new = _hiring(ray, settings, num_workers, with_gpu=False)

        def each(
            function: Callable[[Item], Result],
            items: Sequence[Item],
            *,
            on_death: Callable[[Item, str], Result],
            around: Callable[[], AbstractContextManager[None]] = nullcontext,
        ) -> Iterator[Result]:
            hire = partial(new, partial(_same, function), around)
            crew: _Crew[Item, Result] = _Crew(ray, hire, items, given_up=lambda item: on_death(item, _LOSSES))
            done: dict[int, Result] = {}
            following = 0
            for number, result in crew.work(min(num_workers, len(items))):
                done[number] = result
                while following in done:
                    yield done.pop(following)
                    following += 1

        yield each


def _hiring(ray: Any, settings: Engine, num_workers: int, *, with_gpu: bool) -> Callable[..., Any]:
    """Makes workers, each with its share of the cluster."""
    share = share_of_cluster(ray, num_workers, is_ours=settings.address is None, with_gpu=with_gpu)
    return partial(ray.remote(max_restarts=0)(_Worker).options(**share).remote, Path.cwd())


def _inference(job: Job) -> Callable[[InferCase], CasePrediction | Refusal]:
    """The model, read and placed on the device; only words and numbers travel back."""
    from medseg.workflows.infer_case import CaseWork

    work = CaseWork(job)

    def infer(case: InferCase) -> CasePrediction | Refusal:
        outcome = work(case)
        return Refusal.of(outcome) if isinstance(outcome, MedsegError) else outcome

    return infer


def _same(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    return function


class _Worker:
    """A process with what all cases share; Ray makes it an actor.

    Args:
        folder: Where the command runs: paths are meant from there.
        prepare: Makes the function of a case; what it opens stays open as long as the process.
        around: What is open beside it.
    """

    def __init__(
        self,
        folder: Path,
        prepare: Callable[[], Callable[[Any], Any]],
        around: Callable[[], AbstractContextManager[None]],
    ) -> None:
        if folder.is_dir():
            os.chdir(folder)
        self._prepare = prepare
        self._function: Callable[[Any], Any] | None = None
        self._around = around()
        self._around.__enter__()

    def open(self) -> Refusal | None:
        """Get ready; asked again, it only says that it lives."""
        try:
            self._function = self._function or self._prepare()
        except MedsegError as error:
            return Refusal.of(error)
        return None

    def run(self, item: Any) -> Any:
        """What came of the case."""
        return cast("Callable[[Any], Any]", self._function)(item)


class _Crew(Generic[Item, Result]):
    """Workers, the cases that wait, and those under way: never more than one per worker.

    Args:
        ray: The module, connected.
        new: Makes a worker.
        items: Cases to be done.
        given_up: The result of a case that has cost too many workers.
        committed: The result that a lost worker had still committed.
    """

    def __init__(
        self,
        ray: Any,
        new: Callable[[], Any],
        items: Sequence[Item],
        *,
        given_up: Callable[[Item], Result],
        committed: Callable[[Item], Result | None] = lambda _: None,
    ) -> None:
        self._ray, self._new, self._items = ray, new, items
        self._given_up, self._committed = given_up, committed
        self._waiting, self._num_left = deque(range(len(items))), len(items)
        self._busy: dict[Any, tuple[Any, int | None]] = {}
        self._idle = deque[Any]()
        self._losses = Counter[int]()
        self._false_starts = 0

    def work(self, num_workers: int) -> Iterator[tuple[int, Result]]:
        """Yield the number and the result of each case once, when it has ended.

        Raises:
            ResourceError: `E-RAY` when workers are lost again and again before they have a case.
            MedsegError: The workers cannot open what they need.
        """
        self._num_workers = num_workers
        self._hire()
        while self._num_left:
            (ended,), _ = self._ray.wait(list(self._busy), num_returns=1)
            worker, number = self._busy.pop(ended)
            try:
                answer = self._ray.get(ended)
            except self._ray.exceptions.RayActorError:
                results = self._lost(number)
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None
            else:
                results = self._answered(worker, number, answer)
            for result in results:
                self._num_left -= 1
                yield cast("int", number), result

    def _hire(self) -> None:
        """As many as were asked for, and one to stand by where workers are being lost."""
        wanted = min(self._num_workers + bool(self._losses), self._num_left)
        for _ in range(wanted - len(self._busy) - len(self._idle)):
            self._ask_ready(self._new())

    def _ask_ready(self, worker: Any) -> None:
        self._busy[worker.open.remote()] = worker, None

    def _answered(self, worker: Any, number: int | None, answer: Any) -> list[Result]:
        self._false_starts = 0
        if number is None and isinstance(answer, Refusal):
            raise answer.error()
        at_work = sum(case is not None for _, case in self._busy.values())
        if self._waiting and at_work < self._num_workers:
            following = self._waiting.popleft()
            self._busy[worker.run.remote(self._items[following])] = worker, following
        else:
            self._idle.append(worker)
        return [] if number is None else [answer]

    def _lost(self, number: int | None) -> list[Result]:
        """The result if the worker had still committed it, or after the last try; nothing when it is tried again."""
        results = self._false_start() if number is None else self._outcome_of_loss(number)
        if self._waiting and self._idle:
            self._ask_ready(self._idle.popleft())  # it may have been lost while it stood by
        self._hire()
        return results

    def _false_start(self) -> list[Result]:
        self._false_starts += 1
        if self._false_starts > _FALSE_STARTS:
            message = f"{self._false_starts} workers in turn were lost before they were ready"
            raise ResourceError(message, code="E-RAY", remedy="Use fewer --workers: memory may not hold them.")
        return []

    def _outcome_of_loss(self, number: int) -> list[Result]:
        self._losses[number] += 1
        item = self._items[number]
        result = self._committed(item)
        if result is None and self._losses[number] < _TRIES:
            logger.info("a worker was lost; its case is begun again")
            self._waiting.append(number)
            return []
        logger.info("a worker was lost; its case is %s", "given up" if result is None else "done all the same")
        return [self._given_up(item) if result is None else result]


def _given_up(case: InferCase) -> Refusal:
    remedy = "Run it alone without --engine ray to see why; most often memory ran out."
    return Refusal.of(ResourceError(_LOSSES, code="E-WORKER-LOST", case=case.id, remedy=remedy))


def _refused(case: InferCase, refusal: Refusal) -> MedsegError:
    error = refusal.error()
    error.case = case.id
    return error
