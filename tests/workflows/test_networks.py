"""Every kind of network on its way through the verbs: trained, stopped, resumed, put together, asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medseg.core.plan import Plan
from medseg.core.settings import InferSettings, TrainSettings
from medseg.engine.exports import export_member
from medseg.engine.predict import load_networks
from medseg.io.bundle import read_bundle
from medseg.io.documents import read_document
from medseg.planning.network import Task, plan_step
from medseg.workflows.ensemble import ensemble
from medseg.workflows.infer import infer
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

PATCHES = {"swin-unetr": (64, 32, 32), "segresnet": (16, 16, 16), "attention-unet": (16, 16, 16)}
SETTINGS = TrainSettings(epochs=1, warmup_steps=1, device="cpu", batch_size=2)


def _small(plan: Plan, kind: str) -> Plan:
    task = Task(PATCHES[kind], plan.spacing_mm, num_channels=1, num_outputs=plan.num_outputs, num_cases=2)
    step = plan_step(task, kind, "cpu", patch_size=PATCHES[kind])
    width = {"swin-unetr": 12}.get(kind, 4)
    features = tuple(max(1, size * width // step.network.features[0]) for size in step.network.features)
    network = step.network.model_copy(update={"features": features, "blocks": (1,) * len(features)})
    return plan.model_copy(update={"network": network, "patch_size": PATCHES[kind], "batch_size": 2})


@pytest.mark.parametrize("kind", [pytest.param("swin-unetr", marks=pytest.mark.slow), "segresnet", "attention-unet"])
def test_a_network_of_monai_trains_resumes_joins_an_ensemble_and_infers(workspace, cohort, tmp_path, kind):
    place = Workspace(tmp_path)
    shutil.copytree(workspace.store, place.store)
    plan = _small(read_document(place.store / "plan.json", Plan), kind)
    (place.store / "plan.json").write_text(plan.to_json())

    def stop(_status):
        (place.runs / "main" / "stop").touch()

    assert not train(place, SETTINGS, watch=stop).finished
    (place.runs / "main" / "stop").unlink(missing_ok=True)
    trained = train(place, SETTINGS)
    assert trained.finished
    assert 0 <= trained.validation["dice"] <= 1
    both = tmp_path / "both"
    ensemble([trained.bundle, trained.bundle], both)
    image = next(Path(cohort.parent).rglob("*phantom_000*.nii.gz"))
    found = infer(both, tmp_path / "out", InferSettings(device="cpu", overlap=0.0), volumes=[image])
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1
    assert not found.failures


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segresnet", "attention-unet"])
def test_a_network_of_monai_is_exported(workspace, tmp_path, kind):
    pytest.importorskip("onnxruntime")
    place = Workspace(tmp_path)
    shutil.copytree(workspace.store, place.store)
    plan = _small(read_document(place.store / "plan.json", Plan), kind)
    (place.store / "plan.json").write_text(plan.to_json())
    bundle = read_bundle(train(place, SETTINGS).bundle)
    (tmp_path / "onnx").mkdir()
    exported = export_member(load_networks(bundle)[0], bundle.plan, "onnx", tmp_path / "onnx", member=1)
    assert exported.segment is not None
