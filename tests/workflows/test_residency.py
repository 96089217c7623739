from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch

from medseg.core.settings import TrainSettings
from medseg.data.residency import GIB, Residency
from medseg.data.store import open_store
from medseg.engine import train as engine
from medseg.engine.ahead import Ahead
from medseg.engine.journal import LOG, read_log
from medseg.io.bundle import read_bundle
from medseg.planning.memory import step_bytes
from medseg.workflows import residency as module
from medseg.workflows.forecast import forecast_train
from medseg.workflows.residency import residency_of
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
    monkeypatch.setattr(module, "free_memory", lambda: 2 * size)
    assert _of(place).place == "ram"
    assert _of(place).data_gib == size / GIB
    monkeypatch.setattr(module, "free_memory", lambda: 2 * size - 2)
    assert _of(place).place == "files"
    monkeypatch.setattr(module, "free_memory", lambda: 2 * size)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # each process holds all cases
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
