from __future__ import annotations

import pytest

from medseg.core.errors import UsageError
from medseg.core.plan import Plan

VALUES = {
    "dataset": "d",
    "channels": ["CT"],
    "labels": {"tumour": 9, "left kidney": 2, "right kidney": 300},
    "spacing_mm": [1, 1, 2],
    "crop": "none",
    "normalisation": [{"scheme": "per_image"}],
    "coarse_axis": None,
    "patch_size": [32, 32, 16],
    "batch_size": 2,
    "mirror_axes": [0],
    "left_right_pairs": [["left kidney", "right kidney"]],
    "network": {
        "features": [8, 16],
        "strides": [[1, 1, 1], [2, 2, 1]],
        "kernels": [[3, 3, 1], [3, 3, 3]],
        "blocks": [2, 2],
    },
    "classification": {"heads": {"grade": ["low", "high"]}, "view": "foreground", "pool_labels": ["tumour"]},
}


def test_network_indices_follow_the_values():
    plan = Plan.parse(VALUES)
    assert plan.label_names == ("left kidney", "tumour", "right kidney")
    assert plan.num_outputs == 4
    assert Plan.parse({**VALUES, "labels": {}, "left_right_pairs": [], "classification": None}).num_outputs == 0


def test_json_round_trip():
    plan = Plan.parse(VALUES)
    assert Plan.model_validate_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"normalisation": []}, "one entry per channel"),
        ({"spacing_mm": [1, 0, 2]}, "must be positive"),
        ({"patch_size": [32, 0, 16]}, "must be positive"),
        ({"mirror_axes": [3]}, "axes 0, 1 or 2"),
        ({"coarse_axis": -1}, "axes 0, 1 or 2"),
        ({"left_right_pairs": [["left kidney", "right lung"]]}, "must name labels, got right lung"),
        ({"classification": {**VALUES["classification"], "pool_labels": ["cyst"]}}, "must name labels, got cyst"),
        ({"network": {**VALUES["network"], "blocks": [2]}}, "one entry per stage"),
        ({"network": {**VALUES["network"], "blocks": [2, 0]}}, "must be positive"),
        ({"network": {**VALUES["network"], "strides": [[2, 1, 1], [2, 2, 1]]}}, r"the first stride \(1, 1, 1\)"),
        ({"network": {**VALUES["network"], "kernels": [[3, 3, 2], [3, 3, 3]]}}, "kernels must be odd"),
        ({"batch_size": 0}, "batch_size"),
        ({"schema_version": 2}, "schema_version"),
    ],
)
def test_an_edit_by_hand_that_cannot_work_is_refused(edit, words):
    with pytest.raises(UsageError, match=words):
        Plan.parse({**VALUES, **edit})
