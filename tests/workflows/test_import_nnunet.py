"""Models in nnU-Net's own layout, made here with networks written after its description, taken over and compared."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medseg.core.errors import MedsegError
from medseg.core.geometry import Geometry
from medseg.core.settings import InferSettings
from medseg.core.volume import Volume
from medseg.engine.predict import Predictor
from medseg.io.bundle import read_bundle
from medseg.nn.build import build_network
from medseg.workflows.import_nnunet import import_nnunet

FEATURES, STRIDES = (4, 6, 8), ((1, 1, 1), (1, 2, 2), (2, 2, 1))
KERNELS = ((1, 3, 3), (3, 3, 3), (3, 3, 1))
AFFINE = np.array([[-0.8, 0, 0, 12], [0, -0.8, 0, 7], [0, 0, 2.5, -30], [0, 0, 0, 1]], dtype=float)


class Block(nn.Module):
    """One convolution with its norm, under nnU-Net's names (twice, as there)."""

    def __init__(self, inputs, outputs, kernel, stride=(1, 1, 1), *, bias=True, active=True):
        super().__init__()
        padding = [(size - 1) // 2 for size in kernel]
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=bias)
        self.norm = nn.InstanceNorm3d(outputs, eps=1e-5, affine=True)
        self.active = active
        self.all_modules = nn.Sequential(self.conv, self.norm)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return nn.functional.leaky_relu(x, 0.01) if self.active else x


class Stack(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.convs = nn.Sequential(*blocks)

    def forward(self, x):
        return self.convs(x)


class Residual(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride):
        super().__init__()
        self.conv1 = Block(inputs, outputs, kernel, stride)
        self.conv2 = Block(outputs, outputs, kernel, active=False)
        steps = [nn.AvgPool3d(stride, stride)] if max(stride) > 1 else []
        if inputs != outputs:
            steps.append(Block(inputs, outputs, (1, 1, 1), bias=False, active=False))
        self.skip = nn.Sequential(*steps)

    def forward(self, x):
        return nn.functional.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x), 0.01)


class ResidualStage(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x):
        return self.blocks(x)


class Foreign(nn.Module):
    """nnU-Net's network, as its plans describe it: (B, C, Z, Y, X) to (B, K, Z, Y, X)."""

    def __init__(self, channels, outputs, *, residual):
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        stages, features = [], channels
        if residual:
            self.encoder.stem = Stack(Block(channels, FEATURES[0], KERNELS[0]))
            features = FEATURES[0]
        for width, stride, kernel in zip(FEATURES, STRIDES, KERNELS, strict=True):
            if residual:
                blocks = [Residual(features, width, kernel, stride), Residual(width, width, kernel, (1, 1, 1))]
                stages.append(ResidualStage(*blocks))
            else:
                stages.append(nn.Sequential(Stack(Block(features, width, kernel, stride), Block(width, width, kernel))))
            features = width
        self.encoder.stages = nn.Sequential(*stages)
        self.decoder.encoder = self.encoder
        ups, blocks, heads = [], [], []
        for level in (1, 0):
            fine, stride = FEATURES[level], STRIDES[level + 1]
            ups.append(nn.ConvTranspose3d(FEATURES[level + 1], fine, stride, stride))
            inputs = [2 * fine] if residual else [2 * fine, fine]
            blocks.append(Stack(*(Block(n, fine, KERNELS[level]) for n in inputs)))
            heads.append(nn.Conv3d(fine, outputs, 1))
        self.decoder.transpconvs = nn.ModuleList(ups)
        self.decoder.stages = nn.ModuleList(blocks)
        self.decoder.seg_layers = nn.ModuleList(heads)
        for name, parameter in self.named_parameters():
            nn.init.normal_(parameter, mean=float(name.endswith("norm.weight")), std=0.3)
        nn.init.zeros_(heads[-1].bias)

    def forward(self, x):
        if hasattr(self.encoder, "stem"):
            x = self.encoder.stem(x)
        skips = []
        for stage in self.encoder.stages:
            x = stage(x)
            skips.append(x)
        for level, (up, block) in enumerate(zip(self.decoder.transpconvs, self.decoder.stages, strict=True)):
            x = block(torch.cat([up(x), skips[-2 - level]], 1))
        return self.decoder.seg_layers[-1](x)


