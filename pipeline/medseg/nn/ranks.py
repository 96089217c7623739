"""Sums and lists over the processes of one training, with gradients; in a single process, what they are given.

A loss made of them is that of the whole batch, the same number in every process. The gradient that a process then has
is its own part times the number of processes, so that the mean over the processes is the gradient of the whole batch.
Every process must ask for the same sums in the same order.

Shape legend: R processes, N samples of one of them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed
from torch.nn import functional

from medseg.core.errors import ResourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOST = "E-RANK-LOST"


def are_several() -> bool:
    """Whether this training has more than one process."""
    return distributed.is_available() and distributed.is_initialized()


def how_many() -> int:
    return distributed.get_world_size() if are_several() else 1


def own_rank() -> int:
    return distributed.get_rank() if are_several() else 0


def least(number: int) -> int:
    """The smallest of all processes' numbers."""
    smallest: int = min(everybodys([number]))
    return smallest


def total(values: Tensor) -> Tensor:
    """The sum over all processes, of any shape."""
    return _Total.apply(values) if are_several() else values  # type: ignore[no-untyped-call]


def gathered(values: Tensor) -> Tensor:
    """(N, ...) of each process to (sum of N, ...), in their order; N may differ, and be 0."""
    if not are_several():
        return values
    rank, size = distributed.get_rank(), distributed.get_world_size()
    mine = functional.one_hot(torch.tensor(rank, device=values.device), size) * len(values)
    counts = total(mine).tolist()
    before, after = sum(counts[:rank]), sum(counts[rank + 1 :])
    return total(functional.pad(values, [0, 0] * (values.ndim - 1) + [before, after]))


def everybodys(things: Iterable[Any]) -> list[Any]:
    """What every process has, in their order; for words and numbers."""
    if not are_several():
        return list(things)
    parts: list[Any] = [None] * distributed.get_world_size()
    with answered():
        distributed.all_gather_object(parts, list(things))
    return [thing for part in parts for thing in part]


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Give every process the mean of all gradients; a parameter that no process used keeps none."""
    if not are_several():
        return
    taught = [parameter for parameter in parameters if parameter.requires_grad]
    has = torch.tensor([parameter.grad is not None for parameter in taught], device=taught[0].device)
    used = [parameter for parameter, count in zip(taught, total(has.int()).tolist(), strict=True) if count]
    for parameter in used:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in used if parameter.grad is not None])
    mean = total(flat) / distributed.get_world_size()
    for parameter, part in zip(used, torch.split(mean, [parameter.numel() for parameter in used]), strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(part.view_as(parameter))


@contextmanager
def answered() -> Iterator[None]:
    """Around every exchange: what fails in it is the other side.

    Raises:
        ResourceError: `E-RANK-LOST`.
    """
    try:
        yield
    except RuntimeError as error:
        raise ResourceError(
            "another process of this training no longer answers",
            code=LOST,
            remedy="Run the same command again: it goes on from the last checkpoint.",
        ) from error


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        whole = values.detach().clone(memory_format=torch.contiguous_format)
        with answered():
            distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return gradient * distributed.get_world_size()
