from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from medseg.core.case import Dataset
from medseg.core.errors import InputError, MedsegError, ModelError, UsageError
from medseg.core.geometry import Geometry
from medseg.core.settings import InferSettings
from medseg.core.volume import Volume
from medseg.data.manifest import read_manifest
from medseg.data.store import open_store
from medseg.engine import case_run, predict
from medseg.engine.backends import torch_segment
from medseg.engine.case_run import CaseRun
from medseg.engine.devices import amp_dtype, pick_device
from medseg.engine.diagnosis import _Look
from medseg.engine.predict import Predictor, load_networks
from medseg.engine.thrift import Thrift
from medseg.engine.validate import infer_case
from medseg.io.bundle import Bundle, read_bundle
from medseg.io.volumes import read_volume, write_volume
from medseg.nn.build import build_network
from medseg.ops.sliding import WindowGrid


@pytest.fixture(scope="module")
def bundle(workspace) -> Bundle:
    return read_bundle(workspace.newest_bundle())


@pytest.fixture(scope="module")
def volume(cohort) -> Volume:
    dataset: Dataset = read_manifest(cohort)
    return read_volume(dataset.cases[0].images[0])


def test_the_answer_lies_on_the_volumes_own_grid(bundle, volume):
    answer = Predictor(bundle, InferSettings(save_probabilities=True)).predict(volume)
    assert answer.labels is not None
    assert answer.labels.geometry is volume.geometry
    assert set(np.unique(answer.labels.array)) <= {0, 1, 2}
    assert answer.probabilities is not None
    assert answer.probabilities.shape == (3, *volume.geometry.shape)
    assert np.allclose(answer.probabilities.astype(float).sum(0), 1, atol=5e-3)
    ranked = np.sort(answer.probabilities.astype(float), axis=0)
    is_tied = ranked[-1] - ranked[-2] < 1e-3
    assert is_tied.mean() < 0.1
    assert ((answer.probabilities.argmax(0) == answer.labels.array) | is_tied).all()
    (head,) = answer.classes
    assert set(answer.classes[head]) == {"benign", "malignant"}
    assert sum(answer.classes[head].values()) == pytest.approx(1, abs=1e-5)


def test_the_same_patient_on_a_flipped_and_permuted_grid_gets_the_same_mask(bundle, volume):
    predictor = Predictor(bundle, InferSettings(amp=False))
    straight = predictor.predict(volume).labels
    geometry = volume.geometry
    matrix = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]], dtype=float)
    matrix[:3, 3] = [geometry.shape[0] - 1, 0, geometry.shape[2] - 1]
    turned_grid = Geometry((geometry.shape[1], geometry.shape[0], geometry.shape[2]), geometry.affine @ matrix)
    turn = lambda array: np.flip(array.swapaxes(-3, -2), (-2, -1))  # noqa: E731
    turned = predictor.predict(Volume(turn(volume.array), turned_grid)).labels
    assert straight is not None
    assert turned is not None
    assert (turned.array == turn(straight.array)).mean() > 0.9999


def test_mirrored_copies_change_little_and_need_no_pairs(bundle, volume):
    plain = Predictor(bundle, InferSettings()).predict(volume)
    plan = bundle.plan.model_copy(update={"mirror_axes": (0,)})
    mirrored = Predictor(Bundle(bundle.folder, bundle.manifest, plan, bundle.weights), InferSettings(tta=True))
    answer = mirrored.predict(volume)
    assert plain.labels is not None
    assert answer.labels is not None
    assert answer.labels.array.shape == plain.labels.array.shape
    assert not [flag for flag in answer.flags if flag.startswith("W-NO-MIRROR")]


def test_mirrored_copies_of_a_model_that_never_saw_any_are_told(bundle, volume):
    plan = bundle.plan.model_copy(update={"mirror_axes": ()})
    asked = Predictor(Bundle(bundle.folder, bundle.manifest, plan, bundle.weights), InferSettings(tta=True))
    plain = Predictor(Bundle(bundle.folder, bundle.manifest, plan, bundle.weights), InferSettings())
    assert [flag.split(":")[0] for flag in asked.predict(volume).flags] == ["W-NO-MIRROR"]
    assert not plain.predict(volume).flags


def test_the_diagnosis_hardly_depends_on_the_tiling(bundle, volume):
    answers = [
        Predictor(bundle, InferSettings(overlap=overlap, amp=False)).predict(volume).classes["lesion_type"]["benign"]
        for overlap in (0.0, 0.3, 0.6)
    ]
    assert max(answers) - min(answers) < 0.05


