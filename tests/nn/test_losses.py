from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from medseg.core.plan import IGNORE_INDEX, MISSING_CLASS
from medseg.nn.losses import class_loss, segmentation_loss


def _column(rows):
    """Rows of per-voxel logits to (1, K, N, 1, 1)."""
    return torch.tensor(rows, dtype=torch.float64).T.reshape(1, len(rows[0]), len(rows), 1, 1).float()


def _target(*values):
    return torch.tensor(values, dtype=torch.uint8).reshape(1, len(values), 1, 1)


KNOWN = torch.ones(1, 2, dtype=torch.bool)


def test_two_voxels_by_hand():
    # Foreground probabilities 3/4 (a foreground voxel) and 1/5 (a background voxel).
    logits = _column([[0, math.log(3)], [math.log(4), 0]])
    cross_entropy = -(math.log(3 / 4) + math.log(4 / 5)) / 2
    dice = (2 * 3 / 4 + 1) / (3 / 4 + 1 / 5 + 1 + 1)
    assert segmentation_loss([logits], _target(1, 0), KNOWN).item() == pytest.approx(cross_entropy + 1 - dice)


def test_scales_weigh_one_half_quarter():
    fine, coarse = torch.randn(2, 3, 8, 8, 4), torch.randn(2, 3, 4, 4, 4)
    target = torch.randint(0, 3, (2, 8, 8, 4), dtype=torch.uint8)
    known = torch.ones(2, 3, dtype=torch.bool)
    shrunk = functional.interpolate(target[:, None].float(), (4, 4, 4), mode="nearest-exact")[:, 0].to(torch.uint8)
    alone = [segmentation_loss([fine], target, known), segmentation_loss([coarse], shrunk, known)]
    both = segmentation_loss([fine, coarse], target, known)
    torch.testing.assert_close(both, (alone[0] + alone[1] / 2) / 1.5)


def test_a_perfect_answer_is_near_nothing_and_a_wrong_one_is_not():
    target = torch.randint(0, 3, (2, 6, 6, 6), dtype=torch.uint8)
    logits = 20 * functional.one_hot(target.long(), 3).permute(0, 4, 1, 2, 3).float()
    known = torch.ones(2, 3, dtype=torch.bool)
    assert segmentation_loss([logits], target, known) < 1e-3
    assert segmentation_loss([logits.roll(1, 1)], target, known) > 10


def test_ignored_voxels_give_no_gradient_and_do_not_count():
    logits = torch.randn(1, 3, 4, 4, 4, requires_grad=True)
    target = torch.randint(0, 3, (1, 4, 4, 4), dtype=torch.uint8)
    target[:, :2] = IGNORE_INDEX
    known = torch.ones(1, 3, dtype=torch.bool)
    loss = segmentation_loss([logits], target, known)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[:, :, :2].abs().max() == 0
    assert gradient[:, :, 2:].abs().min() > 0
    torch.testing.assert_close(loss, segmentation_loss([logits[:, :, 2:]], target[:, 2:], known))


def test_nothing_but_ignored_voxels_is_finite_and_teaches_nothing():
    logits = torch.randn(1, 2, 3, 3, 3, requires_grad=True)
    loss = segmentation_loss([logits], torch.full((1, 3, 3, 3), IGNORE_INDEX, dtype=torch.uint8), KNOWN)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert bool(torch.isfinite(loss))
    assert gradient.abs().max() == 0


def test_an_unlabelled_organ_is_one_class_with_the_background():
    """Merging label 2 into the background by hand gives the same loss, and its gradient shared by probability."""
    logits = torch.randn(1, 3, 4, 3, 2, requires_grad=True)
    target = torch.randint(0, 2, (1, 4, 3, 2), dtype=torch.uint8)
    loss = segmentation_loss([logits], target, torch.tensor([[True, True, False]]))
    merged = torch.stack([torch.logsumexp(logits[:, [0, 2]], dim=1), logits[:, 1]], dim=1)
    by_hand = segmentation_loss([merged], target, KNOWN)
    torch.testing.assert_close(loss, by_hand)
    ours, theirs = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, by_hand))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    outside = (target == 0).unsqueeze(1)
    # In the background a larger logit of the hidden label lowers the loss: it is not taught as wrong.
    assert (ours[:, 2:3][outside] <= 1e-6).all()


