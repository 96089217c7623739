"""The rule has a reason for every answer."""

from __future__ import annotations

import pytest

from medseg.data.store import open_store
from medseg.planning.skipping import decide_skipping


@pytest.mark.parametrize(
    ("changes", "facts", "may", "word"),
    [
        ({}, {"losing": (), "num_checked": 3, "has_air": True}, True, "all 3"),
        ({}, {"losing": ("b",), "num_checked": 3, "has_air": True}, False, "1 of 3"),
        ({}, {"losing": (), "num_checked": 0, "has_air": True}, False, "no training case"),
        ({}, {"losing": (), "num_checked": 3, "has_air": False}, False, "no value"),
        ({"labels": {}}, {"losing": (), "num_checked": 3, "has_air": True}, False, "no training case"),
        ({"patch_size": (1, 8, 8)}, {"losing": (), "num_checked": 3, "has_air": True}, False, "one voxel"),
    ],
)
def test_skipping_needs_air_labels_and_no_loss(workspace, changes, facts, may, word):
    plan = open_store(workspace.store).plan.model_copy(update=changes)
    made = decide_skipping(plan, **facts)
    assert made.skip_constant_windows is may
    assert word in made.decisions[-1].reason
