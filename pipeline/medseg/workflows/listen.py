"""`medseg listen`: series arrive by DICOM network, are segmented, and SEG and SR go to a destination."""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from medseg.core.errors import MedsegError, ResourceError
from medseg.core.listening import Job, ListenSettings, Peer
from medseg.io.bundle import read_bundle
from medseg.io.contained import contained
from medseg.io.dicom_network import Receiver, require_pynetdicom, send_objects
from medseg.io.files import require_writable
from medseg.io.lock import locked
from medseg.io.tls import require_tls
from medseg.workflows.claim import Claim, claimed
from medseg.workflows.infer import Request, batch_job
from medseg.workflows.infer_case import CaseWork
from medseg.workflows.inputs import InferCase
from medseg.workflows.pacs_queue import Queue

if TYPE_CHECKING:
    from types import FrameType

    from medseg.core.settings import InferSettings

_LOOK_EVERY_S = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What another try may find otherwise; anything else lies in the series itself.
_PASSING = {"E-DISK-FULL", "E-NOT-WRITABLE", "E-TIMEOUT", "E-CRASH", "E-CONTAIN", "E-INPUT-CHANGED", "E-MEMORY"}
_NOTHING_TO_SEE = "E-NO-DICOM"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listening:
    """The door is open."""

    ae_title: str
    address: str
    port: int
    queue: Path


Watch: TypeAlias = Callable[[Listening | Job], None]


class _Stopped(BaseException):
    """Somebody asked to stop; raised wherever the main thread is, for the queue is safe at any moment."""


def listen(
    bundle: Path,
    queue_folder: Path,
    settings: InferSettings,
    door: ListenSettings,
    *,
    out: Path | None = None,
    watch: Watch = lambda _: None,
    retry_failed: bool = False,
) -> None:
    """Listen until SIGTERM or Ctrl-C.

    Args:
        bundle: The model's folder.
        queue_folder: Of the queue.
        settings: How series are read and predicted, and which DICOM objects are made: SEG and SR when none is named.
        door: Address, who may call, where results go.
        out: Results are left here; without it and a destination, in the queue's `results`.
        watch: Told that the door is open, and of every series whose state changes.
        retry_failed: Whether series that failed are tried again.

    Raises:
        BatchError: `E-LOCKED` when another process has this queue.
        UsageError: `E-EXTRA`, `E-PACS-TLS`, `E-PACS-PORT`, `E-CODE`.
        MedsegError: When the model cannot be used.
    """
    require_pynetdicom()
    require_tls(door)
    formats = settings.dicom or ("dicom-seg", "dicom-sr")
    settings = settings.model_copy(update={"formats": formats})
    queue = Queue(queue_folder, door)
    queue.prepare()
    results = out or queue.results
    require_writable(results)
    with _stoppable() as stop, locked(queue.lock), claimed(results, settings) as claim, contained(settings):
        queue.open()
        if retry_failed:
            queue.retry_failed()
        work = _Work(queue, _case_work(bundle, settings, claim), door, watch, is_left=out is not None)
        receiver = Receiver(door, queue.store)
        try:
            watch(Listening(door.ae_title, door.bind, receiver.open(), queue_folder))
            while not stop.wait(_LOOK_EVERY_S):
                for job in queue.settle(receiver.associations()):
                    watch(job)
                due = queue.next_job()
                while due is not None and not stop.is_set():
                    work.go_on(due)
                    due = queue.next_job()
        finally:
            receiver.close()


def _case_work(bundle: Path, settings: InferSettings, claim: Claim) -> CaseWork:
    model = read_bundle(bundle)
    return CaseWork(batch_job(Request(bundle, settings), model, claim), model)


