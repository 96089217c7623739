"""`--engine ray`: workers that hold the model, here or on a cluster, and cases that outlive them.

A worker that is lost is replaced and its case tried again; a case is done when its files are committed, whoever saw it.
A case whose workers are lost three times is given up. Whoever may talk to Ray may run anything: it asks for a token,
listens on this machine only unless a cluster is named, and neither its dashboard nor its usage statistics run.
"""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medseg.core.errors import MedsegError, ResourceError, UsageError
from medseg.core.findings import CasePrediction
from medseg.io.contained import contained
from medseg.io.handover import Refusal
from medseg.workflows.infer_case import CaseWork, Job
from medseg.workflows.infer_record import standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from medseg.io.bundle import Bundle
    from medseg.workflows.infer import Outcome
    from medseg.workflows.inputs import InferCase

_TRIES = 3
_FALSE_STARTS = 10
_WORKERS = 2
_STORE_BYTES = 100 * 2**20
_LOOPBACK = "127.0.0.1"
# Without the first, Ray puts the machine's own address in place of the loopback's.
_ONLY_HERE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_enable_metrics_collection": "0"}
_TOKEN, _TOKEN_FILE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_OWN_TOKEN = Path("~/.ray/auth_token")


def on_ray(job: Job, bundle: Bundle, cases: Sequence[InferCase]) -> Iterator[tuple[InferCase, Outcome]]:
    """Do the cases on Ray, in the order in which they end.

    Raises:
        UsageError: `E-EXTRA` without Ray, `E-RAY-TOKEN` for a cluster without a token.
        ResourceError: `E-RAY` when the cluster cannot be reached.
    """
    num_workers = min(job.settings.workers or _WORKERS, len(cases))
    with tempfile.TemporaryDirectory(prefix="medseg-ray-") as folder, _connected(job, num_workers, Path(folder)) as ray:
        absolute = replace(job, bundle=job.bundle.resolve(), out=job.out.resolve(), staging=job.staging.resolve())
        placed = [replace(case, images=tuple(path.resolve() for path in case.images)) for case in cases]
        worker = ray.remote(max_restarts=0)(_Worker).options(**_share_of_machine(ray, job, num_workers))
        yield from _Crew(ray, lambda: worker.remote(absolute), absolute, placed).work(num_workers)


