"""Several answers to one case: of an ensemble's members, and of mirrored copies."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from medseg.ops.augment import Augmentation, swap_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from medseg.core.answering import Combination
    from medseg.core.plan import Plan
    from medseg.engine.backends import Segment


def mean_classes(answers: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Probabilities of each head and class, averaged over the members of an ensemble."""
    return {
        head: {name: sum(answer[head][name] for answer in answers) / len(answers) for name in probabilities}
        for head, probabilities in answers[0].items()
    }


def combined(parts: Sequence[Tensor], *, how: Combination, regions: bool, dim: int = 0) -> Tensor:
    """The logits with which several members answer together.

    Args:
        parts: (..., K, ...) logits of each.
        how: The mean of the logits, or the logits of the mean of the probabilities (their logarithm: its softmax is
            that mean).
        regions: Whether each channel has a sigmoid of its own.
        dim: Of the channels.
    """
    stack = torch.stack(list(parts))
    if how == "logits":
        return stack.mean(0)
    if regions:
        return functional.logsigmoid(stack).logsumexp(0) - functional.logsigmoid(-stack).logsumexp(0)
    return stack.float().log_softmax(dim + 1).logsumexp(0) - math.log(len(stack))


def mirrored(segment: Segment, plan: Plan) -> Segment:
    """The mean over every mirrored copy; a left-right flip exchanges the labels of each pair."""
    table = swap_table(Augmentation.from_plan(plan).swaps)[: plan.num_outputs].long()

    def predict(windows: Tensor) -> Tensor:
        total, count = torch.zeros((), device=windows.device), 0
        for axes in _subsets(plan.mirror_axes):
            dims = [axis + 2 for axis in axes]
            answer = segment(windows.flip(dims)).float().flip(dims)
            total = total + (answer[:, table.to(answer.device)] if 0 in axes else answer)
            count += 1
        return total / count

    return predict


def _subsets(axes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for size in range(len(axes) + 1):
        yield from combinations(axes, size)