def _pooling_otherwise(pooling, bundle):
    """The bundle's network with another pooling, and its plan."""
    diagnosis = bundle.plan.classification.model_copy(update={"pooling": pooling})
    plan = bundle.plan.model_copy(update={"classification": diagnosis})
    network = build_network(plan, seed=0).eval()
    trained = {name: value for name, value in bundle.weights[0].items() if name.startswith("unet.")}
    network.load_state_dict(trained, strict=False)
    network.head.heads["lesion_type"].weight.data *= 10
    return network, plan


def _answer(network, plan, image, *, overlap=0.0):
    segments = [torch_segment(network, None)]
    with torch.inference_mode():
        _, classes, _ = infer_case([network], image, plan, segments=segments, overlap=overlap)
    return classes["lesion_type"]["benign"]


@pytest.mark.parametrize(("pooling", "most"), [("global", 0.05), ("attention", 0.0)])
def test_nor_does_it_with_another_pooling(pooling, most, bundle, workspace):
    store = open_store(workspace.store)
    network, plan = _pooling_otherwise(pooling, bundle)
    image = store.load(store.index.cases[0].id).image.float()
    answers = [_answer(network, plan, image, overlap=overlap) for overlap in (0.0, 0.3, 0.6)]
    assert max(answers) - min(answers) <= most


@pytest.mark.parametrize("pooling", ["global", "attention"])
def test_attention_reads_all_of_a_case_and_other_poolings_a_view(pooling, bundle, workspace, monkeypatch):
    """What stands in the corners of a case lies outside a view of its middle."""
    store = open_store(workspace.store)
    network, plan = _pooling_otherwise(pooling, bundle)
    image = store.load(store.index.cases[0].id).image.float()
    monkeypatch.setattr(case_run, "_centre", lambda _: (np.array(image.shape[1:]) - 1) / 2)
    plain, moved = _answer(network, plan, image), []
    for ends in ((slice(0, 3),) * 3, (slice(-3, None),) * 3):
        marked = image.clone()
        marked[(slice(None), *ends)] = 9 * torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(1))
        moved.append(abs(_answer(network, plan, marked) - plain))
    assert all(moved) if pooling == "attention" else not any(moved)


def test_a_case_that_gathers_is_described_for_the_last_fit_as_at_inference(bundle, workspace):
    store = open_store(workspace.store)
    network, plan = _pooling_otherwise("attention", bundle)
    case = store.load(store.index.cases[0].id)
    look = _Look(network, plan, torch.device("cpu"), None, num_views=2)
    found = look.described(case, np.random.default_rng(0))
    grid = WindowGrid.over(case.entry.shape, plan.patch_size, 0.5)
    run = CaseRun([network], case.image.float(), plan, segments=[], grid=grid)
    with torch.inference_mode():
        expected = network.describe(*run.views())
    torch.testing.assert_close(found[:1], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[1:], expected, atol=1e-2)


def test_a_wrong_number_of_channels_is_refused(bundle, volume, tmp_path):
    double = Volume(np.repeat(volume.array, 2, axis=0), volume.geometry)
    with pytest.raises(ModelError, match=r"one channel \(CT\); the input has 2") as caught:
        Predictor(bundle, InferSettings()).predict(double)
    assert caught.value.code == "E-CHANNELS"
    write_volume(double, tmp_path / "double.nii.gz")
    with pytest.raises(InputError, match=r"The model takes one channel \(CT\)"):
        Predictor(bundle, InferSettings()).predict(tmp_path / "double.nii.gz")


def test_x08_an_answer_that_is_not_finite_is_refused(bundle, volume):
    spoiled = {name: torch.full_like(value, torch.nan) for name, value in bundle.weights[0].items()}
    broken = Bundle(bundle.folder, bundle.manifest, bundle.plan, (spoiled,))
    with pytest.raises(ModelError) as caught:
        Predictor(broken, InferSettings()).predict(volume)
    assert caught.value.code == "E-NUMERIC"


def test_weights_of_another_layout_are_refused_with_the_version_that_made_them(bundle):
    fewer = dict(list(bundle.weights[0].items())[1:])
    provenance = bundle.manifest.provenance.model_copy(update={"medseg_version": "0.0.7", "created": "2025-03-04T05"})
    manifest = bundle.manifest.model_copy(update={"provenance": provenance})
    with pytest.raises(ModelError, match=r"another version of it \(0\.0\.7, on 2025-03-04\)") as caught:
        Predictor(Bundle(bundle.folder, manifest, bundle.plan, (fewer,)), InferSettings())
    assert caught.value.code == "E-WEIGHTS"


def test_a_volume_smaller_than_a_voxel_of_the_network_keeps_its_grid(bundle, volume):
    tiny = Volume(volume.array[:, :3, :3, :3], volume.geometry.cropped((0, 0, 0), (3, 3, 3)))
    answer = Predictor(bundle, InferSettings()).predict(tiny)
    assert answer.labels is not None
    assert answer.labels.array.shape == (3, 3, 3)


