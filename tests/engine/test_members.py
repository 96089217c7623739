"""Mirrored copies of a case, averaged."""

from __future__ import annotations

import torch

from medseg.core.plan import Plan
from medseg.data.store import open_store
from medseg.engine.members import mirrored


def test_a_left_right_copy_answers_with_the_labels_of_a_pair_exchanged(workspace):
    """A network that tells left from right answers a mirrored copy with the other label: the mean is its answer."""
    changed = {"labels": {"left kidney": 1, "right kidney": 2, "liver": 3}, "classification": None}
    changed |= {"mirror_axes": (0, 2), "left_right_pairs": [("left kidney", "right kidney")]}
    plan = Plan.model_validate({**open_store(workspace.store).plan.model_dump(), **changed})
    is_left = (torch.arange(8) < 4).reshape(1, 8, 1, 1)

    def segment(windows):
        bright = windows[:, 0]
        return torch.stack([1 - bright, bright * is_left, bright * ~is_left, bright / 2], dim=1)

    windows = torch.rand((2, 1, 8, 6, 4), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mirrored(segment, plan)(windows), segment(windows))
    unpaired = plan.model_copy(update={"left_right_pairs": ()})
    assert (mirrored(segment, unpaired)(windows) - segment(windows)).abs().max() > 0.1
