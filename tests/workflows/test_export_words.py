"""The words that go with an exported model: what its files do not do."""

from __future__ import annotations

from medseg.core.answering import Answering, Cleanup
from medseg.io.bundle import read_bundle
from medseg.workflows.export_words import how_to_run, left_out


def test_averaging_calibration_and_cleaning_are_said(workspace):
    plan = read_bundle(workspace.newest_bundle()).plan
    answering = Answering(
        combine="probabilities",
        temperatures={"lesion_type": 1.5},
        cleanup={"organ": Cleanup(keep_largest=True), "lesion": Cleanup(min_volume_ml=0.1)},
    )
    steps = " | ".join(how_to_run(plan, "onnx", num_members=5, answering=answering))
    assert "mean of the 5 members' probabilities, and its logarithm as logits" in steps
    assert "class probabilities of lesion_type to the power 1/1.5000" in steps
    assert "of organ, largest part only" in steps
    assert "of lesion, parts under 0.1 ml removed" in steps
    assert "mean of the 2 members' logits" in " ".join(how_to_run(plan, "onnx", num_members=2, answering=Answering()))
    missing = left_out(plan, "monai-bundle", answering=answering)
    assert "cleaning of organ: largest part only (26-connected)" in missing
    assert not any("cleaning" in words for words in left_out(plan, "onnx", answering=answering))
