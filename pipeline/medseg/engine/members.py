"""Several answers to one case: of an ensemble's members, and of mirrored copies."""

from __future__ import annotations

import math
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from medseg.engine.segment import PartedSegment, pays
from medseg.ops.augment import Augmentation, swap_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medseg.core.answering import Combination
    from medseg.core.plan import Plan
    from medseg.engine.segment import Segment


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


def num_copies(plan: Plan, *, mirror: bool) -> int:
    """How often each window goes through a network: once, or as every copy of `mirrored`."""
    return 2 ** len(plan.mirror_axes) if mirror else 1


def mirrored(segment: Segment, plan: Plan) -> Segment:
    """The mean over every mirrored copy; a left-right flip exchanges the labels of each pair.

    Of a parted segment the features are averaged; where there are pairs, those of the copies that were flipped left to
    right beside the others, because the last layer's answers to them are exchanged.
    """
    table = swap_table(Augmentation.from_plan(plan).swaps)[: plan.num_outputs].long()
    copies = list(_subsets(plan.mirror_axes))
    turned = [axes for axes in copies if 0 in axes and bool((table != torch.arange(len(table))).any())]
    straight = [axes for axes in copies if axes not in turned]
    features = 2 * segment.num_features if turned and isinstance(segment, PartedSegment) else 0
    if not isinstance(segment, PartedSegment) or not pays(features, plan.num_outputs):
        return _exchanging(segment, straight, turned, table)
    half, read = segment.num_features, segment.read
    if not turned:
        return PartedSegment(partial(_mean, segment.features, straight), half, read)

    def both(windows: Tensor) -> Tensor:
        return torch.cat([_mean(segment.features, axes, windows) for axes in (straight, turned)], dim=1)

    def read_both(blended: Tensor) -> Tensor:
        return (read(blended[:half]) + read(blended[half:])[table.to(blended.device)]) / 2

    return PartedSegment(both, features, read_both)


def _exchanging(
    segment: Segment, straight: Sequence[tuple[int, ...]], turned: Sequence[tuple[int, ...]], table: Tensor
) -> Segment:
    def predict(windows: Tensor) -> Tensor:
        answer = _mean(segment, straight, windows)
        if not turned:
            return answer
        return (answer + _mean(segment, turned, windows)[:, table.to(answer.device)]) / 2

    return predict


def _mean(segment: Segment, copies: Sequence[tuple[int, ...]], windows: Tensor) -> Tensor:
    """Of the answers to copies mirrored along these axes, brought back."""
    total = torch.zeros((), device=windows.device)
    for axes in copies:
        dims = [axis + 2 for axis in axes]
        total = total + segment(windows.flip(dims)).float().flip(dims)
    return total / len(copies)


def _subsets(axes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for size in range(len(axes) + 1):
        yield from combinations(axes, size)
