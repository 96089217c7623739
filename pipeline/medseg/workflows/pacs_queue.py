"""The queue of `medseg listen` on disk: series that arrive, and where each of them stands. Safe against a kill.

lock                              who listens
jobs/ID/job.json                  where the series stands
jobs/ID/objects/HASH.dcm          what has arrived of it
results/                          what was made, until it is delivered

A series' ID and an object's name are hashes of their UIDs: nothing that a caller writes becomes a name.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import InputError, MedsegError, ResourceError
from medseg.core.listening import Job, ListenSettings
from medseg.io.documents import read_document
from medseg.io.files import atomic_path, make_private, write_text
from medseg.io.lock import require_unlocked

if TYPE_CHECKING:
    from collections.abc import Collection

    from medseg.io.dicom_network import Arrival

_RECORD = "job.json"
_GIB = 1 << 30
_MOST_CRASHES = 3
_LONGEST_PAUSE_S = 3600.0
_DAY_S = 86400.0


@dataclass
class _Silence:
    """When something of a series last arrived, and through which associations."""

    since: float
    associations: set[int] = field(default_factory=set)


class Queue:
    """The series of one listener; every method may be called from any thread.

    Args:
        folder: Of the queue; only one process may open it (`lock`).
        settings: Limits, settling, tries.
    """

    def __init__(self, folder: Path, settings: ListenSettings) -> None:
        self.folder = folder
        self._settings = settings
        self._turn = threading.Lock()
        self._silences: dict[str, _Silence] = {}
        self._jobs: dict[str, Job] = {}

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def objects(self, job_id: str) -> Path:
        return self._place(job_id) / "objects"

    def prepare(self) -> None:
        """Make the folders, which only their owner may enter."""
        for folder in (self.folder, self.folder / "jobs", self.results):
            make_private(folder)

    def open(self) -> None:
        """Take up what an earlier process left, at whatever moment it ended."""
        for place in sorted((self.folder / "jobs").iterdir()):
            for left in place.rglob(".tmp-*"):
                left.unlink()
            self._jobs[place.name] = self._resumed(place)
            self._silences[place.name] = _Silence(time.monotonic())

    def jobs(self) -> tuple[Job, ...]:
        """Oldest first."""
        with self._turn:
            return tuple(sorted(self._jobs.values(), key=lambda job: job.created))

    def store(self, arrival: Arrival) -> None:
        """Keep one object; it is on the disk when this returns.

        Raises:
            ResourceError: `E-PACS-FULL`.
            InputError: `E-PACS-DUPLICATE`, `E-DISK-FULL`, `E-NOT-WRITABLE`.
        """
        job_id = f"series-{_hash(arrival.study_uid, arrival.series_uid)[:16]}"
        place = self.objects(job_id) / f"{_hash(arrival.sop_instance_uid)}.dcm"
        with self._turn:
            job = self._jobs.get(job_id)
            is_known = place.is_file()
            if is_known:
                _require_same(place, arrival)
            else:
                self._require_room(job, len(arrival.body))
            # the state first: an object that nothing asks about would be lost
            if job is None:
                make_private(self._place(job_id))
                make_private(place.parent)
                self._put(Job(id=job_id, created=time.time(), changed=time.time()))
            elif job.state == "failed" or (job.state != "receiving" and not is_known):
                self._put(job.model_copy(update={"state": "receiving", "code": None, "reason": None}))
            if not is_known:
                with atomic_path(place) as temporary, temporary.open("wb") as file:
                    file.write(arrival.head)
                    file.write(arrival.body)
            silence = self._silences.setdefault(job_id, _Silence(0))
            silence.since = time.monotonic()
            silence.associations.add(arrival.association)

    def settle(self, associations: Collection[int]) -> list[Job]:
        """Close the series that nothing more has come of, and return them; forget what is long done.

        Args:
            associations: Those that are open.
        """
        now, settled = time.monotonic(), []
        with self._turn:
            for job in list(self._jobs.values()):
                if job.state == "done" and time.time() - job.changed > self._settings.remember_days * _DAY_S:
                    shutil.rmtree(self._place(job.id))
                    del self._jobs[job.id]
                if job.state != "receiving":
                    continue
                silence = self._silences[job.id]
                silence.associations.intersection_update(associations)
                if silence.associations:
                    silence.since = now
                elif now - silence.since >= self._settings.settle_s:
                    settled.append(self._put(self._settled(job)))
        return settled

    def next_job(self) -> Job | None:
        """What to do now: deliver before work, the oldest first."""
        due = [job for job in self.jobs() if job.state in {"waiting", "sending"} and job.due <= time.time()]
        return min(due, key=lambda job: (job.state != "sending", job.created), default=None)

    def change(self, job: Job, **changes: Any) -> Job | None:
        """Write how a series stands now; None, and nothing changed, when it moved on since `job` was taken."""
        with self._turn:
            if self._jobs.get(job.id) != job:
                return None
            return self._put(job.model_copy(update=changes))

    def put_off(self, job: Job, error: MedsegError, *, back: str, reason: str) -> Job | None:
        """Try again later, or give up after so many tries: sooner where reading it kills the process that reads."""
        why = {"code": error.code, "reason": reason}
        most = min(self._settings.max_tries, _MOST_CRASHES if error.code == "E-CRASH" else self._settings.max_tries)
        if job.tries >= most:
            return self.change(job, state="failed", **why)
        pause_s = min(self._settings.retry_s * 2.0 ** (job.tries - 1), _LONGEST_PAUSE_S)
        return self.change(job, state=back, due=time.time() + pause_s, **why)

    def retry_failed(self) -> None:
        """Give what failed another chance."""
        for job in self.jobs():
            if job.state == "failed":
                self.change(job, state="receiving", tries=0, due=0, code=None, reason=None)

    def clear(self, job_id: str) -> None:
        """Delete what arrived of a series."""
        for path in self.objects(job_id).glob("*"):
            path.unlink()

    def _place(self, job_id: str) -> Path:
        return self.folder / "jobs" / job_id

    def _put(self, job: Job) -> Job:
        written = job.model_copy(update={"changed": time.time()})
        write_text(self._place(job.id) / _RECORD, written.to_json())
        self._jobs[job.id] = written
        return written

    def _present(self, job: Job) -> set[str]:
        return {path.stem for path in self.objects(job.id).glob("*.dcm")}

    def _settled(self, job: Job) -> Job:
        """What becomes of a series: the same as before needs no work, a part of it cannot be worked on."""
        present, known = self._present(job), set(job.instances)
        again = {"tries": 0, "due": 0.0, "code": None, "reason": None}
        if job.finished and present <= known:
            if not self._settings.keep:
                self.clear(job.id)
            return job.model_copy(update={**again, "state": "done"})
        if job.finished and known - present:
            message = "objects came after the series was done, and its others were deleted; send the whole series again"
            return job.model_copy(update={"state": "failed", "code": "E-PACS-LATE", "reason": message})
        if present == known and job.results:
            return job.model_copy(update={**again, "state": "sending"})
        fresh = {"instances": tuple(sorted(present)), "results": (), "sent": (), "finished": False, "flags": ()}
        return job.model_copy(update={**again, **fresh, "state": "waiting"})

    def _resumed(self, place: Path) -> Job:
        make_private(place / "objects")
        if not (place / _RECORD).is_file():
            return self._put(Job(id=place.name, created=time.time(), changed=time.time()))
        job = read_document(place / _RECORD, Job)
        if job.state == "done" and not self._settings.keep:
            self.clear(job.id)
        if job.state != "working":
            return job
        if job.tries < _MOST_CRASHES:
            return self._put(job.model_copy(update={"state": "waiting"}))
        reason = f"medseg ended {job.tries} times while it worked on this series"
        return self._put(job.model_copy(update={"state": "failed", "code": "E-PACS-CRASH", "reason": reason}))

    def _require_room(self, job: Job | None, size: int) -> None:
        limits, full = self._settings, ""
        if shutil.disk_usage(self.folder).free < size + limits.reserve_gib * _GIB:
            full = "the disk is full"
        elif job is None and sum(one.state != "done" for one in self._jobs.values()) >= limits.max_series:
            full = f"{limits.max_series} series are waiting"
        elif job is not None and len(self._present(job)) >= limits.max_objects:
            full = f"a series has {limits.max_objects} objects"
        if full:
            raise ResourceError(full, code="E-PACS-FULL", remedy="Free some room, then send again.")


def read_queue(folder: Path) -> tuple[tuple[Job, ...], bool]:
    """The series of a queue, and whether a process is listening; nothing is changed."""
    found = [read_document(path, Job) for path in folder.glob(f"jobs/*/{_RECORD}")]
    lock = folder / "lock"
    is_open = False
    if lock.exists():
        try:
            require_unlocked(lock)
        except MedsegError:
            is_open = True
    return tuple(sorted(found, key=lambda job: job.created)), is_open


def _hash(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]


def _require_same(place: Path, arrival: Arrival) -> None:
    """An instance that came before must be the same; packed in another way it is taken for the same."""
    before = place.read_bytes()
    if before.startswith(arrival.head) and memoryview(before)[len(arrival.head) :] != arrival.body:
        message = "another object of this SOP instance UID came before"
        raise InputError(message, code="E-PACS-DUPLICATE", remedy="Give a changed object a UID of its own.")
