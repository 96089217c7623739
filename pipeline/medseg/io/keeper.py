"""The process that reads for another: it never opens a file itself, but forks a child for each reading.

A child inherits memory in which no case ever was, limits itself, reads, hands over and ends. So no case meets the
voxels of another, and what a file does to its reader (a crash, a hang, an allocation without end) ends with the child.
Started by contained.py as `python -m medseg.io.keeper DESCRIPTOR`.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import resource
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import medseg.io.volumes  # noqa: F401 - loaded once here, not in every child
from medseg.core.errors import InputError, MedsegError, ResourceError
from medseg.core.geometry import Geometry
from medseg.core.reading import Reading
from medseg.io.decoded import ReadOptions
from medseg.io.handover import LENGTH, Answer, Refusal, hand_over
from medseg.io.streams import inflater

# Libraries that some files need; once a child has loaded one it is loaded here, for all that come after.
_LIBRARIES = ("pydicom", "medseg.io.dicom")
_SPARE_BYTES = 64 << 20
_BEFORE_START_BYTES = 1 << 30
_GRACE_S = 5


def keep(control: socket.socket) -> None:
    """Fork a child for every request on `control` until its other end closes; report how each child ended.

    A request is its length, with the socket for the answer attached, and JSON.
    """
    inflater()  # loaded once here
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno())
    answers: dict[int, socket.socket] = {}
    used = mmap.mmap(-1, len(_LIBRARIES))  # a byte each, shared with the children: all that is taken from them here
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            woken.recv(1 << 12)
            _report_ended(answers)
        if control not in ready:
            continue
        head, descriptors, _, _ = socket.recv_fds(control, LENGTH.size, 1)
        if not head:
            break
        answer = socket.socket(fileno=descriptors[0])
        request = _receive(control, LENGTH.unpack(head)[0])
        _load(used)
        pid = os.fork()
        if pid == 0:
            for other in (control, woken, waker, *answers.values()):
                other.close()
            _read(json.loads(request), answer, used)
        answers[pid] = answer
    for pid in answers:
        os.kill(pid, signal.SIGKILL)


def _receive(control: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += control.recv(size - len(received))
    return received


def _report_ended(answers: dict[int, socket.socket]) -> None:
    """Write each ended child's status (0, exit code, or minus the signal) behind whatever it answered."""
    while answers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with answers.pop(pid) as answer:
            code = os.waitstatus_to_exitcode(status)
            try:
                answer.sendall(b"\n%d" % code)
            except OSError:
                continue  # whoever asked has gone


def _load(used: mmap.mmap) -> None:
    for name, is_used in zip(_LIBRARIES, used[:], strict=True):
        if is_used:
            importlib.import_module(name)


def _read(request: dict[str, Any], answer: socket.socket, used: mmap.mmap) -> NoReturn:
    """In the child: read within the limits, answer, end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    words, descriptor = _answered(request)
    used[:] = bytes(name in sys.modules for name in _LIBRARIES)
    if descriptor is not None:
        socket.send_fds(answer, [b"\n"], [descriptor])
    answer.sendall(words.model_dump_json().encode())
    os._exit(0)


def _answered(request: dict[str, Any]) -> tuple[Answer, int | None]:
    try:
        os.chdir(request["folder"])
        _limit(request["memory_bytes"], request["timeout_s"])
        decoder = getattr(importlib.import_module(request["module"]), request["decoder"])
        handed, descriptor = hand_over(decoder(Path(request["path"]), _options(request)))
    except MedsegError as error:
        refused = error
    except MemoryError:
        refused = ResourceError(
            f"reading it needs more than the {request['memory_bytes'] / (1 << 30):.3g} GiB that a case may take",
            code="E-MEMORY",
            remedy="Check that it is whole and as large as it should be; `read_memory_gib` sets the limit.",
        )
    except OSError as error:
        found = f"could not be read: {error.strerror or error}"
        refused = InputError(found, code="E-READ", remedy="Check the disk, then try it again.")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a file does to its reader is that file's refusal
        refused = _failed(error)
    else:
        return Answer(handed=handed), descriptor
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    return Answer(refusal=Refusal.of(refused)), None


def _options(request: dict[str, Any]) -> ReadOptions:
    grid = request["onto"]
    onto = None if grid is None else Geometry(tuple(grid["shape"]), np.array(grid["affine"]))
    return ReadOptions(Reading(**request["reading"]), request["channels"], onto, request["names"])


def _failed(error: BaseException) -> InputError:
    """Names the place in the code, not the message: that could quote the file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" in {Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}"
    message = f"its reader failed ({type(error).__name__}{place})"
    return InputError(message, code="E-CRASH", remedy="Convert the file, and report the fault with this line.")


def _limit(memory_bytes: int, timeout_s: float) -> None:
    """Address space beyond what the process has, processor time, time by the clock, size of files; no core dump."""
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[0]) if statm.exists() else _BEFORE_START_BYTES // resource.getpagesize()
    space = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (space, space + _SPARE_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = max(1, round(timeout_s))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + _GRACE_S))
    signal.setitimer(signal.ITIMER_REAL, timeout_s)


if __name__ == "__main__":
    keep(socket.socket(fileno=int(sys.argv[1])))