class _Work:
    """One step of one series at a time, with the model they share."""

    def __init__(self, queue: Queue, work: CaseWork, door: ListenSettings, watch: Watch, *, is_left: bool) -> None:
        self._queue = queue
        self._work = work
        self._door = door
        self._watch = watch
        self._is_left = is_left or door.destination is None

    def go_on(self, job: Job) -> None:
        """Segment a series that waits, deliver one that is segmented."""
        changed = self._deliver(job) if job.state == "sending" else self._segment(job)
        if changed is not None:
            self._watch(changed)

    def _segment(self, job: Job) -> Job | None:
        working = self._queue.change(job, state="working", tries=job.tries + 1)
        if working is None:
            return None
        self._watch(working)
        try:
            return self._made(working)
        except MedsegError as error:
            return self._refused(working, error)
        except _Stopped:
            # that medseg was stopped is not the series' fault
            self._queue.change(working, state="waiting", tries=job.tries)
            raise
        except Exception as error:  # noqa: BLE001 - one series must not end the others
            logger.error("%s failed with %s", job.id, type(error).__name__)  # noqa: TRY400 - its words may name a patient
            fault = MedsegError("a fault of medseg", code="E-INTERNAL")
            return self._refused(working, fault)

    def _made(self, job: Job) -> Job | None:
        case = InferCase(job.id, (self._queue.objects(job.id),), seed=self._seed(job))
        found = self._work.write(self._work.predict(self._work.read(case)))
        flags = tuple(flag.partition(":")[0] for flag in found.flags)
        files = tuple(found.files[name] for name in ("dicom-seg", "dicom-rtstruct", "dicom-sr") if name in found.files)
        done = {"results": files, "sent": (), "flags": flags, "tries": 0, "code": None, "reason": None}
        return self._queue.change(job, state="sending", **done)

    def _seed(self, job: Job) -> str:
        """Of the UIDs: the same instances, model and settings give the same objects, however often they are made."""
        made = self._work.job.provenance
        words = (made.weights_sha256, made.plan_sha256, self._work.job.settings.model_dump_json(), *job.instances)
        return hashlib.sha256("\n".join(map(str, words)).encode()).hexdigest()

    def _refused(self, job: Job, error: MedsegError) -> Job | None:
        """Only the code is kept: words about a file may be the file's own."""
        if error.code == _NOTHING_TO_SEE:
            return self._done(job, flags=("W-NO-IMAGES",))
        reason = f"see docs/errors.md, or: medseg infer --volume {self._queue.objects(job.id)} --format dicom-seg"
        if isinstance(error, ResourceError) or error.code in _PASSING:
            return self._queue.put_off(job, error, back="waiting", reason=reason)
        return self._queue.change(job, state="failed", code=error.code, reason=reason)

    def _deliver(self, job: Job) -> Job | None:
        results = self._work.job.out
        missing = [name for name in job.results if name not in job.sent and not (results / name).is_file()]
        if missing:
            return self._queue.change(job, state="waiting", results=(), sent=())
        peer, current = self._door.destination, job
        if peer is not None:
            try:
                current = self._sent(job, peer)
            except MedsegError as error:
                current = next(one for one in self._queue.jobs() if one.id == job.id)
                if current.state != "sending":
                    return None
                counted = self._queue.change(current, tries=job.tries + 1)
                return counted and self._queue.put_off(counted, error, back="sending", reason=error.message)
        done = self._done(current)
        if done is not None and not self._is_left and not self._door.keep:
            for path in results.glob(f"{job.id}.*"):
                path.unlink()
        return done

    def _sent(self, job: Job, peer: Peer) -> Job:
        """Send what is not yet confirmed, and write down every confirmation as it comes."""
        left = [self._work.job.out / name for name in job.results if name not in job.sent]
        if left:
            for path in send_objects(left, peer, self._door):
                job = self._queue.change(job, sent=(*job.sent, path.name)) or job
        return job

    def _done(self, job: Job, **changes: tuple[str, ...]) -> Job | None:
        done = self._queue.change(job, state="done", finished=True, tries=0, code=None, reason=None, **changes)
        if done is not None and not self._door.keep:
            self._queue.clear(job.id)
        return done


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """End the block in good order on SIGTERM or Ctrl-C, whatever it is doing."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def hear(_signal: int, _frame: FrameType | None) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        stop.set()
        raise _Stopped

    before = {number: signal.signal(number, hear) for number in _SIGNALS}
    try:
        with suppress(_Stopped):
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
