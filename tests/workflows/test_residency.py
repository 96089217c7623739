from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch

from medseg.core.errors import ResourceError
from medseg.core.settings import TrainSettings
from medseg.data.residency import GIB, Residency
from medseg.data.store import open_store
from medseg.engine import train as engine
from medseg.engine.ahead import Ahead
from medseg.engine.journal import LOG, read_log
from medseg.io.bundle import read_bundle
from medseg.planning.memory import step_bytes
from medseg.workflows import residency as module
from medseg.workflows.forecast_train import forecast_train
from medseg.workflows.residency import require_room, residency_of
from medseg.workflows.train import RESIDENCY, train
from medseg.workflows.workspace import Workspace

SHORT = TrainSettings(epochs=1, warmup_steps=2)
IN_FILES = SHORT.model_copy(update={"ram_gib": 0.0})


@pytest.fixture
def place(workspace, tmp_path) -> Workspace:
    """A workspace of its own with the cohort's store and small patches."""
    made = Workspace(tmp_path / "work")
    made.folder.mkdir()
    shutil.copytree(workspace.store, made.store)
    path = made.store / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "patch_size": [16, 16, 8], "batch_size": 2}))
    return made


def _of(place, settings=SHORT) -> Residency:
    store = open_store(place.store)
    return residency_of(store, [case.id for case in store.index.cases], store.plan, settings)


def _store_bytes(place) -> int:
    return sum(path.stat().st_size for path in (place.store / "cases").iterdir())


def test_a_training_on_files_is_the_one_in_memory_and_may_go_on_in_the_other(place, caplog):
    caplog.set_level(logging.INFO, logger="medseg")
    kept = train(place, SHORT, name="kept")
    assert "of cases are kept in memory" in caplog.text

    threaded = []
    begin = Ahead.__init__

    def begun(self, draw, *, threaded: bool):
        told.append(threaded)
        begin(self, draw, threaded=threaded)

    told = threaded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ahead, "__init__", begun)

        def watch(status) -> None:
            if status.step == 2:
                (place.run("filed", None) / "stop").touch()

        assert not train(place, IN_FILES, name="filed", watch=watch).finished
        train(place, SHORT, name="filed")
    assert threaded == [True, False]
    filed = train(place, IN_FILES, name="whole")
    assert "kept in the files of the store" in caplog.text

    weights = [read_bundle(place.run(name, None) / "bundle").weights[0] for name in ("kept", "filed", "whole")]
    assert kept.validation == filed.validation
    for other in weights[1:]:
        assert all(torch.equal(value, other[name]) for name, value in weights[0].items())

    folder = place.run("whole", None)
    record = json.loads((folder / RESIDENCY).read_text())
    assert (record["place"], record["ram_gib"]) == ("files", 0.0)
    assert record["data_gib"] == pytest.approx(_store_bytes(place) / GIB, rel=0.4)
    notes = [line for line in read_log(folder / LOG) if line["kind"] == "data"]
    assert [(note["step"], note["place"]) for note in notes] == [(0, "files")]
    assert [line["place"] for line in read_log(place.run("filed", None) / LOG) if line["kind"] == "data"] == [
        "files",
        "ram",
    ]


def test_half_of_the_free_memory_is_taken_at_most(place, monkeypatch):
    size = _store_bytes(place)
    monkeypatch.setattr(module, "step_bytes", lambda *_, **__: 0)
    monkeypatch.setattr(module, "free_memory", lambda: 2 * size)
    assert _of(place).place == "ram"
    assert _of(place).data_gib == size / GIB
    monkeypatch.setattr(module, "free_memory", lambda: 2 * size - 2)
    assert _of(place).place == "files"
    monkeypatch.setattr(module, "free_memory", lambda: 2 * size)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # each process holds all cases
    assert _of(place).place == "files"


def _plan(place, batch_size):
    return open_store(place.store).plan.model_copy(update={"batch_size": batch_size})


def _held(place, batch_size, value_bytes=4):
    plan = _plan(place, batch_size)
    sizes = {"num_channels": 1, "num_outputs": plan.num_outputs, "value_bytes": value_bytes}
    return step_bytes(plan.network, plan.patch_size, batch_size, **sizes)


def test_a_step_that_cannot_fit_is_refused_with_the_batch_that_fits(place, monkeypatch):
    settings = SHORT.model_copy(update={"device": "cpu", "amp": False})
    monkeypatch.setattr(module, "free_memory", lambda: 1.5 * _held(place, 6))
    require_room(_plan(place, 7), settings)  # it may fit
    with pytest.raises(ResourceError, match="a step of 64 patches of 16x16x8 voxels takes at least") as caught:
        require_room(_plan(place, 64), settings)
    assert (caught.value.code, caught.value.exit_code) == ("E-MEMORY", 6)
    assert "--batch-size 6, or the whole batch in parts (--accumulate 11)" in caught.value.remedy
    require_room(_plan(place, 64), settings.model_copy(update={"accumulate": 11}))
    monkeypatch.setenv("WORLD_SIZE", "2")  # on two machines, each of which has as much
    with pytest.raises(ResourceError, match="64 patches") as caught:
        require_room(_plan(place, 64), settings)
    assert "--batch-size 12, " in caught.value.remedy


