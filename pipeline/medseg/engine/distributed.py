"""Several processes, one training: `torchrun` starts them, here they find each other and end together.

Process 0 writes; its clock is everybody's; whoever is asked to stop stops all. A process that fails tells the others
before it goes, so that one of them alone reports the cause; of one that dies without a word the first to notice tells
which it was.

The group's threads end with the last reference to it, and must end before the interpreter does: one that still lets go
of a tensor then takes the process down (SIGABRT).
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed.nn.functional  # before there is a group, which its functions would keep as their default
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from medseg.core.errors import MedsegError, ResourceError, UsageError
from medseg.engine.stop import undisturbed
from medseg.nn.ranks import LOST, answered, are_several, everybodys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch._C._distributed_c10d import Store

_ELSEWHERE = "E-RANK-ENDED"
_FIRST, _NOTICED = "first to fail", "told its end"
# How long whoever notices a loss waits for the others to say that it was not they.
_SURVIVORS_S = 3.0


@dataclass(frozen=True)
class Ranks:
    """This process among those of its training.

    Attributes:
        rank: 0 writes.
        size: Of all machines together.
        local: Among those of this machine: the GPU that it takes.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def is_writer(self) -> bool:
        return self.rank == 0

    def slots(self, batch_size: int) -> range:
        """The part of a batch that is this process's.

        Raises:
            UsageError: `E-RANKS` when there are more processes than patches.
        """
        if batch_size < self.size:
            raise UsageError(
                f"a batch of {batch_size} patches cannot be dealt to {self.size} processes",
                code="E-RANKS",
                remedy=f"Start at most {batch_size} processes, or give a larger --batch-size.",
            )
        return range(batch_size * self.rank // self.size, batch_size * (self.rank + 1) // self.size)

    def device(self, name: str) -> str:
        """`auto` and `cuda` become the GPU of this process.

        Raises:
            UsageError: `E-RANKS` where processes would share a GPU, which NCCL does not connect.
        """
        if self.size == 1 or not name.startswith(("auto", "cuda")) or not torch.cuda.is_available():
            return name
        gpus = 1 if ":" in name else torch.cuda.device_count()
        if processes_here() > gpus:
            raise UsageError(
                f"{processes_here()} processes of this machine would share {gpus} GPU{'s' * (gpus > 1)} ({name}): each "
                "needs one of its own",
                code="E-RANKS",
                remedy=f"Start at most {torch.cuda.device_count()} on this machine (torchrun --nproc-per-node) and let "
                "each take its own with --device cuda; or train with --device cpu.",
            )
        return name if ":" in name else f"cuda:{self.local}"

    def now(self) -> float:
        """Seconds, the same in every process: what depends on time is then decided alike."""
        if not are_several():
            return time.monotonic()
        seconds = torch.tensor(time.monotonic(), dtype=torch.float64)
        with answered():
            distributed.broadcast(seconds, 0)
        return float(seconds)

    def any(self, wish: bool) -> bool:
        """Whether it is true of any process; also a place where all wait for one another."""
        return wish if not are_several() else any(everybodys([wish]))

    def require_equal(self, what: str, value: Any) -> None:
        """Refuse to go on with processes that see different things.

        Raises:
            UsageError: `E-RANKS-DIFFER`.
        """
        rows = everybodys([(value, socket.gethostname())])
        for rank, (found, host) in enumerate(rows):
            if found != rows[0][0]:
                raise UsageError(
                    f"process {rank} on {host} sees another {what} than process 0 on {rows[0][1]}",
                    code="E-RANKS-DIFFER",
                    remedy="Every machine must see the same --workspace and run the same medseg.",
                )


ALONE = Ranks()


def processes() -> int:
    """How many torchrun started, on all machines together; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_here() -> int:
    """The same, on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def elsewhere(why: str) -> MedsegError:
    """`E-RANK-ENDED`: what ends this process is for another one to tell."""
    return MedsegError(why, code=_ELSEWHERE)


def require_alone(what: str, remedy: str) -> None:
    """Refuse what several processes cannot share.

    Raises:
        UsageError: `E-RANKS`.
    """
    if processes() > 1:
        raise UsageError(f"{what} is for one process, torchrun started several", code="E-RANKS", remedy=remedy)


@contextmanager
def joined(device: str, *, timeout_s: float) -> Iterator[Ranks]:
    """Meet the other processes that torchrun started; without torchrun, or with one process, be alone.

    Args:
        device: As chosen by the user: NCCL connects GPUs, gloo everything else.
        timeout_s: After which a process that does not answer is taken for lost.

    Raises:
        ResourceError: `E-RANK-LOST`.
        MedsegError: `E-RANK-ENDED` when another process failed, which says why.
    """
    if processes() == 1:
        yield ALONE
        return
    ranks = Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    if are_several():  # inside another
        yield ranks
        return
    timeout = timedelta(seconds=timeout_s)
    uses_gpu = device.startswith(("auto", "cuda")) and torch.cuda.is_available()
    with answered():
        store, _, _ = next(rendezvous("env://", timeout=timeout))
        if uses_gpu:
            torch.cuda.set_device(ranks.local % torch.cuda.device_count())
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if uses_gpu else "gloo",
            store=store,
            rank=ranks.rank,
            world_size=ranks.size,
            timeout=timeout,
        )
    try:
        yield ranks
        ranks.any(False)
    except BaseException as ending:
        error = _overtaken(ending)
        with undisturbed():  # torchrun ends the survivors of a loss by SIGTERM, which must not cost its name
            cause = _told(store, ranks, error)
        _forget_frames(ending)
        distributed.destroy_process_group()  # others now notice, if they wait for this one
        if ranks.is_writer and "TORCHELASTIC_RUN_ID" not in os.environ:
            _silent(store, ranks)  # without torchrun the store, where they read why, lives in process 0
        if cause is ending:
            raise
        raise cause from None if cause is error else error
    distributed.destroy_process_group()


