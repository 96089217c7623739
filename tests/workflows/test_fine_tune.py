from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file

from medseg.core.errors import ModelError, UsageError
from medseg.core.settings import TrainSettings
from medseg.core.transfer import Transfer
from medseg.engine.journal import LOG, read_log
from medseg.io.bundle import read_bundle
from medseg.io.documents import read_document
from medseg.nn.transfer import is_encoder
from medseg.workflows.ensemble import ensemble
from medseg.workflows.fine_tune import REPORT, start_from
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace


@pytest.fixture(scope="module")
def tuned(workspace: Workspace):
    """One epoch that starts with the model of the workspace and holds its encoder."""
    source = read_bundle(workspace.runs / "main" / "bundle")
    settings = TrainSettings(epochs=1, warmup_steps=1, init_from=source.folder, freeze_encoder=1.0, device="cpu")
    return source, settings, train(workspace, settings, name="tuned")


def test_step_0_scores_what_the_source_scores(workspace, tuned):
    source, _, made = tuned
    first = next(line for line in read_log(workspace.runs / "tuned" / LOG) if line["kind"] in {"step", "validation"})
    assert (first["kind"], first["step"]) == ("validation", 0)
    dice = {name: value for name, value in source.manifest.validation.items() if name.startswith("dice")}
    assert dice
    assert {name: first[name] for name in dice} == pytest.approx(dice, abs=1e-6)
    assert made.transfer.counts()["loaded"] == len(source.weights[0])


def test_a_held_encoder_stays_as_it_was_and_the_rest_learns(tuned):
    source, _, made = tuned
    weights = load_file(made.bundle / "weights.safetensors")
    moved = {name for name, value in weights.items() if (value != source.weights[0][name]).any()}
    assert moved
    assert not any(is_encoder(name) for name in moved)


def test_the_report_is_kept_and_the_source_belongs_to_the_training(workspace, tuned):
    _, settings, made = tuned
    kept = read_document(workspace.runs / "tuned" / REPORT, Transfer)
    assert kept == made.transfer
    assert (kept.left, kept.differences) == ((), ())
    assert train(workspace, settings, name="tuned").was_done
    longer = settings.model_copy(update={"init_from": None, "freeze_encoder": 0.0, "epochs": 2})
    with pytest.raises(UsageError, match="weights to start with was removed") as caught:
        train(workspace, longer, name="tuned")
    assert caught.value.code == "E-RESUME"


def test_a_network_of_another_kind_is_refused_and_other_plans_are_told(workspace):
    source = workspace.runs / "main" / "bundle"
    plan = read_bundle(source).plan
    other = plan.model_copy(update={"network": plan.network.model_copy(update={"kind": "residual"})})
    with pytest.raises(ModelError, match="no layer of its encoder fits this network: it is plain") as caught:
        start_from(source, other, seed=0)
    assert caught.value.code == "E-INIT-FROM"
    brighter = (plan.normalisation[0].model_copy(update={"mean": 1 / 3}),)
    other = plan.model_copy(update={"spacing_mm": (1.0, 1.0, 2.0), "normalisation": brighter})
    spacing, intensities = start_from(source, other, seed=0)[1].differences
    assert spacing == "spacing_mm was 5, 5, 6, is 1, 1, 2"
    assert "is scheme fixed, " in intensities
    assert ", mean 0.333333, std " in intensities


def test_an_ensemble_is_no_start(workspace, tmp_path):
    source = workspace.runs / "main" / "bundle"
    second = shutil.copytree(source, tmp_path / "second")
    ensemble([source, second], tmp_path / "both", name="both")
    with pytest.raises(ModelError, match="ensemble of 2") as caught:
        start_from(tmp_path / "both", read_bundle(source).plan, seed=0)
    assert caught.value.code == "E-INIT-FROM"


def test_holding_an_encoder_of_random_weights_is_refused():
    with pytest.raises(UsageError, match="freeze_encoder needs init_from"):
        TrainSettings.parse(json.loads('{"epochs": 1, "freeze_encoder": 0.5}'))
