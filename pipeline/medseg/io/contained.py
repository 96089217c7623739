"""Reading in a process of its own, with limits: a bomb, a crash or a hang is one refused case.

While `contained(settings)` is open, the one door's decoder does its work in a child process and gives back the same
result: parsing and decoding are what a file can harm. The limits are the kernel's: address space, processor time, and
time by the clock. Linux only; elsewhere everything that is read carries `W-NOT-CONTAINED`.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.core.errors import InputError, MedsegError
from medseg.core.reading import Containment, Reading
from medseg.io.decoded import Decoded, ReadOptions

Decoder = Callable[[Path, ReadOptions], Decoded]

_TRIES = 2
_LONGEST_ANSWER = 1 << 20
_MEMORY_SHARE = 0.75
_OUT_OF_TIME = {-signal.SIGALRM, -signal.SIGXCPU}
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_lock = threading.Lock()


class _Direct:
    """Where there are no such limits: read in this process, and say so."""

    def read(self, decoder: Decoder, path: Path, options: ReadOptions) -> Decoded:
        decoded = decoder(path, options)
        return replace(decoded, warnings=(*decoded.warnings, "W-NOT-CONTAINED"))

    def close(self) -> None:
        """Nothing was opened."""


class _Keeper:
    """The process of keeper.py, started when it is first needed and again when it is gone."""

    def __init__(self, *, memory_bytes: int, timeout_s: float, grace_s: float) -> None:
        self._limits = {"memory_bytes": memory_bytes, "timeout_s": timeout_s}
        self._wait_s, self._grace_s = timeout_s + grace_s, grace_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def read(self, decoder: Decoder, path: Path, options: ReadOptions) -> Decoded:
        grid = options.onto
        request = {
            "module": decoder.__module__,
            "decoder": decoder.__qualname__,
            "folder": str(Path.cwd()),
            "path": str(path),
            "reading": options.reading.model_dump(include=set(Reading.model_fields)),
            "channels": options.channels,
            "onto": None if grid is None else {"shape": grid.shape, "affine": grid.affine.tolist()},
            "names": options.names,
        }
        words = json.dumps(request | self._limits).encode()
        try:
            for _ in range(_TRIES):
                decoded = self._ask(words)
                if decoded is not None:
                    return decoded
        except MedsegError as error:
            error.file = error.file or path
            raise
        message = "the process that reads files cannot be started, or is killed again and again"
        raise MedsegError(message, code="E-CONTAIN", remedy="Look at the messages above; or set `contain` to false.")

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _ask(self, request: bytes) -> Decoded | None:
        """The answer to one request; None when the keeper itself went away."""
        mine, theirs = socket.socketpair()
        descriptors: list[int] = []
        try:
            with mine:
                with theirs:
                    process = self._send(request, theirs)
                mine.settimeout(self._wait_s)
                answer = _receive(mine, descriptors)
            outcome = _outcome(answer, descriptors)
        except TimeoutError:
            self._discard(process)
            raise _out_of_time() from None
        else:
            if outcome is None:
                self._discard(process)
            return outcome
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _discard(self, process: subprocess.Popen[bytes] | None) -> None:
        """Stop this process, unless another has already taken its place."""
        with self._lock:
            if self._process is process:
                self._stop()

    def _send(self, request: bytes, answer: socket.socket) -> subprocess.Popen[bytes] | None:
        """Ask, and return the process that was asked."""
        from medseg.io.handover import LENGTH

        with self._lock:
            control = self._control or self._start()
            with suppress(OSError):  # it has gone: then the answer's other end closes unanswered
                socket.send_fds(control, [LENGTH.pack(len(request))], [answer.fileno()])
                control.sendall(request)
            return self._process

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        places = [str(Path(__file__).parents[2]), *(place for place in sys.path if Path(place).is_absolute())]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter with a fixed module
                [sys.executable, "-P", "-m", "medseg.io.keeper", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(dict.fromkeys(places))},
            )
        self._control = ours
        return ours

    def _stop(self) -> None:
        if self._control is not None and self._process is not None:
            self._control.close()
            try:
                self._process.wait(self._grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._control = self._process = None


@dataclass
class _Open:
    """The one way of reading that is open, and by how many it is used."""

    reader: _Direct | _Keeper | None = None
    users: int = 0


_open = _Open()


@contextmanager
def contained(settings: Containment, *, grace_s: float = 30.0) -> Iterator[None]:
    """Read in child processes while this is open, in every thread; one inside another uses the outer one's limits.

    Args:
        settings: The limits of one reading.
        grace_s: Of a process that does not end itself when its time is over.
    """
    if not settings.contain:
        yield
        return
    with _lock:
        _open.reader = _open.reader or _reader(settings, grace_s)
        _open.users += 1
    try:
        yield
    finally:
        with _lock:
            _open.users -= 1
            ended = None if _open.users else _open.reader
            _open.reader = _open.reader if _open.users else None
        if ended is not None:
            ended.close()


def containable(decoder: Decoder) -> Decoder:
    """Let a decoder, a function of a module, run in a child while `contained` is open."""

    @functools.wraps(decoder)
    def decode(path: Path, options: ReadOptions) -> Decoded:
        way = _open.reader
        return decoder(path, options) if way is None else way.read(decoder, path, options)

    return decode


def can_contain() -> bool:
    """Whether this system has what it takes."""
    return sys.platform == "linux" and bool(sys.executable)


def _reader(settings: Containment, grace_s: float) -> _Direct | _Keeper:
    if not can_contain():
        return _Direct()
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = machine_bytes * _MEMORY_SHARE if settings.read_memory_gib is None else settings.read_memory_gib * (1 << 30)
    return _Keeper(memory_bytes=int(limit), timeout_s=settings.read_timeout_s, grace_s=grace_s)


def _receive(answer: socket.socket, descriptors: list[int]) -> bytes:
    """Everything up to the end, open files put into `descriptors`."""
    received = b""
    while len(received) <= _LONGEST_ANSWER:
        part, files, _, _ = socket.recv_fds(answer, 1 << 16, 1)
        descriptors += files
        if not part:
            break
        received += part
    return received


def _outcome(received: bytes, descriptors: list[int]) -> Decoded | None:
    """What the child answered, believed only when it is whole and the child ended well."""
    from medseg.io.handover import Answer, take_over

    *said, status = received.split(b"\n")
    if not status.lstrip(b"-").isdigit():
        return None
    if int(status):
        raise _out_of_time() if int(status) in _OUT_OF_TIME else _crashed(int(status))
    try:
        answer = Answer.model_validate_json(b"".join(said))
        if answer.refusal is not None:
            raise answer.refusal.error()
        if answer.handed is not None and descriptors:
            return take_over(answer.handed, descriptors[0])
    except ValueError:
        pass
    raise _crashed(0)


def _out_of_time() -> InputError:
    message = "reading it took longer than a case may"
    remedy = "Check that it is whole and its disk answers; `read_timeout_s` sets the limit."
    return InputError(message, code="E-TIMEOUT", remedy=remedy)


def _crashed(status: int) -> InputError:
    killed = f"was killed: {signal.strsignal(-status) or f'signal {-status}'}" if status < 0 else ""
    ended = killed or (f"ended with exit code {status}" if status else "ended without an answer")
    message = f"the process that read it {ended}"
    remedy = "The file is probably damaged; convert it or leave it out, and report the fault."
    return InputError(message, code="E-CRASH", remedy=remedy)
