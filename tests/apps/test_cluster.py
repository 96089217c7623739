"""The token of a Ray cluster, and each worker's share of it."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from medseg.apps import cluster
from medseg.core.errors import UsageError


def test_a_cluster_without_a_token_is_refused(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        cluster._secured("10.0.0.1:6379", tmp_path)
    assert caught.value.code == "E-RAY-TOKEN"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert cluster._secured("10.0.0.1:6379", tmp_path)["RAY_AUTH_MODE"] == "token"


def test_workers_of_this_machine_get_a_token_that_nobody_else_can_read(tmp_path):
    words = cluster._secured(None, tmp_path)
    token = Path(words["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64
    assert words["RAY_AUTH_MODE"] == "token"
    assert words["RAY_USAGE_STATS_ENABLED"] == "0"
    assert words["RAY_worker_niceness"] == "0"
    assert cluster._secured(None, tmp_path)["RAY_AUTH_TOKEN_PATH"] == str(token)


def test_workers_share_processors_and_gpus_evenly_and_leave_room_to_stand_by():
    def ray(cpu, gpu=0.0, smallest=None):
        nodes = [{"Alive": True, "Resources": {"CPU": smallest or cpu}}]
        return SimpleNamespace(cluster_resources=lambda: {"CPU": cpu, "GPU": gpu}, nodes=lambda: nodes)

    share = cluster.share_of_cluster
    assert share(ray(16), 2, is_ours=True, with_gpu=True) == {"num_cpus": 4, "num_gpus": 0.0}
    assert share(ray(16), 2, is_ours=False, with_gpu=False) == {"num_cpus": 8, "num_gpus": 0.0}
    assert share(ray(16, 1.0, smallest=3), 4, is_ours=False, with_gpu=True) == {"num_cpus": 3, "num_gpus": 0.25}
    assert share(ray(16, 1.0), 4, is_ours=False, with_gpu=False)["num_gpus"] == 0.0
