"""Several bundles as one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.core.answering import Answering
from medseg.core.errors import MedsegError
from medseg.core.settings import InferSettings
from medseg.engine.predict import Predictor
from medseg.engine.thrift import Thrift
from medseg.io.bundle import read_bundle, write_bundle
from medseg.io.volumes import read_volume
from medseg.nn.build import build_network
from medseg.ops.prepare import to_network
from medseg.workflows.ensemble import ensemble
from medseg.workflows.infer import infer


def _variant(bundle, folder, *, shift, plan=None):
    weights = [{name: value + shift for name, value in bundle.weights[0].items()}]
    write_bundle(folder, bundle.manifest, plan or bundle.plan, weights=weights, metrics="{}\n", card="")
    return folder


def test_two_equal_members_answer_as_one(workspace, cohort, tmp_path):
    bundle = workspace.newest_bundle()
    made = ensemble([bundle, bundle], tmp_path / "both")
    volume = read_volume(next((cohort.parent / "images").glob("*.nii.gz")))
    settings = InferSettings(amp=False)
    alone = Predictor(read_bundle(bundle), settings).predict(volume)
    both = Predictor(read_bundle(tmp_path / "both"), settings).predict(volume)
    assert alone.labels is not None
    assert both.labels is not None
    assert (both.labels.array == alone.labels.array).all()
    assert both.classes["lesion_type"] == pytest.approx(alone.classes["lesion_type"], abs=1e-6)
    assert sum(name.endswith(".safetensors") for name in made.sha256) == 2


def test_members_are_averaged(workspace, cohort, tmp_path):
    bundle = read_bundle(workspace.newest_bundle())
    members = [_variant(bundle, tmp_path / f"m{n}", shift=0.002 * n) for n in range(2)]
    ensemble(members, tmp_path / "both")
    volume = read_volume(next((cohort.parent / "images").glob("*.nii.gz")))
    answers = []
    for folder in (*members, tmp_path / "both"):
        predictor = Predictor(read_bundle(folder), InferSettings(amp=False))
        run = predictor._start(to_network(volume, bundle.plan), Thrift.NONE)[0]
        with torch.inference_mode():
            answers.append(torch.cat(list(run.slabs(predictor.bundle.manifest.answering.combine)), dim=1))
    expected = (answers[0].softmax(0) + answers[1].softmax(0)) / 2
    torch.testing.assert_close(answers[2].softmax(0), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(answers[0], answers[1], atol=1e-3)


def test_one_member_or_another_plan_is_refused(workspace, tmp_path):
    bundle = read_bundle(workspace.newest_bundle())
    with pytest.raises(MedsegError, match="at least two") as caught:
        ensemble([bundle.folder], tmp_path / "both")
    assert (caught.value.code, caught.value.exit_code) == ("E-ENSEMBLE", 2)
    other = _variant(
        bundle, tmp_path / "other", shift=0, plan=bundle.plan.model_copy(update={"spacing_mm": (9.0, 9.0, 9.0)})
    )
    with pytest.raises(MedsegError, match="plan is not that") as caught:
        ensemble([bundle.folder, other], tmp_path / "both")
    assert (caught.value.code, caught.value.exit_code) == ("E-ENSEMBLE", 5)
    assert not (tmp_path / "both").exists()


def test_members_may_have_different_networks(workspace, cohort, tmp_path):
    bundle = read_bundle(workspace.newest_bundle())
    small = bundle.plan.network.model_copy(update={"features": tuple(n // 2 for n in bundle.plan.network.features)})
    plan = bundle.plan.model_copy(update={"network": small, "batch_size": 7})
    torch.manual_seed(0)
    weights = [build_network(plan).state_dict()]
    other = tmp_path / "other"
    write_bundle(other, bundle.manifest, plan, weights=weights, metrics="{}\n", card="")
    made = ensemble([bundle.folder, other], tmp_path / "both", name="mixed")
    assert made.networks == (bundle.plan.network, small)
    assert made.name.endswith("-mixed")
    image = next((cohort.parent / "images").glob("*.nii.gz"))
    prepared = to_network(read_volume(image), plan)
    answers = []
    for folder in (bundle.folder, other, tmp_path / "both"):
        predictor = Predictor(folder, InferSettings(amp=False))
        run = predictor._start(prepared, Thrift.NONE)[0]
        with torch.inference_mode():
            answers.append(torch.cat(list(run.slabs(predictor.bundle.manifest.answering.combine)), dim=1).softmax(0))
    torch.testing.assert_close(answers[2], (answers[0] + answers[1]) / 2, rtol=1e-4, atol=1e-5)


def test_temperatures_make_the_diagnosis_less_sure_and_results_new(workspace, cohort, tmp_path):
    bundle, image = workspace.newest_bundle(), next((cohort.parent / "images").glob("*.nii.gz"))
    sober = Answering(combine="probabilities", temperatures={"lesion_type": 2.0})
    ensemble([bundle, bundle], tmp_path / "raw")
    ensemble([bundle, bundle], tmp_path / "sober", answering=sober)
    raw, calm = (
        infer(tmp_path / name, tmp_path / "out", InferSettings(amp=False), volumes=[image]).predictions[0]
        for name in ("raw", "sober")
    )
    found = np.array([*raw.classes[0].probabilities.values()])
    expected = np.sqrt(found) / np.sqrt(found).sum()
    assert [*calm.classes[0].probabilities.values()] == pytest.approx(expected, abs=1e-6)
    assert raw.mask_sha256 == calm.mask_sha256
    assert "lesion_type" in str(calm.provenance.settings["answering"])


def test_members_keep_what_they_share(workspace, tmp_path):
    bundle = workspace.newest_bundle()
    sober = Answering(combine="probabilities", temperatures={"lesion_type": 2.0})
    for name in ("a", "b"):
        ensemble([bundle, bundle], tmp_path / name, answering=sober)
    assert ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "four").answering == sober
    assert ensemble([tmp_path / "a", bundle], tmp_path / "three").answering == Answering(combine="probabilities")


def test_a_damaged_member_is_noticed(workspace, tmp_path):
    bundle = workspace.newest_bundle()
    ensemble([bundle, bundle], tmp_path / "both")
    second = tmp_path / "both" / "weights-2.safetensors"
    content = bytearray(second.read_bytes())
    content[-1] ^= 1
    second.write_bytes(content)
    with pytest.raises(MedsegError) as caught:
        read_bundle(tmp_path / "both")
    assert caught.value.code == "E-HASH"