def test_half_precision_is_never_fp16_on_a_cpu():
    assert amp_dtype(torch.device("cpu"), enabled=True) in {None, torch.bfloat16}
    assert amp_dtype(torch.device("cpu"), enabled=False) is None


@pytest.mark.parametrize("name", ["cuda:99", "toaster", "xla"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(UsageError, match=name) as caught:
        pick_device(name)
    assert caught.value.code == "E-DEVICE"


@pytest.mark.parametrize("rungs", [1, 2, 3, 4])
def test_a_case_too_large_goes_down_the_ladder(rungs, bundle, volume, monkeypatch):
    """Every rung gives the same answer within rounding; below the last one the refusal says what to do."""
    plain = Predictor(bundle, InferSettings(amp=False)).predict(volume)
    predictor = Predictor(bundle, InferSettings(amp=False))
    monkeypatch.setattr(predictor, "_rungs", tuple(Thrift))
    answered, tried = predictor._answer, []

    def scarce(prepared, thrift, watch, sink, *, clinical):
        tried.append(thrift)
        if len(tried) <= rungs:
            raise torch.OutOfMemoryError("no more")
        return answered(prepared, thrift, watch, sink, clinical=clinical)

    monkeypatch.setattr(predictor, "_answer", scarce)
    if rungs == 4:
        with pytest.raises(MedsegError, match="does not hold a case of") as caught:
            predictor.predict(volume)
        assert (caught.value.code, caught.value.exit_code) == ("E-MEMORY", 6)
        return
    answer = predictor.predict(volume)
    assert tried == list(Thrift)[: rungs + 1]
    assert answer.flags[0].startswith("W-MEMORY")
    assert answer.labels is not None
    assert plain.labels is not None
    assert (answer.labels.array == plain.labels.array).mean() > 0.9999
    assert answer.classes["lesion_type"] == pytest.approx(plain.classes["lesion_type"], abs=1e-5)
    assert plain.flags == ()


@pytest.mark.parametrize("thrift", [Thrift.ONE_WINDOW, Thrift.STITCH_ON_CPU])
def test_on_every_rung_the_probabilities_are_the_same(thrift, bundle):
    plan, network = bundle.plan, build_network(bundle.plan).eval()
    network.load_state_dict(bundle.weights[0])
    size = tuple(edge + 5 for edge in plan.patch_size)
    image = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    answers = []
    for rung in (Thrift.NONE, thrift):
        with torch.inference_mode():
            logits, classes, _ = infer_case(
                [network], image, plan, segments=[torch_segment(network, None)], overlap=0.5, thrift=rung
            )
        answers.append((logits.softmax(0), classes["lesion_type"]))
    (expected, known), (found, told) = answers
    assert float((found - expected).abs().max()) < 1e-5
    assert told == pytest.approx(known, abs=1e-5)


def test_an_error_that_is_not_about_memory_is_not_swallowed(bundle, volume, monkeypatch):
    predictor = Predictor(bundle, InferSettings())

    def broken(prepared, thrift, watch, sink, *, clinical):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(predictor, "_answer", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        predictor.predict(volume)


def test_threads_share_a_predictor_and_the_block_closes_it(bundle, volume):
    with Predictor(bundle.folder, InferSettings(amp=False)) as predictor:
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(predictor.predict, [volume] * 3))
        from_array = predictor.predict(volume.array, affine=volume.geometry.affine)
    masks = [answer.labels.array for answer in (*answers, from_array)]
    assert all((mask == masks[0]).all() for mask in masks)
    with pytest.raises(MedsegError) as caught:
        predictor.predict(volume)
    assert caught.value.code == "E-CLOSED"


def test_what_one_window_frees_is_kept_for_the_next_until_the_case_ends(bundle, volume, monkeypatch):
    told = []

    @contextmanager
    def kept(device):
        told.append(device.type)
        yield
        told.append("given back")

    monkeypatch.setattr(predict, "freed_memory_kept", kept)
    with Predictor(bundle) as predictor:
        predictor.predict(volume)
    assert told == [predictor.device.type, "given back"]


def test_the_described_features_are_what_the_answer_comes_from(bundle, volume):
    """The head, given them, answers as the prediction does; nobody pays for them who does not ask."""
    predictor = Predictor(bundle, InferSettings(amp=False, device="cpu"), describe=True)
    answer = predictor.predict(volume)
    assert answer.features is not None
    (network,) = load_networks(bundle)
    logits = network.head(torch.from_numpy(answer.features)[None])
    for head, probabilities in answer.classes.items():
        assert torch.softmax(logits[head][0], dim=0).tolist() == pytest.approx(list(probabilities.values()), abs=1e-5)
    assert Predictor(bundle, InferSettings(amp=False, device="cpu")).predict(volume).features is None
