"""With more classes than features the last layer comes after the blending: the same logits, less to hold."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch

from medseg.core.plan import NetworkPlan, Normalisation, Plan
from medseg.engine import case_run
from medseg.engine.backends import Backends, torch_segment
from medseg.engine.calibration import PACKAGES
from medseg.engine.case_run import CaseRun
from medseg.engine.members import mirrored
from medseg.engine.segment import PartedSegment, num_blended, parted
from medseg.nn.build import build_network
from medseg.nn.network import Network
from medseg.ops.sliding import WindowGrid, gaussian

WINDOW, FEATURES, NUM_LABELS = (8, 12, 8), 4, 13
AIR = -2.0


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "medseg"


def _plan(**values):
    network = NetworkPlan(
        features=(FEATURES, 6), strides=((1, 1, 1), (2, 2, 2)), kernels=((3, 3, 3),) * 2, blocks=(1, 1)
    )
    return Plan(
        **{
            "dataset": "many",
            "channels": ("CT",),
            "labels": {f"organ {number}": number for number in range(1, NUM_LABELS + 1)},
            "spacing_mm": (1.0, 2.0, 1.5),
            "crop": "none",
            "normalisation": (Normalisation(scheme="fixed", lower=-100, upper=200, mean=0, std=50),),
            "coarse_axis": None,
            "patch_size": WINDOW,
            "batch_size": 2,
            "mirror_axes": (),
            "network": network,
            **values,
        }
    )


def _network(plan, seed=0):
    network = build_network(plan, seed=seed).eval()
    with torch.no_grad():
        network.unet.to_logits[-1].weight.mul_(3)
    return network


def _image(shape=(9, 20, 19)):
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(3))


def _segments(networks, dtype=None):
    return Backends(networks, "torch", dtype=dtype, key="k").segments(torch.zeros(1, 1, *WINDOW), 1)


def _blended(answer, image, overlap, num_outputs, blending="even"):
    """The weighted mean of windows that each answer with logits, in float64: nothing of this is the package's way."""
    grid = WindowGrid.over(image.shape[1:], WINDOW, overlap)
    padded = [max(size, side) for size, side in zip(image.shape[1:], WINDOW, strict=True)]
    canvas = torch.zeros(1, *padded)
    inner = tuple(slice(pad, pad + size) for pad, size in zip(grid.padding, image.shape[1:], strict=True))
    canvas[(slice(None), *inner)] = image
    total, shares = torch.zeros(num_outputs, *padded).double(), torch.zeros(padded).double()
    weight = gaussian(WINDOW, blending).double()
    for start in product(*grid.starts):
        place = tuple(slice(first, first + side) for first, side in zip(start, WINDOW, strict=True))
        with torch.no_grad():
            total[(slice(None), *place)] += weight * answer(canvas[(slice(None), *place)][None])[0].double()
        shares[place] += weight
    return (total / shares)[(slice(None), *inner)].float()


def _run(plan, segments, image, *, overlap=0.5, combine="logits", lead=0):
    grid = WindowGrid.over(image.shape[1:], WINDOW, overlap)
    run = CaseRun([], image, plan, segments=segments, grid=grid)
    with torch.inference_mode():
        return torch.cat(list(run.slabs(combine, lead=lead)), dim=1).movedim(1, lead + 1), run


def _logits(network):
    return lambda window: network.unet.decode(network.unet.encode(window), all_scales=False)[0]


@pytest.mark.parametrize("lead", [0, 1, 2])
@pytest.mark.parametrize("piece_bytes", [1, 10_000, 2**30])
def test_the_logits_are_those_of_windows_blended_class_by_class(lead, piece_bytes, monkeypatch):
    monkeypatch.setattr(case_run, "_PIECE_BYTES", piece_bytes)
    plan = _plan()
    network, image = _network(plan), _image()
    found, _ = _run(plan, _segments([network]), image, lead=lead)
    expected = _blended(_logits(network), image, 0.5, plan.num_outputs)
    assert expected.std() > 0.3
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("labels", "channels"), [(NUM_LABELS, FEATURES), (FEATURES, FEATURES), (FEATURES - 1, None)])
def test_what_is_blended_is_the_fewer(labels, channels, monkeypatch):
    plan = _plan(labels={f"organ {number}": number for number in range(1, labels + 1)})
    network, seen = _network(plan), []
    slabs = case_run.sliding_slabs

    def watched(*values, num_outputs, **options):
        seen.append(num_outputs)
        return slabs(*values, num_outputs=num_outputs, **options)

    monkeypatch.setattr(case_run, "sliding_slabs", watched)
    _run(plan, _segments([network]), _image())
    assert seen == [channels or plan.num_outputs] == [num_blended(plan.network, plan.num_outputs)]
    assert bool(parted(network.unet)) == (channels is not None)


def test_no_piece_holds_more_than_it_may(monkeypatch):
    monkeypatch.setattr(case_run, "_PIECE_BYTES", 4 * (NUM_LABELS + 1) * 20 * 19 * 2)
    plan = _plan()
    grid = WindowGrid.over((30, 20, 19), WINDOW, 0.5)
    run = CaseRun([], _image((30, 20, 19)), plan, segments=_segments([_network(plan)]), grid=grid)
    assert max(slab.shape[1] for slab in run.slabs()) == 2


