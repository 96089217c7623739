"""What OpenVINO is given answers as torch does at the window's size, however little of it the network was shown."""

from __future__ import annotations

import pytest
import torch

from medseg.core.plan import NetworkPlan
from medseg.engine.export_formats import KINDS
from medseg.engine.graphs import write_openvino
from medseg.engine.openvino_core import openvino_core
from medseg.engine.segment import Finest, FinestFeatures, shown_by
from medseg.nn.build import build_segmenter
from medseg.nn.network import UNet

STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
WINDOW = (6, 12, 17)  # not divided by the strides, nor by their half


def _unet(kind):
    torch.manual_seed(0)
    plan = NetworkPlan(
        kind=kind,
        features=(4, 6, 8),
        strides=STRIDES,
        kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        blocks=(1, 1, 1),
        decoder_blocks=1,
        deep_supervision=True,
    )
    unet = build_segmenter(plan, 2, 3).eval()
    assert isinstance(unet, UNet)
    return unet


@pytest.mark.parametrize(("kind", "half"), [("plain", Finest), ("residual", FinestFeatures)])
def test_a_network_that_was_shown_little_answers_at_full_size(kind, half, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    from openvino_telemetry.main import Telemetry

    monkeypatch.setattr(Telemetry, "send_event", lambda *_: pytest.fail("it told its makers"))
    module, window = half(_unet(kind)).to(memory_format=torch.channels_last_3d), torch.randn(1, 2, *WINDOW)
    assert shown_by(module, window).shape == (1, 2, 3, 5, 5)
    with torch.no_grad():
        expected = module(window)
    write_openvino(module, [window], tmp_path / "network.xml")
    [found] = KINDS["openvino"].load(tmp_path / "network.xml")(window)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert list(openvino_core().read_model(tmp_path / "network.xml").inputs[0].shape) == [1, 2, *WINDOW]


def test_other_modules_are_shown_all():
    window = torch.zeros(1, 2, *WINDOW)
    assert shown_by(torch.nn.Identity(), window) is window


class Shrunk(torch.nn.Module):
    """To one voxel, by a pool whose size follows from the input's."""

    def forward(self, x):
        return torch.nn.functional.avg_pool3d(x, list(x.shape[2:]))


def test_a_size_that_follows_from_the_inputs_is_one_number(tmp_path):
    pytest.importorskip("openvino")
    window = torch.randn(1, 2, *WINDOW)
    write_openvino(Shrunk(), [window], tmp_path / "network.xml", input_names=["window"], output_names=["mean"])
    [found] = KINDS["openvino"].load(tmp_path / "network.xml")(window)
    torch.testing.assert_close(found, Shrunk()(window))
    graph = openvino_core().read_model(tmp_path / "network.xml")
    assert [port.any_name for port in (*graph.inputs, *graph.outputs)] == ["window", "mean"]


class Spectrum(torch.nn.Module):
    """Nothing that a runtime knows."""

    def forward(self, x):
        return torch.linalg.eigvals(x[0, 0, :, :6, :6]).real


def test_what_it_cannot_express_is_said(tmp_path):
    pytest.importorskip("openvino")
    with pytest.raises(RuntimeError, match=r"OpenVINO cannot express it: No conversion rule .* aten::linalg_eigvals"):
        write_openvino(Spectrum(), [torch.zeros(1, 2, *WINDOW)], tmp_path / "network.xml")
    assert not list(tmp_path.iterdir())