def plans(*, residual=False, transpose=(0, 1, 2), **changes):
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    keyed = {"n_blocks_per_stage": [2, 2, 2]} if residual else {"n_conv_per_stage": [2, 2, 2]}
    resample = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    configuration = {
        "batch_size": 2,
        "patch_size": [8, 16, 12],
        "spacing": [2.5, 0.8, 0.8],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**resample, "order": 3},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**resample, "order": 1},
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": list(FEATURES),
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [list(kernel) for kernel in KERNELS],
                "strides": [list(stride) for stride in STRIDES],
                "n_conv_per_stage_decoder": [1, 1] if residual else [2, 2],
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
                **keyed,
            },
        },
        **changes,
    }
    return {
        "dataset_name": "Dataset007_Test",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "configurations": {"3d_fullres": configuration, "3d_small": {"inherits_from": "3d_fullres"}},
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 40.0, "std": 90.0, "percentile_00_5": -300.0, "percentile_99_5": 400.0, "median": 1, "min": 0}
        },
    }


def write(folder: Path, values, *, networks=(), labels=None, order=None, **checkpoint) -> Path:
    folder.mkdir()
    labels = labels or {"background": 0, "liver": 1, "tumour": 2}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 12, "file_ending": ".nii.gz"}
    if order:
        dataset["regions_class_order"] = order
    (folder / "plans.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    for fold, network in enumerate(networks):
        (folder / f"fold_{fold}").mkdir()
        content = {
            "network_weights": network.state_dict(),
            "optimizer_state": {"state": {}},
            "logging": {"train_losses": [np.float64(0.5), np.float32(0.25)]},
            "_best_ema": np.float64(0.8),
            "init_args": {"configuration": "3d_fullres", "device": torch.device("cpu")},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 2),
            **checkpoint,
        }
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