def _overtaken(ending: BaseException) -> BaseException:
    """The loss of another process, where a signal came while this one was on its way out because of it."""
    before = ending.__context__
    is_loss = isinstance(before, MedsegError) and before.code in {LOST, _ELSEWHERE}
    return before if before and is_loss and not isinstance(ending, Exception) else ending


def _forget_frames(error: BaseException | None) -> None:
    """What failed in an exchange holds the group in the variables of its functions."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _told(store: Store, ranks: Ranks, error: BaseException) -> BaseException:
    """What this process reports: its own error if it is the first one, else that another's came before."""
    try:
        store.set(f"{_NOTICED} {ranks.rank}", "")
        if isinstance(error, MedsegError) and error.code == _ELSEWHERE:
            return error
        first = int(store.compare_set(_FIRST, "", str(ranks.rank)))
    except RuntimeError:  # the store dies with the process that holds it
        return error
    if first != ranks.rank:
        return elsewhere(f"process {first} failed first and says why")
    if not (isinstance(error, MedsegError) and error.code == LOST):
        return error
    silent = _silent(store, ranks)
    named = f"process {', '.join(map(str, silent))}" if silent else "a process"
    return ResourceError(
        f"{named} of {ranks.size} was lost: it ended without a word or did not answer in time",
        code=LOST,
        remedy="Most often its memory ran out. The same command goes on from the last checkpoint.",
    )


def _silent(store: Store, ranks: Ranks) -> list[int]:
    """Those who have not told their end after a moment."""
    others = {rank for rank in range(ranks.size) if rank != ranks.rank}
    end = time.monotonic() + _SURVIVORS_S
    for rank in sorted(others):
        left = max(end - time.monotonic(), 0.1)
        try:
            store.wait([f"{_NOTICED} {rank}"], timedelta(seconds=left))
        except RuntimeError:
            continue
        others.discard(rank)
    return sorted(others)