def test_known_is_a_matter_of_each_sample():
    logits = torch.randn(2, 3, 4, 4, 4)
    target = torch.randint(0, 2, (2, 4, 4, 4), dtype=torch.uint8)
    hidden = torch.tensor([[True, True, True], [True, True, False]])
    full = segmentation_loss([logits], target, torch.ones(2, 3, dtype=torch.bool))
    assert segmentation_loss([logits], target, hidden) < full


def test_a_mask_value_that_its_case_does_not_vouch_for_counts_as_background():
    logits = torch.randn(1, 3, 4, 4, 4)
    target = torch.randint(0, 3, (1, 4, 4, 4), dtype=torch.uint8)
    known = torch.tensor([[True, True, False]])
    without = torch.where(target == 2, 0, target)
    torch.testing.assert_close(segmentation_loss([logits], target, known), segmentation_loss([logits], without, known))


def test_a_label_that_no_case_annotates_has_no_dice():
    """The mean is over the labels that are taught: a hidden third one leaves the loss of the other two."""
    logits = torch.randn(2, 3, 4, 4, 4)
    logits[:, 2] = -1e4
    target = torch.randint(0, 2, (2, 4, 4, 4), dtype=torch.uint8)
    known = torch.tensor([[True, True, False]] * 2)
    alone = segmentation_loss([logits[:, :2]], target, known[:, :2])
    torch.testing.assert_close(segmentation_loss([logits], target, known), alone)


def test_bf16_logits_are_taken_in_fp32():
    logits = torch.randn(1, 2, 8, 8, 8)
    target = torch.randint(0, 2, (1, 8, 8, 8), dtype=torch.uint8)
    loss = segmentation_loss([logits.bfloat16()], target, KNOWN)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, segmentation_loss([logits.bfloat16().float()], target, KNOWN))


def test_class_loss_by_hand():
    logits = {"grade": torch.tensor([[0, math.log(3)], [5.0, -5.0]])}
    target = {"grade": torch.tensor([1, MISSING_CLASS])}
    assert class_loss(logits, target, smoothing=0).item() == pytest.approx(-math.log(3 / 4))
    smoothed = -(0.95 * math.log(3 / 4) + 0.05 * (math.log(3 / 4) + math.log(1 / 4)) / 2)
    assert class_loss(logits, target).item() == pytest.approx(smoothed)


def test_class_loss_is_the_mean_over_the_heads_that_know_something():
    logits = {"a": torch.randn(2, 2), "b": torch.randn(2, 3), "c": torch.randn(2, 2)}
    missing = torch.full((2,), MISSING_CLASS)
    target = {"a": torch.tensor([0, 1]), "b": torch.tensor([2, MISSING_CLASS]), "c": missing}
    parts = [class_loss(logits, {head: target[head]}) for head in ("a", "b")]
    torch.testing.assert_close(class_loss(logits, target), torch.stack(parts).mean())
    assert class_loss(logits, {"a": missing, "c": missing}) is None


def test_values_cost_by_huber_and_unknown_ones_nothing():
    answers = {"age": torch.tensor([[0.5], [3.0], [9.0]])}
    wanted = {"age": torch.tensor([0.0, 1.0, math.nan])}
    # Half the square within one standard deviation, in proportion beyond: 0.125 and 2 - 0.5.
    assert class_loss(answers, {}, wanted).item() == pytest.approx((0.125 + 1.5) / 2)
    assert class_loss(answers, {}, {"age": torch.full((3,), math.nan)}) is None
    logits = {"a": torch.zeros(3, 2), **answers}
    both = class_loss(logits, {"a": torch.tensor([0, 1, 1])}, wanted)
    assert both.item() == pytest.approx((math.log(2) + 0.8125) / 2)
