"""Other runtimes answer as torch does, are measured before they are chosen, and are refused when they do not."""

from __future__ import annotations

import gc
import logging
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from medseg.core.errors import MedsegError, ModelError
from medseg.core.settings import InferSettings
from medseg.engine import backends, calibration
from medseg.engine.backends import Backends, torch_segment
from medseg.engine.graphs import write_onnx
from medseg.engine.predict import Predictor
from medseg.engine.segment import Finest
from medseg.io.bundle import read_bundle
from medseg.io.volumes import read_volume
from medseg.nn.build import build_network

NUM_WINDOWS = 48


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "medseg"


@pytest.fixture(scope="module")
def bundle(workspace):
    return read_bundle(workspace.newest_bundle())


@pytest.fixture
def network(bundle):
    network = build_network(bundle.plan).eval()
    network.load_state_dict(bundle.weights[0])
    return network


@pytest.fixture
def window(bundle):
    return torch.randn(1, 1, *bundle.plan.patch_size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def volume(cohort):
    return read_volume(min((cohort.parent / "images").glob("*.nii.gz")))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("name", ["openvino", "onnx", pytest.param("compiled", marks=pytest.mark.slow)])
def test_the_answer_is_that_of_torch(name, network, window):
    if name == "compiled" and not shutil.which("g++"):
        pytest.skip("torch.compile needs g++ on a CPU")
    if name in calibration.PACKAGES:
        pytest.importorskip(calibration.PACKAGES[name])
    expected = torch_segment(network, None)(window)
    [segment] = Backends([network], name, dtype=None, key="k").segments(window, NUM_WINDOWS)
    two = torch.cat([window, window.flip(2)])
    torch.testing.assert_close(segment(window), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(segment(two)[:1], expected, rtol=1e-3, atol=1e-3)
    assert segment(two).shape == (2, *expected.shape[1:])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("name", ["torch", "openvino", "onnx"])
def test_bf16_does_not_blur_the_image(name, network, window):
    """Around 4 it knows every 32nd; a network that looks for edges sees contrasts, however small."""
    if name in calibration.PACKAGES:
        pytest.importorskip(calibration.PACKAGES[name])
    with torch.no_grad():
        weight = network.unet.first.convolution.weight
        weight.sub_(weight.mean((2, 3, 4), keepdim=True))
    image = 4 + window / 64
    expected, blurred = (torch_segment(network, None)(one) for one in (image, image.bfloat16().float()))
    [segment] = Backends([network], name, dtype=torch.bfloat16, key="k").segments(image, NUM_WINDOWS)
    error, error_of_blur = ((one - expected).norm() / expected.norm() for one in (segment(image), blurred))
    assert error < error_of_blur / 2


@pytest.mark.parametrize(("amp", "share"), [(False, 0.9999), (True, 0.95)])
def test_a_case_gets_the_same_mask(amp, share, bundle, volume):
    pytest.importorskip("openvino")
    answers = [
        Predictor(bundle, InferSettings(backend=name, amp=amp)).predict(volume) for name in ("torch", "openvino")
    ]
    masks = [answer.labels.array for answer in answers]
    assert np.mean(masks[0] == masks[1]) > share
    assert answers[0].classes["lesion_type"] == pytest.approx(answers[1].classes["lesion_type"], abs=0.1)


def test_a_short_task_is_not_worth_trying_others(network, window, cache):
    chosen = Backends([network], "auto", dtype=None, key="k")
    chosen.segments(window, 1)
    assert chosen.name == "torch"
    assert not list(cache.glob("backends/*.json"))


@pytest.fixture
def trials(monkeypatch):
    """What is built and run, in turn, by backends that need no runtime: seconds per window by name, to be filled."""
    measured, ran = {}, []

    def timed(segments, window):
        ran.append(segments[0])
        return [torch.ones(1)], measured[segments[0]]

    monkeypatch.setattr(Backends, "_members", lambda _self, name, _example: [name])
    monkeypatch.setattr(backends, "timed", timed)
    monkeypatch.setattr(backends, "find_spec", lambda _: True)
    return measured, ran


@pytest.mark.parametrize("fastest", ["openvino", "onnx", "torch"])
def test_the_fastest_is_chosen_and_remembered(fastest, network, window, trials, cache):
    measured, ran = trials
    measured |= {"torch": 3.0, "openvino": 3.5, "onnx": 3.2, fastest: 1.0}
    chosen = Backends([network], "auto", dtype=None, key="k")
    assert chosen.segments(window, NUM_WINDOWS) == [fastest]
    assert (chosen.name, set(ran)) == (fastest, {"torch", "openvino", "onnx"})
    ran.clear()
    again = Backends([network], "auto", dtype=None, key="k")
    assert again.segments(window, 1) == [fastest]
    assert ran == []
    assert {path.suffix for path in cache.glob("backends/*")} == {".json"}


def test_what_does_not_beat_torch_clearly_is_run_again_beside_it(network, window, trials, monkeypatch):
    _, ran = trials
    left = {"torch": [3.0, 4.0], "openvino": [9.0, 2.0]}  # seconds of one run after the other

    def timed(segments, window):
        ran.append(segments[0])
        return [torch.ones(1)], left[segments[0]].pop(0)

    monkeypatch.setattr(backends, "timed", timed)
    chosen = Backends([network], "auto", dtype=torch.bfloat16, key="k")
    assert chosen.segments(window, NUM_WINDOWS) == ["openvino"]
    assert ran == ["torch", "openvino", "torch", "openvino"]


@pytest.mark.parametrize(("openvino_s", "fastest"), [(1.0, "openvino"), (4.0, "torch")])
def test_a_runtime_without_reduced_precision_is_not_tried_beside_one_that_has_it(
    openvino_s, fastest, network, window, trials
):
    measured, ran = trials
    measured |= {"torch": 3.0, "openvino": openvino_s}
    chosen = Backends([network], "auto", dtype=torch.bfloat16, key="k")
    assert chosen.segments(window, NUM_WINDOWS) == [fastest]
    assert ran[:2] == ["torch", "openvino"]
    assert "onnx" not in ran


def test_a_short_first_run_of_torch_is_repeated_and_one_of_a_clear_winner_is_not(network, window, trials):
    measured, ran = trials
    measured |= {"torch": 0.9, "openvino": 0.3, "onnx": 0.5}
    assert Backends([network], "auto", dtype=None, key="k").segments(window, NUM_WINDOWS) == ["openvino"]
    assert ran == ["torch", "torch", "openvino", "onnx"]


def test_torch_is_measured_once_for_many_small_cases_and_the_others_at_the_first_large_one(network, window, trials):
    measured, ran = trials
    measured |= {"torch": 3.0, "openvino": 1.0, "onnx": 2.0}
    several = Backends([network], "auto", dtype=None, key="k")
    assert [several.segments(window, 2) for _ in range(3)] == [["torch"]] * 3
    assert ran == ["torch"]
    assert several.segments(window, NUM_WINDOWS) == ["openvino"]
    assert ran == ["torch", "torch", "openvino", "onnx"]  # torch again, for its answer to this window


def test_a_runtime_that_answers_otherwise_is_left_out(network, window, monkeypatch, caplog):
    monkeypatch.setattr(backends, "_openvino", lambda *_: torch.zeros_like)
    monkeypatch.setattr(backends, "_onnx", lambda *_: torch_segment(network, None))
    monkeypatch.setattr(backends, "_WORTH_TRYING_S", 0.0)
    monkeypatch.setattr(backends, "find_spec", lambda _: True)
    chosen = Backends([network], "auto", dtype=None, key="k")
    [segment] = chosen.segments(window, NUM_WINDOWS)
    assert chosen.name in {"torch", "onnx"}
    assert torch.equal(segment(window), torch_segment(network, None)(window))
    assert "openvino is not used" in caplog.text


def test_what_was_fastest_before_gives_way_to_torch_where_it_is_wrong(network, window, cache, monkeypatch, caplog):
    monkeypatch.setattr(calibration, "recall", lambda *_: {"fastest": "onnx"})
    monkeypatch.setattr(backends, "_onnx", lambda *_: torch.zeros_like)
    monkeypatch.setattr(backends, "find_spec", lambda _: True)
    chosen = Backends([network], "auto", dtype=None, key="k")
    segment = chosen.segments(window, NUM_WINDOWS)[0]
    assert chosen.name == "torch"
    assert torch.equal(segment(window), torch_segment(network, None)(window))
    assert "onnx is not used" in caplog.text


def test_a_compiler_that_fails_is_named_with_its_cure(network, window, monkeypatch):
    def failing(windows):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda _: failing)
    with pytest.raises(ModelError, match=r"torch.compile failed: no C\+\+ compiler found") as caught:
        Backends([network], "compiled", dtype=None, key="k").segments(window, NUM_WINDOWS)
    assert caught.value.code == "E-BACKEND"
    assert "--backend torch" in caught.value.remedy


def test_a_network_that_a_runtime_cannot_express_runs_in_torch_or_is_refused(network, window, monkeypatch, caplog):
    def inexpressible(module, examples, path):
        raise RuntimeError("no rule for aten::linalg_eigvals")

    monkeypatch.setattr(backends, "write_openvino", inexpressible)
    monkeypatch.setattr(backends, "find_spec", {"openvino": True}.get)
    monkeypatch.setattr(backends, "_WORTH_TRYING_S", 0)
    chosen = Backends([network], "auto", dtype=None, key="k")
    chosen.segments(window, NUM_WINDOWS)
    assert chosen.name == "torch"
    assert "openvino is not used: the network cannot be written for it: no rule for aten::linalg_eigvals" in caplog.text
    with pytest.raises(ModelError, match="cannot be written for it: no rule") as caught:
        Backends([network], "openvino", dtype=None, key="k").segments(window, NUM_WINDOWS)
    assert (caught.value.code, caught.value.remedy) == ("E-BACKEND", "Use --backend torch.")


def test_an_answer_unlike_torchs_is_refused(network, window, monkeypatch):
    monkeypatch.setattr(backends, "_onnx", lambda *_: torch.zeros_like)
    monkeypatch.setattr(backends, "find_spec", lambda _: True)
    with pytest.raises(MedsegError, match="away from torch") as caught:
        Backends([network], "onnx", dtype=None, key="k").segments(window, NUM_WINDOWS)
    assert caught.value.code == "E-BACKEND"


def test_a_backend_is_compared_with_torch_once_for_these_weights_on_this_machine(network, window, cache, monkeypatch):
    compared = []
    monkeypatch.setattr(backends, "require_as_torch", lambda name, *_, **__: compared.append(name))
    monkeypatch.setattr(backends, "_onnx", lambda *_: torch.zeros_like)
    monkeypatch.setattr(backends, "find_spec", lambda _: True)
    for key in ("k", "k", "other weights"):
        Backends([network], "onnx", dtype=None, key=key).segments(window, NUM_WINDOWS)
    assert compared == ["onnx", "onnx"]


def test_what_was_refused_is_compared_again(network, window, cache, monkeypatch):
    monkeypatch.setattr(backends, "_onnx", lambda *_: torch.zeros_like)
    monkeypatch.setattr(backends, "find_spec", lambda _: True)
    for _ in range(2):
        with pytest.raises(MedsegError, match="away from torch"):
            Backends([network], "onnx", dtype=None, key="k").segments(window, NUM_WINDOWS)


def test_a_missing_package_is_named_with_its_cure(network, monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    with pytest.raises(MedsegError, match=r"pip install 'medseg\[openvino\]'") as caught:
        Backends([network], "openvino", dtype=None, key="k")
    assert (caught.value.code, caught.value.exit_code) == ("E-EXTRA", 2)


def test_a_damaged_compiled_network_is_made_again(network, window, cache):
    pytest.importorskip("openvino")
    expected = torch_segment(network, None)(window)
    for part in ("network.bin", "network.xml", "network.bin"):
        [segment] = Backends([network], "openvino", dtype=None, key="k").segments(window, NUM_WINDOWS)
        torch.testing.assert_close(segment(window), expected, rtol=1e-3, atol=1e-3)
        [kept] = cache.glob(f"networks/*/{part}")
        kept.write_bytes(bytes(kept.stat().st_size))
    assert cache.stat().st_mode & 0o077 == 0


def test_an_exported_network_leaves_no_copy_of_its_weights(network, window, tmp_path):
    pytest.importorskip("onnxscript")
    shapes = {parameter.shape for parameter in network.unet.parameters() if parameter.ndim == 5}

    def weights():
        gc.collect()
        return {id(each) for each in gc.get_objects() if type(each) is nn.Parameter and each.shape in shapes}

    before = weights()
    write_onnx(Finest(network.unet), [window], tmp_path / "network.onnx")
    assert weights() <= before


def test_the_answer_to_one_window_is_not_copied():
    answer = np.zeros((1, 2, 3, 3, 3), np.float32)
    assert np.shares_memory(backends._batch([answer]).numpy(), answer)
    assert backends._batch([answer, answer]).shape == (2, 2, 3, 3, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_an_answer_stays_when_the_next_window_is_asked_for(name, network, window):
    pytest.importorskip(calibration.PACKAGES[name])
    [segment] = Backends([network], name, dtype=None, key="k").segments(window, NUM_WINDOWS)
    answer = segment(window)
    before = answer.clone()
    segment(window.flip(2))
    assert torch.equal(answer, before)


def test_without_a_place_for_a_cache_it_works_all_the_same(network, window, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    [segment] = Backends([network], "openvino", dtype=None, key="k").segments(window, NUM_WINDOWS)
    torch.testing.assert_close(segment(window), torch_segment(network, None)(window), rtol=1e-3, atol=1e-3)


def test_packages_that_nothing_here_needs_are_not_asked_for(tmp_path):
    heard, onnx = [], logging.getLogger("torch.onnx")
    before, handler = onnx.level, logging.Handler()
    handler.emit = heard.append
    onnx.addHandler(handler)
    write_onnx(torch.nn.Conv3d(1, 2, 3), [torch.zeros(1, 1, 5, 5, 5)], tmp_path / "part.onnx")
    onnx.removeHandler(handler)
    assert heard == []
    assert onnx.level == before