@pytest.mark.parametrize("regions", [False, True])
def test_windows_of_nothing_are_background_for_certain_and_have_their_share(regions):
    values = {"regions": {f"organ {n}": (n,) for n in range(1, NUM_LABELS + 1)}} if regions else {}
    plan = _plan(skip_constant_windows=True, **values)
    network, image = _network(plan), _image((9, 20, 48))
    image[..., 13:] = AIR
    found, run = _run(plan, _segments([network]), image)
    sure = torch.full((1, plan.num_outputs, *WINDOW), -10.0)
    if not regions:
        sure[:, 0] = 10

    def answer(window):
        return sure if (window == AIR).all() else _logits(network)(window)

    assert 0 < run.skipped < run.windows
    torch.testing.assert_close(found, _blended(answer, image, 0.5, plan.num_outputs), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found[..., -1], sure[0, :, 0, 0, 0, None, None].expand_as(found[..., -1]))


@pytest.mark.parametrize("pairs", [(), (("organ 1", "organ 2"), ("organ 5", "organ 9"))])
@pytest.mark.parametrize("labels", [NUM_LABELS, 2 * FEATURES - 1])
def test_mirrored_copies_exchange_their_pairs(pairs, labels):
    names = {f"organ {number}": number for number in range(1, labels + 1)}
    pairs = tuple(pair for pair in pairs if set(pair) <= set(names))
    plan = _plan(labels=names, left_right_pairs=pairs, mirror_axes=(0, 2))
    network, image = _network(plan), _image()
    [segment] = [mirrored(one, plan) for one in _segments([network])]
    assert isinstance(segment, PartedSegment) == (not pairs or labels == NUM_LABELS)

    def answer(window):
        copies = []
        for axes in (axes for size in range(3) for axes in combinations((0, 2), size)):
            dims = [axis + 2 for axis in axes]
            one = _logits(network)(window.flip(dims)).flip(dims)
            for left, right in pairs if 0 in axes else ():
                one[:, [names[left], names[right]]] = one[:, [names[right], names[left]]]
            copies.append(one)
        return sum(copies) / 4

    found, _ = _run(plan, [segment], image)
    torch.testing.assert_close(found, _blended(answer, image, 0.5, plan.num_outputs), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(segment(image[None, :, :8, :12, :8]), answer(image[None, :, :8, :12, :8]))


@pytest.mark.parametrize("combine", ["logits", "probabilities"])
def test_members_of_which_not_all_are_parted_answer_together(combine):
    plan = _plan()
    wide = plan.model_copy(update={"network": plan.network.model_copy(update={"features": (NUM_LABELS + 1, 16)})})
    networks = [_network(plan), _network(wide, seed=1)]
    segments = _segments(networks)
    assert [isinstance(segment, PartedSegment) for segment in segments] == [True, False]
    image = _image()
    found, _ = _run(plan, segments, image, combine=combine)
    parts = [_blended(_logits(network), image, 0.5, plan.num_outputs) for network in networks]
    if combine == "logits":
        torch.testing.assert_close(found, sum(parts) / 2, atol=2e-5, rtol=1e-5)
    else:
        mean = sum(part.softmax(0) for part in parts) / 2
        torch.testing.assert_close(found.softmax(0), mean, atol=1e-5, rtol=1e-5)


def test_in_reduced_precision_the_last_layer_is_in_full():
    plan = _plan()
    network, image = _network(plan), _image()
    expected = _blended(_logits(network), image, 0.5, plan.num_outputs)
    with torch.autocast("cpu", torch.bfloat16):
        late, _ = _run(plan, _segments([network], torch.bfloat16), image)
    early, _ = _run(plan, [torch_segment(network, torch.bfloat16)], image)
    errors = [float((found - expected).norm() / expected.norm()) for found in (late, early)]
    assert late.dtype == torch.float32
    assert 0 < errors[0] < errors[1] < 0.05


@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_other_runtimes_stop_before_the_last_layer_too(name, cache):
    pytest.importorskip(PACKAGES[name])
    plan = _plan()
    network, window = _network(plan), torch.randn(2, 1, *WINDOW)
    [segment] = Backends([network], name, dtype=None, key="k").segments(window[:1], 1)
    assert isinstance(segment, PartedSegment)
    assert segment.features(window).shape == (2, FEATURES, *WINDOW)
    torch.testing.assert_close(segment(window), torch_segment(network, None)(window), rtol=1e-3, atol=1e-3)
    few = plan.model_copy(update={"labels": {"organ": 1}})
    [whole] = Backends([_network(few)], name, dtype=None, key="k").segments(window[:1], 1)
    assert whole(window).shape == (2, 2, *WINDOW)
    assert len(list(cache.glob("networks/*"))) == 2  # the halves of one network are not taken for another


def test_weights_that_change_later_are_read_as_they_are():
    plan = _plan()
    network, window = _network(plan), torch.randn(1, 1, *WINDOW)
    [segment] = _segments([network])
    before = segment(window)
    with torch.no_grad():
        network.unet.to_logits[-1].bias.add_(1)
    torch.testing.assert_close(segment(window), before + 1)


def test_networks_without_such_a_layer_stay_whole():
    plan = _plan()
    from medseg.nn.monai_networks import AttentionUNet

    foreign = plan.network.model_copy(update={"kind": "attention-unet"})
    network = Network(AttentionUNet(1, plan.num_outputs, foreign), None).eval()
    assert parted(network.unet) is None
    assert num_blended(foreign, plan.num_outputs) == plan.num_outputs
    assert parted(build_network(_plan(labels={})).unet) is None
    window = torch.randn(1, 1, 16, 16, 16)
    [segment] = _segments([network])
    assert torch.equal(segment(window), torch_segment(network, None)(window))


def test_a_last_layer_that_is_not_finite_is_refused():
    plan = _plan()
    network = _network(plan)
    with torch.no_grad():
        network.unet.to_logits[-1].bias[3] = np.nan
    with pytest.raises(case_run.ModelError) as caught:
        _run(plan, _segments([network]), _image())
    assert caught.value.code == "E-NUMERIC"
