"""Several bundles as one."""

from __future__ import annotations

import pytest
import torch

from medseg.core.errors import MedsegError
from medseg.core.settings import InferSettings
from medseg.engine.predict import Predictor
from medseg.io.bundle import read_bundle, write_bundle
from medseg.io.volumes import read_volume
from medseg.ops.prepare import to_network
from medseg.workflows.ensemble import ensemble


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
        run, _ = predictor._start(to_network(volume, bundle.plan))
        with torch.inference_mode():
            answers.append(torch.cat(list(run.slabs()), dim=1))
    torch.testing.assert_close(answers[2], (answers[0] + answers[1]) / 2, rtol=1e-4, atol=1e-4)
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
