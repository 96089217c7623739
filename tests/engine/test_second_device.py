"""A device beside the CPU, pretended: what would fail on a GPU because of where its tensors lie fails here without one.

Tensors of the second device say that they lie on `PLACE` and are computed as on the CPU, but refuse to meet the CPU's,
as a GPU's do. torch's `meta` lends its name: the only other device whose gradients a build for the CPU follows.
"""

from __future__ import annotations

from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from medseg.core.settings import InferSettings, TrainSettings
from medseg.data.residency import Residency
from medseg.data.store import Store, open_store
from medseg.engine import case_run, machine, predict
from medseg.engine.predict import Predictor
from medseg.engine.thrift import Thrift
from medseg.engine.train import Run, fit
from medseg.nn.build import build_network

PLACE = torch.device("meta")
SETTINGS = TrainSettings(epochs=2, warmup_steps=1, elastic=True, accumulate=2, deterministic=True, amp=False)
ASKED = InferSettings(tta=True, roi=True, amp=False)
MAY_CROSS = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
MAY_BE_INDEXED_FROM_THE_CPU = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default}
# What torch.use_deterministic_algorithms refuses on a GPU, of what networks and augmentation like to use.
REFUSED = ("pool3d_backward", "pool3d_with_indices_backward", "trilinear3d_backward", "grid_sampler_3d_backward")
REFUSED += ("pad3d_backward", "nll_loss2d", "cumsum", "histc", "median", "kthvalue", "aten.put")


class Away(Tensor):
    """A tensor of the second device."""

    is_meta = False
    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Away:
        layout: dict[str, Any] = {"strides": here.stride(), "storage_offset": here.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, here.shape, dtype=here.dtype, device=PLACE, **layout)
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, _types, args=(), kwargs=None):
        return answered(operation, args, kwargs or {})

    def __getitem__(self, key):
        return super().__getitem__(with_tensors(key))

    def __setitem__(self, key, value) -> None:
        super().__setitem__(with_tensors(key), value)

    def tolist(self):
        return self.here.tolist()


class SecondDevice(TorchDispatchMode):
    """Inside it there is one; `used` names the operations that ran on it."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[str] = set()

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        return answered(operation, args, kwargs or {}, self.used)


class Generator(torch.Generator):
    """One for any device."""

    def __new__(cls, device: object = "cpu") -> Self:  # noqa: ARG004 - torch's own refuses it
        return super().__new__(cls, "cpu")


def answered(operation, args, kwargs, used: set[str] | None = None):
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    is_away, wanted = any(isinstance(leaf, Away) for leaf in given), kwargs.get("device")
    if is_away and any(leaf.ndim for leaf in given if not isinstance(leaf, Away)):  # a single number may be anywhere
        indexed = operation in MAY_BE_INDEXED_FROM_THE_CPU and isinstance(given[0], Away)
        assert operation in MAY_CROSS or indexed, f"{operation} of tensors here and there"
    there = is_away if wanted is None else torch.device(wanted) == PLACE
    if used is not None and there:
        used.add(str(operation))
    same = {id(plain(leaf)): leaf for leaf in given}  # what is changed in place
    args, kwargs = tree_map(plain, (args, kwargs))

    def placed(leaf):
        if not isinstance(leaf, Tensor) or id(leaf) in same:
            return same.get(id(leaf), leaf)
        return Away(leaf) if there else leaf

    return tree_map(placed, operation(*args, **kwargs))


def plain(leaf):
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.here if isinstance(leaf, Away) else leaf


def with_tensors(key):
    """Lists would become tensors of `meta` where no mode sees it."""
    if isinstance(key, tuple):
        return tuple(map(with_tensors, key))
    return torch.tensor(key) if isinstance(key, list) else key


@pytest.fixture
def second_device(monkeypatch):
    made = torch.tensor

    def tensor(*args, device=None, **kwargs) -> Tensor:
        return made(*args, **kwargs) if device is None else made(*args, **kwargs).to(device)

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: torch.set_grad_enabled(not mode))
    monkeypatch.setitem(case_run._VOXELS_PER_CALL, PLACE.type, case_run._VOXELS_PER_CALL["cuda"])
    for module in (machine, predict):
        monkeypatch.setattr(module, "pick_device", lambda _: PLACE)
    with SecondDevice() as device:
        yield device


@pytest.fixture
def store(workspace):
    """With a residual network, whose shortcuts' strides do not divide the patch; what it must be is undone."""
    opened = open_store(workspace.store)
    network = opened.plan.network.model_copy(update={"kind": "residual"})
    plan = opened.plan.model_copy(update={"patch_size": (18, 16, 8), "batch_size": 2, "network": network})
    yield Store(opened.folder, plan, opened.dataset, opened.index)
    torch.use_deterministic_algorithms(mode=False)
    torch.backends.cudnn.deterministic = False


@pytest.fixture
def on_the_cpu(store, tmp_path):
    """The same training there, made before there is a second device."""
    return trained(store, tmp_path / "cpu", "ram")


def trained(store, folder, place, *, stop_at=None):
    cases = [store.load(entry.id, place, PLACE) for entry in store.index.cases[:4]]

    def on_step(status) -> None:
        if status.step == stop_at:
            (folder / "stop").touch()

    folder.mkdir(exist_ok=True)
    run = Run(folder, {}, on_step, lambda *_: None, residency=Residency(place=place, data_gib=0, ram_gib=0))
    return fit(store.plan, cases, cases[:1], settings=SETTINGS, run=run)


def distance(first, second) -> float:
    """Between two networks, the statistics of their heads left out."""
    names = [name for name in first if not name.startswith("head.standardise")]
    return float(torch.cat([(first[name] - second[name]).flatten() for name in names]).norm())


def test_a_training_and_its_resumption_keep_to_their_device(on_the_cpu, store, tmp_path, second_device):
    assert not trained(store, tmp_path / "away", "gpu", stop_at=2).finished
    there = trained(store, tmp_path / "away", "ram")  # fed from memory now
    assert {"aten.grid_sampler_3d.default", "aten.convolution_backward.default"} <= second_device.used
    start = build_network(store.plan, seed=SETTINGS.seed).state_dict()
    moved, apart = (distance(on_the_cpu.weights, other) for other in (start, there.weights))
    assert apart < 0.02 * moved  # sums are rounded otherwise there
    assert not [operation for operation in second_device.used if any(name in operation for name in REFUSED)]


@pytest.fixture
def expected(workspace, cohort):
    with Predictor(workspace.newest_bundle(), ASKED) as predictor:
        return predictor.predict(next((cohort.parent / "images").glob("*0.nii.gz")))


@pytest.mark.parametrize("rung", list(Thrift))
def test_a_case_keeps_to_its_device_on_every_rung(expected, workspace, cohort, second_device, rung):
    with Predictor(workspace.newest_bundle(), ASKED, describe=True) as predictor:
        predictor._rungs = (rung,)
        found = predictor.predict(next((cohort.parent / "images").glob("*0.nii.gz")))
    assert ("aten.convolution.default" in second_device.used) == (rung != Thrift.CPU)
    assert (found.labels.array != expected.labels.array).mean() < 0.001
    assert found.classes["lesion_type"] == pytest.approx(expected.classes["lesion_type"], abs=0.001)


def test_tensors_of_two_devices_do_not_mix(second_device):
    there = torch.ones(3, device=PLACE)
    assert (there + torch.tensor(1.0)).tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(AssertionError, match="here and there"):
        there + torch.ones(3)
    assert second_device.used
