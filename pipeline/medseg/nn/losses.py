"""Losses that honour what was labelled: ignored voxels teach nothing, unlabelled organs are not background.

The segmentation loss is that of the whole batch, also where several processes hold a part of it each.

Shape legend: B batch, K outputs (background first), (I, J, K) voxels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from medseg.core.plan import IGNORE_INDEX, MISSING_CLASS
from medseg.nn.ranks import total

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def segmentation_loss(logits: Sequence[Tensor], target: Tensor, known: Tensor) -> Tensor:
    """Dice and cross-entropy, summed over the supervised scales with weights 1, 1/2, 1/4 ... (normalised).

    Args:
        logits: (B, K, ...) per scale, fine to coarse.
        target: (B, I, J, K) uint8 network indices; IGNORE_INDEX marks voxels that teach nothing.
        known: (B, K) bool, False where a label was not annotated in that case. Such a label's voxels are hidden in the
            background, so there the background's probability is the sum of its own and of all unannotated labels'
            (the marginal loss of Shi et al., Medical Image Analysis 2021).
    """
    total, weight_sum = logits[0].new_zeros((), dtype=torch.float32), 0.0
    for level, scale in enumerate(logits):
        weight = 0.5**level
        total = total + weight * _one_scale(scale.float(), _shrink(target, scale.shape[2:]), known)
        weight_sum += weight
    return total / weight_sum


def class_loss(
    logits: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    values: Mapping[str, Tensor] | None = None,
    *,
    smoothing: float = 0.05,
) -> Tensor | None:
    """Mean over heads (cross-entropy) and targets (Huber) of the samples whose answer is known; None when none is.

    Args:
        logits: (B, classes) by head, (B, 1) by target.
        target: (B,) int64 by head; MISSING_CLASS where the case's class is unknown.
        values: (B,) by target, standardised; NaN where the case's value is unknown. Beyond one standard deviation an
            error costs in proportion (Huber, Ann Math Stat 1964), so that no single case rules the head.
        smoothing: Label smoothing, which keeps small cohorts from overconfidence.
    """
    losses = [
        functional.cross_entropy(logits[head].float(), index, ignore_index=MISSING_CLASS, label_smoothing=smoothing)
        for head, index in target.items()
        if bool((index != MISSING_CLASS).any())
    ]
    for name, wanted in (values or {}).items():
        known = torch.isfinite(wanted)
        if bool(known.any()):
            losses.append(functional.huber_loss(logits[name].float()[known, 0], wanted[known].float()))
    return torch.stack(losses).mean() if losses else None


def _one_scale(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    log_p = functional.log_softmax(logits, dim=1)
    if not bool(known.all()):
        log_p = _merge_unknown(log_p, known)
    valid = target != IGNORE_INDEX
    index = torch.where(valid, target, 0).long().unsqueeze(1)
    # A mask may hold values of a label that its case does not vouch for.
    index = index * known.gather(1, index.flatten(1)).view_as(index)
    surprise, count = (log_p.gather(1, index).squeeze(1) * valid).sum(), valid.sum().float()
    overlap, size = _soft_overlap(log_p, index, valid)
    sums = total(torch.cat([surprise[None], count[None], overlap, size, known[:, 1:].sum(0).float()]))
    cross_entropy, (overlap, size, taught) = -sums[0] / sums[1].clamp(min=1), sums[2:].view(3, -1)
    dice = (2 * overlap + 1) / (size + 1)
    loss: Tensor = cross_entropy + 1 - (dice * (taught > 0)).sum() / (taught > 0).sum().clamp(min=1)
    return loss


def _soft_overlap(log_p: Tensor, index: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """(K - 1,) overlap and summed size of each label's probability and truth, over the batch as one volume."""
    probability = log_p.exp() * valid.unsqueeze(1)
    truth = torch.zeros_like(probability).scatter_(1, index, 1.0) * valid.unsqueeze(1)
    # Where a label was not annotated it has neither probability nor truth.
    axes = (0, 2, 3, 4)
    return (probability * truth).sum(axes)[1:], (probability + truth).sum(axes)[1:]


def _merge_unknown(log_p: Tensor, known: Tensor) -> Tensor:
    """Add unannotated labels' probability to the background and give them none of their own."""
    hidden = ~known
    hidden[:, 0] = True
    mask = hidden[:, :, None, None, None]
    background = torch.logsumexp(log_p.masked_fill(~mask, -1e4), dim=1, keepdim=True)
    return torch.cat([background, log_p.masked_fill(mask, -1e4)[:, 1:]], dim=1)


def _shrink(target: Tensor, shape: Sequence[int]) -> Tensor:
    if target.shape[1:] == torch.Size(shape):
        return target
    return (
        functional.interpolate(target.unsqueeze(1).float(), tuple(shape), mode="nearest-exact")
        .squeeze(1)
        .to(torch.uint8)
    )