class _Worker:
    """A process with the model; Ray makes it an actor."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._contained = contained(job.settings)
        self._contained.__enter__()  # open as long as the process

    def open(self) -> Refusal | None:
        """Read the model and place it on the device."""
        try:
            self._work = CaseWork(self._job)
        except MedsegError as error:
            return Refusal.of(error)
        return None

    def run(self, case: InferCase) -> CasePrediction | Refusal:
        """What came of the case; only words and numbers travel."""
        outcome = self._work(case)
        return Refusal.of(outcome) if isinstance(outcome, MedsegError) else outcome


class _Crew:
    """Workers, the cases that wait, and those under way.

    Args:
        ray: The module, connected.
        new: Makes a worker.
        job: Of all cases.
        cases: To be done.
    """

    def __init__(self, ray: Any, new: Callable[[], Any], job: Job, cases: Sequence[InferCase]) -> None:
        self._ray, self._new, self._job = ray, new, job
        self._waiting, self._num_left = deque(cases), len(cases)
        self._busy: dict[Any, tuple[Any, InferCase | None]] = {}
        self._losses = Counter[str]()
        self._false_starts = 0

    def work(self, num_workers: int) -> Iterator[tuple[InferCase, Outcome]]:
        """Yield each case once, when it has ended.

        Raises:
            ResourceError: `E-RAY` when workers are lost again and again before they have a case.
            MedsegError: The model cannot be opened where the workers are.
        """
        for _ in range(num_workers):
            self._hire()
        while self._num_left:
            (ended,), _ = self._ray.wait(list(self._busy), num_returns=1)
            worker, case = self._busy.pop(ended)
            try:
                answer = self._ray.get(ended)
            except self._ray.exceptions.RayActorError:
                outcome = self._lost(case)
            else:
                outcome = self._answered(worker, case, answer)
            if case is not None and outcome is not None:
                self._num_left -= 1
                yield case, outcome

    def _hire(self) -> None:
        worker = self._new()
        self._busy[worker.open.remote()] = worker, None

    def _answered(self, worker: Any, case: InferCase | None, answer: CasePrediction | Refusal | None) -> Outcome | None:
        self._false_starts = 0
        if case is None and isinstance(answer, Refusal):
            raise answer.error()
        if self._waiting:
            following = self._waiting.popleft()
            self._busy[worker.run.remote(following)] = worker, following
        return _refused(case, answer) if case and isinstance(answer, Refusal) else cast("Outcome | None", answer)

    def _lost(self, case: InferCase | None) -> Outcome | None:
        """The result if the worker had still committed it, a refusal after the last try, None to try again."""
        outcome: Outcome | None = None
        if case is None:
            self._false_starts += 1
            if self._false_starts > _FALSE_STARTS:
                message = f"{self._false_starts} workers in turn were lost before they had opened the model"
                raise ResourceError(message, code="E-RAY", remedy="Use fewer --workers: memory may not hold them.")
        else:
            self._losses[case.id] += 1
            outcome = self._committed(case) or self._given_up(case)
            if outcome is None:
                self._waiting.append(case)
        if self._waiting:
            self._hire()
        return outcome

    def _committed(self, case: InferCase) -> CasePrediction | None:
        found = standing(case, self._job.out, self._job.provenance_of(case))
        is_ours = isinstance(found, CasePrediction) and found.provenance.created == self._job.provenance.created
        return found if isinstance(found, CasePrediction) and is_ours else None

    def _given_up(self, case: InferCase) -> ResourceError | None:
        if self._losses[case.id] < _TRIES:
            return None
        return ResourceError(
            f"{_TRIES} workers were lost while they worked on it",
            code="E-WORKER-LOST",
            case=case.id,
            remedy="Run it alone without --engine ray to see why; most often memory ran out.",
        )


def _refused(case: InferCase, refusal: Refusal) -> MedsegError:
    error = refusal.error()
    error.case = case.id
    return error


def _share_of_machine(ray: Any, job: Job, num_workers: int) -> dict[str, float]:
    """An even share of the cluster's processors for each worker, and of its GPUs unless the CPU was asked for."""
    whole = ray.cluster_resources()
    smallest = min(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    gpus = 0.0 if job.settings.device == "cpu" else min(1.0, whole.get("GPU", 0.0) / num_workers)
    return {"num_cpus": max(1, min(whole.get("CPU", 1) // num_workers, smallest)), "num_gpus": gpus}


@contextmanager
def _connected(job: Job, num_workers: int, folder: Path) -> Iterator[Any]:
    """Ray, started on this machine with a token of its own, or joined; left as it was found."""
    address = job.settings.address
    os.environ.update(_secured(address, folder))
    try:
        import ray
        import ray.exceptions
    except ImportError:
        message = "--engine ray needs the package ray"
        raise UsageError(message, code="E-EXTRA", remedy="Run: pip install 'medseg[ray]'.") from None
    here = {
        "num_cpus": max(os.cpu_count() or 1, num_workers),
        "object_store_memory": _STORE_BYTES,
        "include_dashboard": False,
        "_node_ip_address": _LOOPBACK,
    }
    on_end = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else here))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ResourceError(
            f"Ray cannot be {'reached' if address else 'started'}: {str(error).splitlines()[0]}",
            code="E-RAY",
            remedy="Check the address and the token." if address else "Run without --engine ray.",
        ) from error
    try:
        signal.signal(signal.SIGTERM, on_end)  # Ray sets its own
        yield ray
    finally:
        ray.shutdown()


def _secured(address: str | None, folder: Path) -> dict[str, str]:
    """Ray's variables; a token of our own for workers on this machine.

    Raises:
        UsageError: `E-RAY-TOKEN`.
    """
    words = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    if address is not None:
        has_file = Path(os.environ.get(_TOKEN_FILE, _OWN_TOKEN)).expanduser().is_file()
        if not os.environ.get(_TOKEN) and not has_file:
            raise UsageError(
                f"the cluster at {address} is named without a token",
                code="E-RAY-TOKEN",
                remedy=f"Start it with RAY_AUTH_MODE=token and put its token into {_OWN_TOKEN}.",
            )
        return words
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="ascii")
    os.environ.pop(_TOKEN, None)
    return {**words, _TOKEN_FILE: str(token), **_ONLY_HERE}
