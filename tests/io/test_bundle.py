from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from medseg.core.errors import InputError, MedsegError, ModelError, UsageError
from medseg.core.findings import Provenance
from medseg.core.plan import Plan
from medseg.io.bundle import BundleManifest, read_bundle, write_bundle
from medseg.io.files import sha256_of
from medseg.io.weights import save_tensors, verify_sha256

PLAN = Plan.parse(
    {
        "dataset": "d",
        "channels": ["CT"],
        "labels": {"liver": 1},
        "spacing_mm": [1, 1, 2],
        "crop": "none",
        "normalisation": [{"scheme": "fixed", "lower": -100}],
        "coarse_axis": None,
        "patch_size": [8, 8, 8],
        "batch_size": 2,
        "mirror_axes": [0],
        "network": {
            "features": [4, 8],
            "strides": [[1, 1, 1], [2, 2, 2]],
            "kernels": [[3, 3, 3]] * 2,
            "blocks": [1, 1],
        },
    }
)
WEIGHTS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([1, 2, 3])}


def _write(folder, **weights):
    manifest = BundleManifest(
        name="liver",
        dataset="d",
        labels=PLAN.labels,
        heads={},
        channels=PLAN.channels,
        num_training_cases=2,
        num_validation_cases=1,
        training_cases=("a", "b"),
        validation={"dice": 0.9},
        finished=True,
        sha256={},
        provenance=Provenance(medseg_version="0", created="2026-01-01T00:00:00Z"),
    )
    return write_bundle(folder, manifest, PLAN, weights=[weights or WEIGHTS], metrics="[]\n", card="# liver\n")


