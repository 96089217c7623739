"""Cohorts as they are: missing channels, partial labels, ignored voxels, tiny cases beside a huge one, rare labels."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medseg.apps.cli import app
from medseg.core.errors import ModelError, UsageError
from medseg.core.settings import InferSettings, PreprocessSettings, TrainSettings
from medseg.data.patches import PatchSampler
from medseg.data.store import open_store
from medseg.engine.predict import Predictor
from medseg.io.bundle import read_bundle
from medseg.workflows.infer import infer
from medseg.workflows.inputs import collect_inputs
from medseg.workflows.preprocess import preprocess
from medseg.workflows.train import train
from medseg.workflows.workspace import Workspace

AFFINE = np.array([[0.9, 0.1, 0, -30], [-0.1, 0.9, 0, 12], [0, 0, 1.2, 5], [0, 0, 0, 1.0]])
SHAPES = {
    "tiny": (7, 6, 5),
    "huge": (50, 46, 44),
    "a": (20, 18, 16),
    "b": (20, 18, 16),
    "c": (22, 20, 18),
    "d": (20, 20, 20),
}
RARE = 10_000


def _write(folder, name, shape, seed):
    """Two channels that show an organ; its lesion, one voxel in ten thousand of the huge case, is bright in both."""
    random = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    middle = [size // 2 for size in shape]
    mask[tuple(slice(centre - centre // 2, centre + centre // 2 + 1) for centre in middle)] = 1
    side = max(1, round((np.prod(shape) / RARE) ** (1 / 3)))
    mask[tuple(slice(centre, centre + side) for centre in middle)] = 2
    mask[0, 0] = 9
    for channel, gain in enumerate((1.0, -0.5)):
        image = 50 + 20 * gain * (mask == 1) + 60 * (mask == 2) + random.normal(0, 3, shape)
        nib.save(nib.Nifti1Image(image.astype(np.float32), AFFINE), folder / f"{name}_{channel}.nii.gz")
    nib.save(nib.Nifti1Image(mask, AFFINE), folder / f"{name}_mask.nii.gz")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hard")
    cases = []
    for seed, (name, shape) in enumerate(SHAPES.items()):
        _write(folder, name, shape, seed)
        images = [f"{name}_0.nii.gz", None if name == "a" else f"{name}_1.nii.gz"]
        case = {
            "id": name,
            "images": images,
            "label": f"{name}_mask.nii.gz",
            "split": "val" if name == "d" else "train",
        }
        cases.append({**case, **({"labelled": ["organ"]} if name == "b" else {})})
    values = {"name": "hard", "channels": ["MRI", "PET"], "labels": {"organ": 1, "lesion": 2}, "ignore_value": 9}
    (folder / "hard.json").write_text(json.dumps({**values, "cases": cases}))
    return folder / "hard.json"


@pytest.fixture(scope="module")
def place(manifest, tmp_path_factory):
    place = Workspace(tmp_path_factory.mktemp("work"))
    wish = PreprocessSettings(manifest=manifest, patch_size=(16, 16, 16), spacing_mm=(1.0, 1.0, 1.2), target="cpu")
    preprocess(place, wish)
    train(place, TrainSettings(epochs=1, warmup_steps=1, channel_dropout=0.3, batch_size=2, device="cpu"))
    return place


def test_every_case_is_stored_and_a_missing_channel_is_average(place):
    store = open_store(place.store)
    assert {case.id for case in store.index.cases} == set(SHAPES)
    assert store.index.failures == ()
    lacking = store.load("a")
    assert lacking.entry.missing == (1,)
    assert lacking.image[1].count_nonzero() == 0
    assert lacking.image[0].count_nonzero() > 0
    assert store.load("b").entry.known == (True, True, False)
    channels = store.fingerprint().channels
    assert all(np.isfinite([channel.mean, channel.std]).all() for channel in channels)


def test_a_channel_is_not_measured_where_it_is_missing(place):
    """In the second channel the organ is darker than its surroundings: zeros of the case without it would show."""
    fingerprint = open_store(place.store).fingerprint()
    assert fingerprint.channels[1].minimum > 20
    rows = {case.id: case.intensities for case in fingerprint.cases}
    assert np.isnan(rows["a"][1]).all()
    assert np.isfinite(rows["b"][1]).all()


def test_each_label_is_seen_though_it_is_rare_and_its_case_huge(place):
    store = open_store(place.store)
    plan = store.plan.model_copy(update={"batch_size": 4})
    huge = store.load("huge")
    assert (huge.labels == 2).sum() < 3 * huge.labels.numel() / RARE
    sampler = PatchSampler([store.load(case) for case in SHAPES if case != "d"], plan, seed=0)
    batches = [sampler.batch(step) for step in range(15)]
    shown = torch.cat([(batch.labels == 2).flatten(1).any(1) & batch.known[:, 2] for batch in batches])
    assert shown.float().mean() > 0.15
    assert {case for batch in batches for case in batch.cases} == set(SHAPES) - {"d"}
    assert any(bool((batch.labels == 255).any()) for batch in batches)


def test_dropped_channels_are_zero_and_one_always_stays(place):
    store = open_store(place.store)
    cases = [store.load(case) for case in ("a", "b", "c")]
    plan = store.plan.model_copy(update={"batch_size": 3})
    lost = [
        ((batch := PatchSampler(cases, plan, seed=1, channel_dropout=0.6).batch(step)).image == 0).flatten(2).all(2)
        for step in range(20)
    ]
    assert batch.image.shape[:2] == (3, 2)
    lost = torch.cat(lost)
    assert not lost.all(1).any()
    assert 0.3 < lost.any(1).float().mean() < 1


def test_a_model_that_was_trained_without_a_channel_takes_cases_without_it(place, manifest, tmp_path):
    bundle = place.runs / "main" / "bundle"
    assert read_bundle(bundle).manifest.optional_channels == (0, 1)
    made = infer(bundle, tmp_path / "out", InferSettings(device="cpu"), folder=manifest)
    assert made.failures == ()
    assert {prediction.case for prediction in made.predictions} == set(SHAPES)
    files = [manifest.parent / "c_0.nii.gz", None]
    assert Predictor(bundle, InferSettings(device="cpu")).predict(files).labels.array.shape == SHAPES["c"]


def test_at_the_command_line_none_stands_for_a_missing_channel(place, manifest, tmp_path):
    """The answer is that of the same gap in Python, with the place of the channel kept."""
    bundle, cli = place.runs / "main" / "bundle", CliRunner()
    command = ["infer", "--bundle", str(bundle), "--device", "cpu", "--no-amp", "--workspace", str(place.folder)]
    for gap in (0, 1):
        files = [str(manifest.parent / "c_0.nii.gz"), str(manifest.parent / "c_1.nii.gz")]
        case, files[gap] = f"c_{1 - gap}", "none"
        given = [word for file in files for word in ("--volume", file)]
        made = cli.invoke(app, [*command, *given, "--out", str(tmp_path / case)])
        assert made.exit_code == 0, made.output
        images = [None if file == "none" else file for file in files]
        expected = Predictor(bundle, InferSettings(device="cpu", amp=False)).predict(images).labels.array
        found = np.asanyarray(nib.load(tmp_path / case / f"{case}.nii.gz").dataobj)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("volumes", [["none"], ["none", "none"], ["c_0.nii.gz", "none", "c_1.nii.gz"]])
def test_none_where_it_says_nothing_is_refused(manifest, volumes):
    files = [Path(name) if name == "none" else manifest.parent / name for name in volumes]
    with pytest.raises(UsageError, match="none stands for a missing channel") as caught:
        collect_inputs(files, None, num_channels=2)
    assert caught.value.code == "E-CHANNELS"


def test_any_other_model_refuses_them(place, manifest, tmp_path):
    train(place, TrainSettings(epochs=1, warmup_steps=1, batch_size=2, device="cpu"), name="strict")
    bundle = read_bundle(place.runs / "strict" / "bundle")
    assert bundle.manifest.optional_channels == (1,)  # case a lacked it
    with pytest.raises(ModelError, match="lacks MRI") as caught:
        Predictor(bundle, InferSettings(device="cpu")).predict([None, manifest.parent / "c_1.nii.gz"])
    assert caught.value.code == "E-CHANNEL-MISSING"