@pytest.fixture
def scan():
    array = np.random.default_rng(1).normal(50, 200, (1, 20, 25, 11)).astype(np.float32)
    return Volume(array, Geometry(array.shape[1:], AFFINE))


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_network_answers_as_the_foreign_one(tmp_path, residual, transpose):
    torch.manual_seed(0)
    foreign = Foreign(1, 3, residual=residual).eval()
    made = import_nnunet(
        write(tmp_path / "m", plans(residual=residual, transpose=transpose), networks=[foreign]), tmp_path / "b"
    )
    bundle = read_bundle(tmp_path / "b")
    network = build_network(bundle.plan).eval()
    network.load_state_dict(bundle.weights[0])
    zyx = torch.randn(2, 1, 8, 16, 12).permute(0, 1, *(2 + np.argsort(transpose)))
    with torch.inference_mode():
        expected = foreign(zyx.permute(0, 1, *(2 + axis for axis in transpose)))
        found = network(zyx.permute(0, 1, 4, 3, 2)).logits[0].permute(0, 1, 4, 3, 2)
    expected = expected.permute(0, 1, *(2 + np.argsort(transpose)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert made.labels == {"liver": 1, "tumour": 2}


def test_the_plan_is_theirs_in_our_axes(tmp_path):
    write(tmp_path / "m", plans(transpose=(2, 0, 1)), networks=[Foreign(1, 3, residual=False)])
    import_nnunet(tmp_path / "m", tmp_path / "b")
    plan = read_bundle(tmp_path / "b").plan
    assert plan.blending == "nnunet"
    # their axes are x, z, y: ours 0, 2, 1
    assert plan.patch_size == (8, 12, 16)
    assert plan.spacing_mm == (2.5, 0.8, 0.8)
    assert plan.mirror_axes == (0, 1)
    assert plan.network.strides[1:] == ((1, 2, 2), (2, 1, 2))
    assert (plan.orientation, plan.crop, plan.nearest_slices, plan.within_range) == ("stored", "nonzero", True, True)
    rule = plan.normalisation[0]
    assert (rule.scheme, rule.lower, rule.upper, rule.mean, rule.std) == ("fixed", -300, 400, 40, 90)


def test_a_volume_on_the_networks_grid_is_answered_window_by_window(tmp_path, scan):
    """One window, one grid: the mask must be the foreign network's argmax, voxel by voxel, in the stored order."""
    torch.manual_seed(3)
    foreign = Foreign(1, 3, residual=False).eval()
    write(tmp_path / "m", plans(), networks=[foreign])
    import_nnunet(tmp_path / "m", tmp_path / "b")
    array = scan.array[:, :12, :16, :8]
    volume = Volume(array, Geometry((12, 16, 8), AFFINE))
    answer = Predictor(read_bundle(tmp_path / "b"), InferSettings(amp=False)).predict(volume)
    normal = (np.clip(array[0], -300, 400) - 40) / 90
    with torch.inference_mode():
        logits = foreign(torch.from_numpy(normal.transpose(2, 1, 0).copy())[None, None])
    assert answer.labels is not None
    np.testing.assert_array_equal(answer.labels.array, logits[0].argmax(0).numpy().transpose(2, 1, 0))
    assert len(np.unique(answer.labels.array)) == 3


def test_folds_become_an_ensemble_with_the_mean_of_their_logits(tmp_path, scan):
    networks = [Foreign(1, 3, residual=False).eval() for _ in range(3)]
    write(tmp_path / "m", plans(), networks=networks)
    import_nnunet(tmp_path / "m", tmp_path / "b")
    bundle = read_bundle(tmp_path / "b")
    assert len(bundle.weights) == 3
    volume = Volume(scan.array[:, :12, :16, :8], Geometry((12, 16, 8), AFFINE))
    answer = Predictor(bundle, InferSettings(amp=False)).predict(volume)
    window = torch.from_numpy(((np.clip(volume.array[0], -300, 400) - 40) / 90).transpose(2, 1, 0).copy())[None, None]
    with torch.inference_mode():
        mean = torch.stack([network(window) for network in networks]).mean(0)[0]
    assert answer.labels is not None
    np.testing.assert_array_equal(answer.labels.array, mean.argmax(0).numpy().transpose(2, 1, 0))
    import_nnunet(tmp_path / "m", tmp_path / "one", folds=("1",))
    assert len(read_bundle(tmp_path / "one").weights) == 1


def test_overlapping_regions_are_painted_in_their_order(tmp_path, scan):
    torch.manual_seed(5)
    foreign = Foreign(1, 2, residual=False).eval()
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    write(tmp_path / "m", plans(), networks=[foreign], labels=labels, order=[1, 2])
    import_nnunet(tmp_path / "m", tmp_path / "b")
    bundle = read_bundle(tmp_path / "b")
    assert bundle.plan.labels == {"whole_rest": 1, "core": 2}
    assert bundle.plan.regions == {"whole": (1, 2), "core": (2,)}
    volume = Volume(scan.array[:, :12, :16, :8], Geometry((12, 16, 8), AFFINE))
    answer = Predictor(bundle, InferSettings(amp=False, save_probabilities=True)).predict(volume)
    window = torch.from_numpy(((np.clip(volume.array[0], -300, 400) - 40) / 90).transpose(2, 1, 0).copy())[None, None]
    with torch.inference_mode():
        whole, core = foreign(window)[0].numpy().transpose(0, 3, 2, 1)
    expected = np.where(core > 0, 2, np.where(whole > 0, 1, 0))
    assert answer.labels is not None
    np.testing.assert_array_equal(answer.labels.array, expected)
    assert answer.probabilities is not None
    np.testing.assert_allclose(answer.probabilities[1], 1 / (1 + np.exp(-core)), atol=2e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch_size": [16, 12], "spacing": [0.8, 0.8]}, "2 axes"),
        ({"previous_stage": "3d_lowres"}, "cascade"),
        ({"normalization_schemes": ["MyNormalization"]}, "MyNormalization"),
        ({"resampling_fn_data": "my_resampler"}, "my_resampler"),
        ({"patch_size": "large"}, "patch_size"),
    ],
)
def test_what_cannot_be_taken_over_is_named(tmp_path, changes, said):
    write(tmp_path / "m", plans(**changes), networks=[Foreign(1, 3, residual=False)])
    with pytest.raises(MedsegError, match=said) as caught:
        import_nnunet(tmp_path / "m", tmp_path / "b")
    assert caught.value.code == "E-NNUNET"
    assert not (tmp_path / "b" / "bundle.json").exists()


def test_another_network_or_reader_is_named(tmp_path):
    values = plans()
    values["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "somewhere.MedNeXt"
    write(tmp_path / "m", values, networks=[Foreign(1, 3, residual=False)])
    with pytest.raises(MedsegError, match="MedNeXt"):
        import_nnunet(tmp_path / "m", tmp_path / "b")
    write(
        tmp_path / "n", {**plans(), "image_reader_writer": "NaturalImage2DIO"}, networks=[Foreign(1, 3, residual=False)]
    )
    with pytest.raises(MedsegError, match="NaturalImage2DIO"):
        import_nnunet(tmp_path / "n", tmp_path / "b")


def test_weights_of_another_network_are_refused(tmp_path):
    write(tmp_path / "m", plans(residual=True), networks=[Foreign(1, 3, residual=False)])
    with pytest.raises(MedsegError, match=r"plans\.json and the checkpoints") as caught:
        import_nnunet(tmp_path / "m", tmp_path / "b")
    assert caught.value.code == "E-NNUNET"


class Evil:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


@pytest.mark.parametrize("forced", [False, True])
def test_a_checkpoint_that_wants_to_run_code_is_refused_and_named(tmp_path, monkeypatch, forced):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    sentinel = tmp_path / "ran"
    write(tmp_path / "m", plans(), networks=[Foreign(1, 3, residual=False)], logging=Evil(sentinel))
    with pytest.raises(MedsegError, match=r"wants to run (posix|nt|os)\.system") as caught:
        import_nnunet(tmp_path / "m", tmp_path / "b")
    assert caught.value.code == "E-PICKLE"
    assert not sentinel.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "pickle", "packed"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    write(tmp_path / "m", plans(), networks=[Foreign(1, 3, residual=False)])
    path = tmp_path / "m" / "fold_0" / "checkpoint_final.pth"
    whole = path.read_bytes()
    contents = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello", "pickle": pickle.dumps({"a": 1})}
    if damage == "packed":
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new", "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        contents["packed"] = (tmp_path / "new").read_bytes()
    path.write_bytes(contents[damage])
    with pytest.raises(MedsegError) as caught:
        import_nnunet(tmp_path / "m", tmp_path / "b")
    assert caught.value.code == "E-WEIGHTS"
    assert caught.value.file == path


def test_a_folder_without_folds_or_plans_is_refused(tmp_path):
    write(tmp_path / "m", plans())
    with pytest.raises(MedsegError, match=r"no fold holds checkpoint_final\.pth"):
        import_nnunet(tmp_path / "m", tmp_path / "b")
    (tmp_path / "m" / "plans.json").write_text("{", encoding="utf-8")
    with pytest.raises(MedsegError, match="not valid JSON"):
        import_nnunet(tmp_path / "m", tmp_path / "b")
    (tmp_path / "m" / "plans.json").unlink()
    with pytest.raises(MedsegError, match=r"it has no plans\.json"):
        import_nnunet(tmp_path / "m", tmp_path / "b")


def test_an_inherited_configuration_is_followed(tmp_path):
    write(tmp_path / "m", plans(), networks=[Foreign(1, 3, residual=False)], init_args={"configuration": "3d_small"})
    import_nnunet(tmp_path / "m", tmp_path / "b")
    assert read_bundle(tmp_path / "b").plan.patch_size == (12, 16, 8)
    write(tmp_path / "n", plans(), networks=[Foreign(1, 3, residual=False)], init_args={"configuration": "none"})
    with pytest.raises(MedsegError, match="configuration 'none' is not defined"):
        import_nnunet(tmp_path / "n", tmp_path / "b")
