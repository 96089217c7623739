"""Weights survive the trip exactly, and any changed bit is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medseg.core.errors import InputError, ModelError
from medseg.io.files import sha256_of
from medseg.io.weights import load_metadata, load_tensors, save_tensors, verify_sha256

TENSORS = {
    "a.weight": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).transpose(0, 2),
    "b": torch.tensor(7, dtype=torch.int64),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "none": torch.zeros(0),
}


def test_round_trip(tmp_path):
    save_tensors(tmp_path / "w.safetensors", TENSORS, {"epoch": "3"})
    loaded = load_tensors(tmp_path / "w.safetensors")
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert load_metadata(tmp_path / "w.safetensors") == {"epoch": "3"}


def test_files_of_other_writers_are_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    assert torch.equal(load_tensors(tmp_path / "w.safetensors")["a"], torch.ones(2))


def test_every_damage_is_found(tmp_path):
    path = tmp_path / "w.safetensors"
    save_tensors(path, TENSORS)
    whole = path.read_bytes()
    rng = np.random.default_rng(3)
    for trial in range(120):
        data = bytearray(whole)
        at = int(rng.integers(8, len(data)))
        data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data if trial % 2 else whole[:at])
        try:
            loaded = load_tensors(path)
        except ModelError as error:
            assert (error.code, error.file) == ("E-WEIGHTS", path)  # noqa: PT017
            continue
        # the name of the digest was hit: read as a file without one, and whole
        assert whole.find(b"sha256_of_tensors") <= at < whole.find(b"sha256_of_tensors") + 17
        assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())


def test_a_pickle_is_not_loaded(tmp_path):
    torch.save(TENSORS, tmp_path / "w.pt")
    for load in (load_tensors, load_metadata):
        with pytest.raises(ModelError) as caught:
            load(tmp_path / "w.pt")
        assert caught.value.code == "E-WEIGHTS"


def test_missing(tmp_path):
    with pytest.raises(InputError) as caught:
        load_tensors(tmp_path / "w.safetensors")
    assert caught.value.code == "E-NOT-FOUND"


def test_hash(tmp_path):
    save_tensors(tmp_path / "w.safetensors", TENSORS)
    verify_sha256(tmp_path / "w.safetensors", sha256_of(tmp_path / "w.safetensors").upper())
    with pytest.raises(ModelError) as caught:
        verify_sha256(tmp_path / "w.safetensors", "0" * 64)
    assert caught.value.code == "E-HASH"
