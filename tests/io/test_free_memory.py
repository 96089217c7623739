from __future__ import annotations

import sys

import pytest

from medseg.io import free_memory as module
from medseg.io.free_memory import free_memory

MIB = 2**20


@pytest.fixture(autouse=True)
def on_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")


def _root(folder, *, group="0::/\n", available_kib=4 * 1024, files=()):
    for path, text in [
        ("proc/meminfo", f"MemTotal: 9999 kB\nMemAvailable:   {available_kib} kB\n"),
        ("proc/self/cgroup", group),
        *files,
    ]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def _group(path, most, used, inactive=0):
    stat = f"anon 5\ninactive_file {inactive}"
    return [(f"{path}/memory.{name}", f"{text}\n") for name, text in [("max", most), ("current", used), ("stat", stat)]]


def test_a_machine_without_limits_gives_what_it_has(tmp_path):
    assert free_memory(_root(tmp_path)) == 4 * MIB
    assert free_memory(_root(tmp_path, files=_group("sys/fs/cgroup", "max", 3 * MIB))) == 4 * MIB


def test_the_container_leaves_its_limit_less_what_it_uses_but_for_cached_files(tmp_path):
    root = _root(tmp_path, files=_group("sys/fs/cgroup", 3 * MIB, 2 * MIB, inactive=MIB // 2))
    assert free_memory(root) == 1.5 * MIB


def test_the_tightest_of_all_groups_counts(tmp_path):
    inner = _group("sys/fs/cgroup/job/step", "max", MIB) + _group("sys/fs/cgroup/job", 2 * MIB, MIB)
    assert free_memory(_root(tmp_path, group="0::/job/step\n", files=inner)) == MIB


def test_version_one_of_control_groups(tmp_path):
    files = [("sys/fs/cgroup/memory/box/memory.limit_in_bytes", f"{3 * MIB}\n")]
    files += [("sys/fs/cgroup/memory/box/memory.usage_in_bytes", f"{MIB}\n")]
    root = _root(tmp_path, group="5:cpu:/box\n3:memory:/box\n", files=files)
    assert free_memory(root) == 2 * MIB


def test_more_used_than_allowed_leaves_nothing(tmp_path):
    assert free_memory(_root(tmp_path, files=_group("sys/fs/cgroup", MIB, 2 * MIB))) == 0


def test_this_machine_has_some():
    assert free_memory() > 0


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_it_is_all_there_is(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert free_memory() > 0
    monkeypatch.delattr(module.os, "sysconf", raising=False)
    assert free_memory() == 8 * 2**30
