"""Every kind of network on its way through the verbs: trained, stopped, resumed, put together, asked."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from medseg.core.export import Tolerance
from medseg.core.plan import Plan
from medseg.core.settings import InferSettings, TrainSettings
from medseg.engine.exports import Exported, compare_case, export_member, export_script
from medseg.io.documents import read_document
from medseg.nn.build import build_network
from medseg.planning.network import Task, plan_step
from medseg.workflows.ensemble import ensemble
from medseg.workflows.infer import infer
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

PATCHES = {
    "swin-unetr": (64, 32, 32),
    "residual": (16, 16, 16),
    "segresnet": (16, 16, 16),
    "attention-unet": (16, 16, 16),
}
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
@pytest.mark.parametrize("form", ["onnx", "openvino", "torch-export", "monai-bundle"])
@pytest.mark.parametrize("kind", ["swin-unetr", "segresnet", "attention-unet", "residual"])
def test_every_network_is_exported_and_answers_alike(workspace, kind, form):
    for package in {"onnx": ["onnxruntime", "onnxscript"], "openvino": ["openvino", "onnxscript"]}.get(form, []):
        pytest.importorskip(package)
    plan = _small(read_document(workspace.store / "plan.json", Plan), kind)
    network = build_network(plan, seed=0).eval()
    with tempfile.TemporaryDirectory() as name:
        if form == "monai-bundle":
            part, segment = export_script([network], plan, Path(name, "model.ts"))
            exported = Exported((part,), segment, network)
        else:
            exported = export_member(network, plan, form, Path(name), member=1)
        image = torch.randn(1, *plan.patch_size, generator=torch.Generator().manual_seed(0))
        check = compare_case([network], exported, image, plan, member=1)
    assert check.relative_difference < Tolerance().relative_difference
    assert min(check.dice.values()) == pytest.approx(1, abs=1e-3)