@pytest.fixture
def folder(tmp_path):
    _write(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_round_trip(folder):
    bundle = read_bundle(folder)
    assert bundle.plan == PLAN
    assert bundle.weights[0].keys() == WEIGHTS.keys()
    assert all(torch.equal(bundle.weights[0][name], value) for name, value in WEIGHTS.items())
    assert (bundle.manifest.name, bundle.manifest.training_cases) == ("liver", ("a", "b"))
    assert (folder / "README.md").read_text() == "# liver\n"


def test_the_manifest_holds_the_hash_of_every_other_file(folder):
    manifest = read_bundle(folder).manifest
    others = {path.name for path in folder.iterdir()} - {"bundle.json"}
    assert manifest.sha256 == {name: sha256_of(folder / name) for name in others}
    assert manifest.provenance.weights_sha256 == manifest.sha256["weights.safetensors"]
    assert manifest.provenance.plan_sha256 == manifest.sha256["plan.json"]
    assert manifest.provenance.model == "liver"


def test_no_file_of_a_bundle_is_a_pickle(folder):
    for path in folder.iterdir():
        assert path.read_bytes()[:2] not in {b"PK", b"\x80\x02", b"\x80\x04"}


def _edit(folder, **fields):
    path = folder / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("name", ["weights.safetensors", "plan.json"])
def test_a_changed_byte_is_refused(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[-4] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read_bundle(folder)
    assert (caught.value.code, caught.value.file) == ("E-HASH", folder / name)


@pytest.mark.parametrize("data", [b"", b"not safetensors at all", b"\x80\x04pickle"])
def test_weights_that_are_none_are_refused_even_with_their_hash(folder, data):
    (folder / "weights.safetensors").write_bytes(data)
    hashes = {**read_hashes(folder), "weights.safetensors": sha256_of(folder / "weights.safetensors")}
    _edit(folder, sha256=hashes)
    with pytest.raises(ModelError) as caught:
        read_bundle(folder)
    assert caught.value.code == "E-WEIGHTS"


def read_hashes(folder):
    return json.loads((folder / "bundle.json").read_text())["sha256"]


def test_a_manifest_without_a_hash_is_refused(folder):
    hashes = read_hashes(folder)
    del hashes["plan.json"]
    _edit(folder, sha256=hashes)
    with pytest.raises(ModelError) as caught:
        read_bundle(folder)
    assert caught.value.code == "E-HASH"


def test_a_folder_without_a_manifest_is_refused(folder, tmp_path):
    (folder / "bundle.json").unlink()
    for place in (folder, tmp_path / "nowhere"):
        with pytest.raises(ModelError) as caught:
            read_bundle(place)
        assert (caught.value.code, caught.value.exit_code) == ("E-NO-MODEL", 5)


def test_a_write_that_stops_midway_leaves_the_bundle_before_it(folder, monkeypatch):
    """Out of disk, say: what was there is whole and can be read, also while the new one is being written."""

    def stop(path, tensors):
        save_tensors(path, tensors)
        assert read_bundle(folder).weights[0].keys() == WEIGHTS.keys()
        raise InputError("the disk is full", code="E-DISK-FULL")

    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr("medseg.io.bundle.save_tensors", stop)
    with pytest.raises(InputError, match="full"):
        _write(folder, c=torch.ones(2))
    assert read_bundle(folder).weights[0].keys() == WEIGHTS.keys()
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_write_that_dies_while_files_change_places_leaves_no_readable_bundle(folder, monkeypatch):
    """The manifest of the older bundle must not vouch for the newer files."""
    replace, weights = Path.replace, folder / "weights.safetensors"

    def die(path, target):
        if target == weights:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        _write(folder, c=torch.ones(2))
    with pytest.raises(ModelError) as caught:
        read_bundle(folder)
    assert caught.value.code == "E-NO-MODEL"


def test_a_killed_write_leaves_nothing_behind_for_long(folder):
    (folder / ".tmp-0123" / "new").mkdir(parents=True)
    (folder / ".tmp-4567.json").touch()
    _write(folder)
    assert not list(folder.glob(".tmp-*"))


def test_a_bundle_that_is_replaced_while_it_is_read_is_read_anew(folder, monkeypatch):
    def replaced(path, sha256):
        monkeypatch.setattr("medseg.io.bundle.verify_sha256", verify_sha256)
        _write(folder, c=torch.ones(2))
        verify_sha256(path, sha256)
        verify_sha256(folder / "weights.safetensors", manifest.sha256["weights.safetensors"])

    manifest = read_bundle(folder).manifest
    monkeypatch.setattr("medseg.io.bundle.verify_sha256", replaced)
    bundle = read_bundle(folder)
    assert bundle.weights[0].keys() == {"c"}
    assert bundle.manifest.sha256 != manifest.sha256


def test_a_missing_file_is_named(folder):
    (folder / "plan.json").unlink()
    with pytest.raises(MedsegError, match=r"plan\.json: does not exist"):
        read_bundle(folder)


def test_writing_again_replaces(folder):
    _write(folder, c=torch.ones(2))
    assert [list(member) for member in read_bundle(folder).weights] == [["c"]]


def test_a_bundle_of_a_later_version_is_refused(folder):
    _edit(folder, schema_version=2)
    with pytest.raises(UsageError, match="schema_version"):
        read_bundle(folder)


def test_the_fingerprint_travels_with_the_model_and_is_verified(workspace):
    bundle = read_bundle(workspace.newest_bundle())
    assert bundle.fingerprint is not None
    assert {case.id for case in bundle.fingerprint.cases} >= set(bundle.manifest.training_cases)
    assert "fingerprint.json" in bundle.manifest.sha256


def test_a_model_without_a_fingerprint_is_read_and_a_changed_one_is_refused(folder, workspace, tmp_path):
    assert read_bundle(folder).fingerprint is None
    shutil.copytree(workspace.newest_bundle(), tmp_path / "copy")
    with (tmp_path / "copy" / "fingerprint.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ModelError) as caught:
        read_bundle(tmp_path / "copy")
    assert caught.value.code == "E-HASH"