def test_a_step_is_refused_from_the_least_on_that_it_was_ever_seen_to_take(place, monkeypatch):
    settings = SHORT.model_copy(update={"device": "cpu", "amp": False})
    monkeypatch.setattr(module, "free_memory", lambda: 1.2 * _held(place, 8))
    require_room(_plan(place, 8), settings)
    monkeypatch.setattr(module, "free_memory", lambda: 1.2 * _held(place, 8) - 1)
    with pytest.raises(ResourceError):
        require_room(_plan(place, 8), settings)
    monkeypatch.setattr(module, "amp_dtype", lambda *_, **__: torch.bfloat16)
    require_room(_plan(place, 8), settings)


def test_where_not_even_one_patch_fits_a_smaller_one_is_asked_for(place, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 1000)
    with pytest.raises(ResourceError) as caught:
        require_room(_plan(place, 2), SHORT)
    assert "smaller patch_size" in caught.value.remedy


def test_a_gpu_says_itself_what_does_not_fit(place, monkeypatch):
    _on_gpu(monkeypatch, 1000)
    monkeypatch.setattr(module, "free_memory", lambda: 1000)
    require_room(_plan(place, 64), SHORT)


@pytest.mark.parametrize("verb", [train, forecast_train])
def test_it_is_refused_before_anything_is_loaded(place, monkeypatch, verb):
    monkeypatch.setattr(module, "free_memory", lambda: 1000)
    with pytest.raises(ResourceError, match="are free"):
        verb(place, SHORT)
    assert not list(place.folder.glob("runs/*/*.safetensors"))
    assert not list(place.folder.glob("runs/*/log.jsonl"))


def test_cases_leave_a_step_on_a_cpu_its_own_memory(place, monkeypatch):
    size = _store_bytes(place)
    monkeypatch.setattr(module, "step_bytes", lambda *_, **__: 10 * size)
    monkeypatch.setattr(module, "free_memory", lambda: 16 * size)  # 1.5 for each byte that a step holds
    assert _of(place).place == "ram"
    monkeypatch.setattr(module, "free_memory", lambda: 16 * size - 1)
    assert _of(place).place == "files"


def test_what_the_user_allows_is_what_is_taken(place):
    size = _store_bytes(place) / GIB
    assert _of(place, SHORT.model_copy(update={"ram_gib": size})).place == "ram"
    assert _of(place, SHORT.model_copy(update={"ram_gib": size * 0.99})).place == "files"


def _on_gpu(monkeypatch, free_bytes: float) -> None:
    monkeypatch.setattr(module, "pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free_bytes), int(free_bytes)))


def test_a_gpu_takes_the_cases_that_fit_beside_a_step_and_the_largest_answer(place, monkeypatch):
    store = open_store(place.store)
    plan, size = store.plan, _store_bytes(place)
    step = step_bytes(plan.network, plan.patch_size, 2, num_channels=1, num_outputs=plan.num_outputs)
    voxels = max(int(torch.tensor(case.shape).prod()) for case in store.index.cases)
    needed = (size + step + 4 * voxels * (1 + 2 * plan.num_outputs)) / 0.85
    _on_gpu(monkeypatch, needed * 1.001)
    assert _of(place).place == "gpu"
    _on_gpu(monkeypatch, needed * 0.999)
    assert _of(place).place == "ram"
    _on_gpu(monkeypatch, step / 2)
    assert _of(place).gpu_gib == 0


def test_cases_that_are_seen_whole_stay_off_the_gpu(place, monkeypatch):
    """It would shrink them with another rounding, and the batches would be others."""
    _on_gpu(monkeypatch, 80 * GIB)
    assert _of(place).place == "gpu"
    path = place.store / "plan.json"
    plan = json.loads(path.read_text())
    plan["classification"]["view"] = "whole"
    path.write_text(json.dumps(plan))
    assert _of(place).place == "ram"


def test_a_gpu_without_room_is_fed_by_a_thread(place):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for device, where, threaded in [
        (cpu, "ram", False),
        (cpu, "files", True),
        (gpu, "ram", True),
        (gpu, "files", True),
        (gpu, "gpu", False),
    ]:
        machine = type("Machine", (), {"device": device})()
        chosen = Residency(place=where, data_gib=1, ram_gib=1)
        with engine._ahead(None, range(2), machine, chosen) as batches:
            assert (batches._pool is not None) == threaded


def test_a_dry_run_says_where_the_cases_will_be(place):
    rows = dict(forecast_train(place, IN_FILES).rows)
    assert "in the files of the store" in rows["data"]
